-- Views over the gate, who may use them and the functions beside them, and what they all mean.

-- The numbers of the locks are those of src/gate/lock.rs, which does not compile with others.  A prepared transaction has no process; it is found by
-- the lock on its transaction number, which it holds under the same virtual number.
CREATE VIEW citus_fence.gate_blockers AS
SELECT gate.pid,
       d.datname AS database,
       CASE gate.relation WHEN 9998 THEN 'internal' ELSE 'client' END AS gate,
       gate.mode,
       gate.granted,
       coalesce(gate.waitstart, a.xact_start, p.prepared) AS since,
       p.gid
  FROM pg_catalog.pg_locks AS gate
  LEFT JOIN pg_catalog.pg_database AS d ON d.oid = gate.database
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = gate.pid
  LEFT JOIN pg_catalog.pg_locks AS number
         ON gate.pid IS NULL AND number.pid IS NULL AND number.locktype = 'transactionid'
        AND number.virtualtransaction = gate.virtualtransaction AND number.granted
  LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction = number.transactionid
 WHERE gate.locktype = 'relation'
       -- The third shows that somebody is about to close the gates: who waits for that waits to pass.
   AND (gate.relation IN (9997, 9998) OR gate.relation = 9996 AND NOT gate.granted AND gate.mode = 'RowExclusiveLock');

CREATE VIEW citus_fence.stat_gate AS
SELECT node.state,
       closed.client AS client_gate_closed,
       closed.internal AS internal_gate_closed,
       node.read_only_since,
       node.read_only_lsn,
       node.refused,
       node.waited,
       node.terminated,
       node.ungated_commits,
       citus_fence.reserved_for() AS clone_id
  FROM citus_fence.node_gate() AS node,
       (SELECT coalesce(bool_or(b.gate = 'client'), false) AS client,
               coalesce(bool_or(b.gate = 'internal'), false) AS internal
          FROM citus_fence.gate_blockers AS b
         WHERE b.mode = 'ExclusiveLock' AND b.granted
           AND b.database = pg_catalog.current_database()) AS closed;

REVOKE ALL ON FUNCTION citus_fence.commands_in_steps() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.enter_reserved_node(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.lock_gate(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.release_node(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.release_node_by_force(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.reserve_node(int, text) FROM PUBLIC;
GRANT SELECT ON citus_fence.gate_blockers, citus_fence.stat_gate TO PUBLIC;

COMMENT ON FUNCTION citus_fence.lock_gate(text) IS
'close a gate of this database to the end of the transaction: ''client'' for sessions of clients, ''internal'' for those that serve another node; returns once all who have passed it have ended, and then writers wait, this transaction being refused; bounded by lock_timeout; takes no transaction number; errors: 22004 null, 22023 no such gate, 25001 in a transaction that has written, 55000 on a standby or not preloaded, 55P03 lock_timeout';
COMMENT ON FUNCTION citus_fence.commands_in_steps() IS
'processes of this node, in any database, that are in the middle of a command that commits on its way (CONCURRENTLY)';
COMMENT ON FUNCTION citus_fence.node_gate() IS
'what stat_gate shows of this node, without a look at the locks';
COMMENT ON FUNCTION citus_fence.enter_reserved_node(text) IS
'make this session one that the reserved node lets write: for the clone split, which proves itself by the token of reserve_node(); to the end of the session, of the reservation, or to DISCARD ALL; for superusers, and whom they GRANT EXECUTE; errors: 42501 another token, 22004 null, 55000 not reserved or not preloaded, 55006 the token is not known any more';
COMMENT ON FUNCTION citus_fence.release_node(text) IS
'end what reserve_node() began with this token, on a standby or after its promotion; takes effect at once, whatever becomes of the calling transaction; does nothing where the node is not reserved; for superusers, and whom they GRANT EXECUTE; errors: 42501 another token, 22004 null, 55000 not preloaded, 55006 the token is not known any more, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.release_node_by_force(int) IS
'the same without the token, for the clone that stat_gate shows (0 where the file was damaged): what clients then write on a promoted clone before it is a worker of its own is lost; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 55000 not preloaded, 55006 reserved for another clone, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.reserve_node(int, text) IS
'reserve this standby for a clone: from its promotion on, over restarts and crashes, it refuses every write but those of sessions that have called enter_reserved_node() with the same token (1 to 128 bytes), until release_node(); on a standby only, and the same call again succeeds, also after the promotion; takes effect at once, whatever becomes of the calling transaction; neither replicated nor part of a base backup; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 22023 no id or token, 55000 not in recovery or not preloaded, 55006 reserved for another clone or with another token, 58030 the state cannot be written to disk';
COMMENT ON FUNCTION citus_fence.reserved_for() IS
'the clone that this node is reserved for, 0 where the file that told it is damaged, or null';
COMMENT ON VIEW citus_fence.gate_blockers IS
'who has passed a gate of this node (RowExclusiveLock), closes one (ExclusiveLock) or waits for it, in all databases: process, database, gate (client or internal), mode, granted, since when, and the name where it is a prepared transaction, which has no process';
COMMENT ON VIEW citus_fence.stat_gate IS
'the gates of this node: state (read-write, closing, read-only; standby in recovery; reserved for a clone), which gates of this database are held closed, since when and at which position the node is read-only, since the server''s start: writes refused, transactions that waited, sessions ended, and commits that passed no gate, which must stay 0; and for which clone the node is reserved';
