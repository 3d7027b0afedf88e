-- What the extension consists of.  A difference here is a change of the API: it belongs into the
-- changelog, and into an upgrade script.
\a
\t
-- Some releases of Citus have functions of the same names and arguments: here ours are meant.
SET search_path = public, pg_catalog;
-- Since PostgreSQL 17 the row types of tables and views are members beside these.  Citus warns of a view
-- that is here alone.
SET client_min_messages = error;
CREATE TEMP VIEW members AS
SELECT d.classid, d.objid, d.objsubid
  FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'citus_fence' AND d.deptype = 'e'
   AND NOT (d.classid = 'pg_type'::regclass
            AND EXISTS (SELECT FROM pg_type t JOIN pg_class c ON c.reltype IN (t.oid, t.typelem)
                         WHERE t.oid = d.objid AND c.relkind <> 'c'));
RESET client_min_messages;

-- Functions, without the aliases: where Citus has these itself, the extension has not.
SELECT format('%s -> %s%s%s', f.oid::regprocedure, pg_get_function_result(f.oid),
              CASE WHEN f.pronargdefaults > 0 THEN ', defaults: ' || pg_get_function_arguments(f.oid) END,
              CASE WHEN f.proisstrict THEN ', strict' END)
  FROM pg_depend d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid
  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'citus_fence' AND d.deptype = 'e' AND f.proname !~ '^citus_cluster_changes_'
 ORDER BY 1;

-- Everything else.
SELECT pg_describe_object(classid, objid, objsubid) FROM members WHERE classid <> 'pg_proc'::regclass
 ORDER BY 1;

-- Who may call them.
SELECT f.oid::regproc, f.proacl
  FROM pg_depend d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid
  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'citus_fence' AND d.deptype = 'e' AND f.proname !~ '^citus_cluster_changes_'
 ORDER BY f.oid::regproc::text COLLATE "C";

-- All are volatile, run in the session itself, with the caller's rights and a safe search_path; but the plan of a
-- split calls functions of a strategy, which are to find what they find elsewhere.
SELECT DISTINCT f.provolatile, f.proparallel, f.prosecdef, f.proconfig,
       CASE WHEN f.proconfig IS NULL THEN f.proname END AS names_all_it_uses
  FROM pg_depend d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid
  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'citus_fence' AND d.deptype = 'e';

-- Nothing is without a comment, and none is left from another function.
SELECT count(*) AS without_comment FROM members
 WHERE coalesce(obj_description(objid, classid::regclass::name), '') = '';
SELECT count(*) - count(DISTINCT obj_description(objid, classid::regclass::name)) AS equal_comments
  FROM members;

-- The aliases exist, either Citus' or ours; ours have the shape and the rights of what they stand for.
SELECT alias, coalesce(to_regproc('pg_catalog.' || alias), to_regproc('public.' || alias)) IS NOT NULL
  FROM unnest(ARRAY['citus_cluster_changes_block', 'citus_cluster_changes_unblock',
                    'citus_cluster_changes_block_status']) AS alias;
SELECT count(*) AS aliases_that_differ
  FROM (VALUES ('citus_cluster_changes_block', 'citus_block_writes_for_backup'),
               ('citus_cluster_changes_unblock', 'citus_unblock_writes_for_backup'),
               ('citus_cluster_changes_block_status', 'citus_backup_block_status')) AS a(alias, target)
  JOIN pg_proc ours ON ours.oid = to_regproc('public.' || a.alias)
  JOIN pg_proc theirs ON theirs.oid = to_regproc('public.' || a.target)
 WHERE (ours.prosrc, ours.probin, ours.proargtypes::text, ours.proallargtypes, ours.proargnames,
        ours.pronargdefaults, ours.prorettype, ours.proretset, ours.proacl, ours.provolatile,
        ours.proparallel, ours.proconfig)
       IS DISTINCT FROM
       (theirs.prosrc, theirs.probin, theirs.proargtypes::text, theirs.proallargtypes, theirs.proargnames,
        theirs.pronargdefaults, theirs.prorettype, theirs.proretset, theirs.proacl, theirs.provolatile,
        theirs.proparallel, theirs.proconfig);

-- It can be created in any schema, and belongs to whoever created it.
SELECT e.extrelocatable, n.nspname, pg_get_userbyid(e.extowner), e.extconfig
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'citus_fence';
SELECT superuser, trusted, relocatable, schema, requires
  FROM pg_available_extension_versions WHERE name = 'citus_fence' AND installed;
