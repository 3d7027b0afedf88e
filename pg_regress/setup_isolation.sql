-- For isolationtester, on the coordinator.  It asks this function whether a session waits for another of
-- its sessions, and PostgreSQL's own answer knows nothing of a background worker in between.  A built-in
-- function cannot be replaced, but can be given another name.
ALTER FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[])
    RENAME TO pg_isolation_test_session_is_blocked_by_session;

CREATE FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(pid int, sessions int[]) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN pg_isolation_test_session_is_blocked_by_session(pid, sessions)
        -- By the block that one of them has begun.
        OR (SELECT worker_pid = ANY (pg_blocking_pids(pid))
                   -- In a call whose worker is held off by one of them.
                   OR state = 'starting' AND requestor_pid = pid
                      AND pg_isolation_test_session_is_blocked_by_session(worker_pid, sessions)
              FROM public.citus_backup_block_status());
END
$$;
