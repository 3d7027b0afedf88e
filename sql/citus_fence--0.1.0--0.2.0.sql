-- What 0.2.0 changes in the SQL of 0.1.0.  A change of the extension's SQL comes with its lines here; the
-- tests in tests/upgrade/ compare what this makes of a 0.1.0 with a fresh 0.2.0.

\echo Use "ALTER EXTENSION citus_fence UPDATE TO '0.2.0'" to load this file. \quit
