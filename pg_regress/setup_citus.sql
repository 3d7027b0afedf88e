-- The bank on Citus, on every node.  setup_embedded.sql has the same functions.

-- A write to two shards, which are on two nodes if the accounts are: a two-phase commit.
CREATE FUNCTION move_money(source int, target int, amount int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts SET balance = balance - amount WHERE id = source;
    UPDATE accounts SET balance = balance + amount WHERE id = target;
END
$$;

-- A write to one shard.
CREATE FUNCTION deposit(target int, amount int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts SET balance = balance + amount WHERE id = target;
END
$$;

-- A read of one shard.
CREATE FUNCTION has_balance(account int, amount int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM accounts WHERE id = account AND balance = amount);
END
$$;

-- On how many nodes somebody holds, or waits for, the fence's lock on the commit records.
CREATE FUNCTION nodes_held() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM run_command_on_all_nodes($sql$
        SELECT count(*) FROM pg_catalog.pg_locks
         WHERE locktype = 'relation' AND mode = 'ExclusiveLock'
           AND relation = 'pg_catalog.pg_dist_transaction'::pg_catalog.regclass$sql$)
        WHERE result::int > 0);
END
$$;

-- Sessions of the extension on any node, its background worker among them.
CREATE FUNCTION fence_sessions() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT sum(result::int) FROM run_command_on_all_nodes($sql$
        SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE application_name LIKE 'citus_fence%' OR backend_type LIKE 'citus_fence%'$sql$));
END
$$;

-- A table that is not distributed yet: to distribute it is a change of metadata.
DO $$
BEGIN
    IF (SELECT groupid FROM pg_dist_local_group) = 0 THEN
        CREATE TABLE later (id int PRIMARY KEY);
    END IF;
END
$$;
