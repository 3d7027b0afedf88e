-- The life of one block, from its beginning to its end.
\getenv worker_1_port WORKER_1_PORT
\getenv worker_2_port WORKER_2_PORT
\getenv coordinator_port COORDINATOR_PORT
SELECT pg_backend_pid() AS me \gset

-- Before.
\pset null '(null)'
SELECT * FROM citus_backup_block_status();
SELECT * FROM citus_backup_block_nodes();
SELECT * FROM citus_backup_block_waiters();

-- Begun: with the timeout that was asked for, by this session.
SELECT citus_block_writes_for_backup(600000);
SELECT state, requestor_pid = :me AS by_me, timeout_ms, node_count, error,
       block_start_time BETWEEN now() - interval '1 min' AND now() AS started,
       expires_at - block_start_time AS lasts
  FROM citus_backup_block_status();
SELECT backend_type, a.datname = current_database() AS here, usename
  FROM citus_backup_block_status() s JOIN pg_stat_activity a ON a.pid = s.worker_pid;

-- The manifest: this node and both workers, each with what a backup of it has to reach.
SELECT groupid, nodename,
       CASE nodeport WHEN :coordinator_port THEN 'coordinator' WHEN :worker_1_port THEN 'worker 1'
                     WHEN :worker_2_port THEN 'worker 2' END AS node,
       nodeid = (SELECT n.nodeid FROM pg_dist_node n WHERE n.groupid = m.groupid) AS right_id,
       backend_pid > 0 AS has_process,
       locked_at BETWEEN now() - interval '1 min' AND now() AS locked,
       timeline_id, wal_lsn > '0/0' AS has_position
  FROM citus_backup_block_nodes() m ORDER BY groupid;
SELECT count(DISTINCT system_identifier) FROM citus_backup_block_nodes();
SELECT m.system_identifier = c.system_identifier AS right_identifier,
       m.backend_pid = s.worker_pid AS right_process,
       m.wal_lsn <= pg_current_wal_flush_lsn() AS on_disk
  FROM citus_backup_block_nodes() m, pg_control_system() c, citus_backup_block_status() s
 WHERE m.groupid = 0;
SELECT count(*) FROM citus_backup_block_waiters();
SELECT nodes_held();

-- The locks here, and no others that anybody could wait for.
SELECT relation::regclass, l.mode
  FROM pg_locks l, citus_backup_block_status()
 WHERE pid = worker_pid AND locktype = 'relation' AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
 ORDER BY relation::regclass::text;

-- On a worker: the process of the manifest, its name, its locks, and its own end of the hold.
SELECT backend_pid AS holder, wal_lsn AS position, system_identifier AS identifier
  FROM citus_backup_block_nodes() WHERE groupid = 1 \gset
\c - - - :worker_1_port
SELECT application_name, state, wait_event FROM pg_stat_activity WHERE pid = :holder;
SELECT relation::regclass, mode
  FROM pg_locks
 WHERE pid = :holder AND locktype = 'relation' AND mode NOT IN ('AccessShareLock', 'RowShareLock')
 ORDER BY relation::regclass::text;
SELECT system_identifier = :identifier AS right_identifier,
       pg_current_wal_flush_lsn() >= :'position' AS on_disk
  FROM pg_control_system();
\c - - - :coordinator_port

-- The session that began it is gone; the block is not.
SELECT wait_for('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = (SELECT requestor_pid FROM citus_backup_block_status()))');
SELECT state, requestor_pid = pg_backend_pid() AS by_me FROM citus_backup_block_status();

-- Longer, then shorter.
SELECT citus_extend_backup_block(900000) - now() BETWEEN interval '899 s' AND interval '930 s' AS in_15_minutes;
SELECT expires_at - now() > interval '890 s' AS longer, timeout_ms BETWEEN 900000 AND 960000 AS counted_from_the_start
  FROM citus_backup_block_status();
SELECT citus_extend_backup_block(timeout_ms => 60000) AS told \gset
SELECT expires_at = :'told' AS as_told FROM citus_backup_block_status();
SELECT expires_at - now() < interval '61 s' AS shorter FROM citus_backup_block_status();

-- Restore points, on every node, in front of anything that comes later.
SELECT groupid, nodename,
       CASE nodeport WHEN :coordinator_port THEN 'coordinator' WHEN :worker_1_port THEN 'worker 1'
                     WHEN :worker_2_port THEN 'worker 2' END AS node,
       restore_lsn > wal_lsn AS after_the_locks
  FROM citus_backup_restore_point('before the migration') JOIN citus_backup_block_nodes()
       USING (nodeid, groupid, nodename, nodeport)
 ORDER BY groupid;
CREATE TEMP TABLE first_point AS SELECT * FROM citus_backup_restore_point('nightly');
CREATE TEMP TABLE second_point AS SELECT * FROM citus_backup_restore_point('nightly');
SELECT count(*), bool_and(s.restore_lsn > f.restore_lsn) AS later
  FROM first_point f JOIN second_point s USING (groupid);

-- Bringing WAL to disk, here.
SELECT pg_current_wal_insert_lsn() AS written \gset
SELECT citus_fence.flush_wal() >= :'written' AS flushed;
SELECT pg_current_wal_flush_lsn() >= :'written' AS on_disk;

-- The end.  No lock is left when the call returns, and soon no session.
SELECT citus_unblock_writes_for_backup();
SELECT nodes_held();
SELECT wait_for('fence_sessions() = 0');
SELECT * FROM citus_backup_block_status();
SELECT count(*) FROM citus_backup_block_nodes();
SELECT citus_unblock_writes_for_backup();

-- The default is five minutes.
SELECT citus_block_writes_for_backup();
SELECT timeout_ms, expires_at - block_start_time AS lasts FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- The same calls under the names that Citus has for them.  Where Citus has these functions itself an
-- unqualified call would reach those, so there ours are called by their own names.
SELECT coalesce(to_regproc('public.citus_cluster_changes_block'), 'public.citus_block_writes_for_backup') AS block,
       coalesce(to_regproc('public.citus_cluster_changes_unblock'), 'public.citus_unblock_writes_for_backup') AS unblock,
       coalesce(to_regproc('public.citus_cluster_changes_block_status'), 'public.citus_backup_block_status') AS status \gset
SELECT :block(120000) AS blocked;
SELECT state, timeout_ms, node_count FROM :status();
SELECT state, timeout_ms, node_count FROM citus_backup_block_status();
SELECT :unblock() AS unblocked;
SELECT :block() AS blocked;
SELECT timeout_ms FROM :status();
SELECT citus_unblock_writes_for_backup();

-- Whoever has the number of a block ends that one and no other.
SELECT citus_backup_block_start(120000) AS mine \gset
SELECT state, block_id = :mine AS is_mine, mode, timeout_ms FROM citus_backup_block_status();
SELECT count(*), bool_and(block_id = :mine) AS is_mine, min(mode) AS mode FROM citus_backup_block_nodes();
SELECT citus_backup_block_extend(:mine, 600000) - now() > interval '590 s' AS extended;
SELECT citus_backup_block_stop(:mine);
SELECT citus_backup_block_stop(:mine);
SELECT citus_backup_block_start(120000, 'all') AS other \gset
SELECT :other > :mine AS is_another;
SELECT citus_backup_block_stop(:mine);
SELECT citus_backup_block_extend(:mine, 1000);
SELECT block_id = :other AS goes_on, mode, nodes_held() FROM citus_backup_block_status();
SELECT citus_backup_block_stop(:other);

-- Whoever names a block by its start releases that one and no other.
SELECT citus_block_writes_for_backup(120000);
SELECT block_start_time AS mine FROM citus_backup_block_status() \gset
SELECT citus_unblock_backup_block(:'mine');
SELECT citus_unblock_backup_block(:'mine');
SELECT citus_block_writes_for_backup(120000);
SELECT citus_unblock_backup_block(:'mine');
SELECT state, nodes_held() FROM citus_backup_block_status();
SELECT citus_unblock_backup_block(block_start_time) FROM citus_backup_block_status();
SELECT citus_unblock_backup_block(NULL);
