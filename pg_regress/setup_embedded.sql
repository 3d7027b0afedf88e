-- The bank on the embedded catalog, on every node.  setup_citus.sql has the same functions.

-- A write to two shards, which are on two nodes if the accounts are: a two-phase commit.
CREATE FUNCTION move_money(source int, target int, amount int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_dist_execute('accounts', source::text,
        format('UPDATE %%s SET balance = balance - %s WHERE id = %s', amount, source));
    PERFORM pg_dist_execute('accounts', target::text,
        format('UPDATE %%s SET balance = balance + %s WHERE id = %s', amount, target));
END
$$;

-- A write to one shard.
CREATE FUNCTION deposit(target int, amount int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_dist_execute('accounts', target::text,
        format('UPDATE %%s SET balance = balance + %s WHERE id = %s', amount, target));
END
$$;

-- A read of one shard.
CREATE FUNCTION has_balance(account int, amount int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN pg_dist_execute('accounts', account::text,
        format('SELECT FROM %%s WHERE id = %s AND balance = %s', account, amount)) > 0;
END
$$;

-- How many rows a query gives on each node.  Workers are reached by way of an account of theirs.
CREATE FUNCTION rows_on_nodes(query text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    here bigint;
BEGIN
    EXECUTE query;
    GET DIAGNOSTICS here = ROW_COUNT;
    RETURN NEXT here;
    FOR worker IN 1..2 LOOP
        RETURN NEXT pg_dist_execute('accounts', account(worker, 1)::text, query);
    END LOOP;
END
$$;

-- On how many nodes somebody holds, or waits for, the fence's lock on the commit records.
CREATE FUNCTION nodes_held() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM rows_on_nodes($sql$
        SELECT FROM pg_catalog.pg_locks
         WHERE locktype = 'relation' AND mode = 'ExclusiveLock'
           AND relation = 'pg_catalog.pg_dist_transaction'::pg_catalog.regclass$sql$) AS node(rows)
        WHERE rows > 0);
END
$$;

-- Sessions of the extension on any node, its background worker among them.
CREATE FUNCTION fence_sessions() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    -- The transactions over there last as long as the one here, and so would what they see.
    PERFORM rows_on_nodes('SELECT pg_catalog.pg_stat_clear_snapshot()');
    RETURN (SELECT sum(rows) FROM rows_on_nodes($sql$
        SELECT FROM pg_catalog.pg_stat_activity
         WHERE application_name LIKE 'citus_fence%'
            OR backend_type LIKE 'citus_fence%'$sql$) AS node(rows));
END
$$;

-- A table that is not distributed yet: to distribute it is a change of metadata.
CREATE TABLE later (id int PRIMARY KEY);
