-- Who may switch this node, and what that means.

REVOKE ALL ON FUNCTION alter_system_read_only(boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION alter_system_read_write() FROM PUBLIC;

COMMENT ON FUNCTION alter_system_read_only(boolean) IS
'make this node refuse every write, across restarts, until alter_system_read_write(); sessions that are writing are ended (FATAL 25006), or waited for where terminate_writers is false; returns the WAL position that no commit of this node is behind; takes effect at once, whatever becomes of the calling transaction; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 25001 in a transaction that has written, 55000 on a standby or not preloaded, 40P01 a writer that waits for the calling transaction, 55006 prepared transactions that nobody ends within citus_fence.lock_timeout, 58030 the state cannot be written to disk';
COMMENT ON FUNCTION alter_system_read_write() IS
'let this node write again after alter_system_read_only(); for superusers, and whom they GRANT EXECUTE; errors: 25001 in a transaction that has written, 55000 on a standby or not preloaded, 58030 the state cannot be removed from disk';
