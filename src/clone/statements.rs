//! The SQL of a split.
//!
//! The sessions are the extension's owner, a superuser, so each statement sets `search_path` before anything else,
//! with `SET LOCAL`: several statements sent as one are one transaction.  What cannot run in a transaction
//! (ALTER SYSTEM, COMMIT PREPARED) goes by itself and names everything.

use std::time::Duration;

use super::registry::{Plan, Replica};
use crate::citus::identity::AS_OWNER;
use crate::pg::quote::literal;

/// Bound on a note in the registry.
pub const JOURNAL_BOUND: Duration = Duration::from_secs(30);

/// An array of numbers.
pub fn numbers(values: impl IntoIterator<Item = i64>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("'{{{}}}'::bigint[]", values.join(","))
}

/// An array of texts.
pub fn texts<'a>(values: impl IntoIterator<Item = &'a String>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| literal(value)).collect();
    format!("ARRAY[{}]::text[]", values.join(","))
}

/// The first command of each session.  What is no transaction of ours (LOAD, ALTER SYSTEM, CHECKPOINT, COMMIT PREPARED) is the
/// owner's, too, whatever role his settings give him.
pub const LASTING: &str = "SET idle_session_timeout = 0; SET ROLE NONE";

/// The second one of a session with the clone.
pub const OF_CLONE: &str = "SET transaction_isolation = 'read committed';\
     SET default_transaction_isolation = 'read committed';\
     SET statement_timeout = 0; SET lock_timeout = 0;\
     SELECT pg_catalog.set_config('transaction_timeout', '0', false) \
       FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'transaction_timeout'";

/// SQL that waits for nobody, in one transaction with a safe `search_path`.
pub fn query(sql: &str) -> String {
    format!(
        "{AS_OWNER} SET LOCAL statement_timeout = '10s';\
         SET LOCAL lock_timeout = '5s'; {sql}"
    )
}

/// Citus' triggers on its catalog tell all sessions of what changes there.  In a session that its role or database makes
/// a replica's they do not fire: other sessions would go on by what they remember, at the old place, for ever.  After
/// [`AS_OWNER`]: only a superuser may set it, and until then the session is whoever its role's settings say.
const AS_ORIGIN: &str = "SET LOCAL session_replication_role = origin;";

/// The same that writes, whatever the default of transactions is.
pub fn write(sql: &str) -> String {
    format!("SET LOCAL transaction_read_only = off; {}", query(&format!("{AS_ORIGIN} {sql}")))
}

/// Has the node finish what two-phase commits have left in doubt there; it must not wait for a synchronous standby, for
/// that wait has no time-out.
pub fn recover() -> String {
    write(
        "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '2s'; \
         SET LOCAL synchronous_commit = 'local'; SELECT recover_prepared_transactions()",
    )
}

/// A note in the registry: whoever keeps it from being written has a while, for without it nothing goes on.
///
/// It is on disk before what it announces is done, whatever the default of commits is.
pub fn note(sql: &str) -> String {
    write(&format!(
        "SELECT set_config('synchronous_commit', 'local', true) \
          WHERE current_setting('synchronous_commit') = 'off';\
         SET LOCAL statement_timeout = '25s'; SET LOCAL lock_timeout = '20s'; {sql}"
    ))
}

/// The same where shards are looked at, which Citus hides.
pub fn query_shards(is_citus: bool, sql: &str) -> String {
    query(&format!("{}{sql}", visible(is_citus)))
}

fn visible(is_citus: bool) -> &'static str {
    if is_citus { "SET LOCAL citus.override_table_visibility = off;" } else { "" }
}

/// Of which group a node is.
pub fn who() -> String {
    query("SELECT groupid FROM pg_dist_local_group")
}

/// Active primaries that do not hold the catalog up to date, but for the coordinator.
pub const NOT_TOLD: &str = "SELECT nodename, nodeport FROM pg_dist_node \
     WHERE noderole = 'primary' AND isactive AND groupid <> 0 AND NOT (hasmetadata AND metadatasynced) \
     ORDER BY nodeid";

/// The active primaries, with the group of each.
pub const NODES: &str = "SELECT nodeid, groupid FROM pg_dist_node \
     WHERE noderole = 'primary' AND (isactive OR groupid = 0) ORDER BY nodeid, groupid";

/// All active placements of a node group, by the number of the shard.  `lock_id` is what Citus' own moves lock.
pub fn inventory(group: i32, is_citus: bool) -> String {
    let name = if is_citus {
        // A public shard's name comes without its schema.
        "CASE WHEN n.nspname = 'public' THEN 'public.' ELSE '' END \
         || shard_name(s.logicalrelid, s.shardid)"
    } else {
        "format('%I.%I', n.nspname, c.relname || '_' || s.shardid)"
    };
    format!(
        "SELECT s.shardid, {name} AS name, \
                CASE WHEN t.partmethod = 'n' AND t.repmodel = 't' THEN 'reference' \
                     WHEN t.partmethod = 'n' AND t.colocationid = 0 THEN 'local' \
                     ELSE 'distributed' END AS kind, \
                CASE WHEN t.colocationid = 0 THEN s.logicalrelid::oid::bigint \
                     ELSE t.colocationid END AS lock_id, \
                EXISTS (SELECT FROM pg_dist_placement o \
                         WHERE o.shardid = s.shardid AND o.groupid <> {group}) AS has_copies \
           FROM pg_dist_shard s \
           JOIN pg_dist_placement p ON p.shardid = s.shardid AND p.groupid = {group} AND p.shardstate = 1 \
           JOIN pg_dist_partition t ON t.logicalrelid = s.logicalrelid \
           JOIN pg_class c ON c.oid = s.logicalrelid \
           JOIN pg_namespace n ON n.oid = c.relnamespace \
          ORDER BY s.shardid"
    )
}

/// Begins a transaction in which writers are held back.
///
/// The node gives a wait up a little later than this side, which looks at its end who is in the way; and it ends the
/// transaction by itself if it hears nothing more.
///
/// Its name is that of what is to be prepared, for as long as the transaction is open: so who has to roll it back finds
/// one that is still about to prepare.
pub fn begin(bound: Duration, is_citus: bool, gid: &str) -> String {
    let ms = bound.as_millis() as i64;
    let citus = if is_citus {
        "SET LOCAL citus.override_table_visibility = off;\
         SET LOCAL citus.enable_manual_changes_to_shards = on;\
         SET LOCAL citus.enable_ddl_propagation = off;"
    } else {
        ""
    };
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
         {AS_OWNER}{AS_ORIGIN}{citus}\
         SET LOCAL application_name = {};\
         SET LOCAL lock_timeout = {};\
         SET LOCAL statement_timeout = {};\
         SET LOCAL idle_in_transaction_session_timeout = {};\
         SET LOCAL client_connection_check_interval = '1s';\
         SELECT set_config('transaction_timeout', '0', true) \
           FROM pg_settings WHERE name = 'transaction_timeout';\
         SELECT set_config('deadlock_timeout', greatest(1, setting::int * 9 / 10)::text, true) \
           FROM pg_settings WHERE name = 'deadlock_timeout';\
         SELECT pg_backend_pid() AS pid",
        literal(gid),
        ms + 1_000,
        ms + 2_000,
        ms + 10_000,
    )
}

/// Holds back the writers of these shards where they are routed.
pub fn lock_shards(shards: impl IntoIterator<Item = i64>) -> String {
    let mut shards = shards.into_iter().peekable();
    match shards.peek() {
        Some(_) => format!("SELECT lock_shard_metadata(7, {})", numbers(shards)),
        // Citus refuses to lock nothing.
        None => "SELECT".to_owned(),
    }
}

/// Holds back, on the coordinator, changes of nodes, DDL and moves of shards.
pub fn lock_cluster(lock_ids: impl IntoIterator<Item = i64>) -> String {
    format!(
        "LOCK TABLE pg_catalog.pg_dist_node IN EXCLUSIVE MODE;\
         SELECT citus_fence.lock_placement_colocation({})",
        numbers(lock_ids)
    )
}

/// Waits for writers of these tables that are in flight or prepared, and keeps new ones off.
pub fn lock_tables<'a>(names: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    (!names.is_empty())
        .then(|| format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", names.join(", ")))
}

/// Refuses, once committed, whatever would still write to these tables, also where a session says that it only applies
/// what others have done.
///
/// A database may have triggers on DDL, which would refuse this one or note it down in a table that cannot be prepared here;
/// with the role of a replica they do not fire.
///
/// That is written for all at once: ALTER TABLE for each, while writers wait, takes as long again.  The relations are read
/// anew for their triggers anyhow.
pub fn seal<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut seal = "SET LOCAL session_replication_role = replica;".to_owned();
    seal.extend(
        names.into_iter().map(|name| {
            format!(
                "CREATE TRIGGER citus_fence_moved BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name} \
                 FOR EACH STATEMENT EXECUTE FUNCTION citus_fence.shard_has_moved();"
            )
        }),
    );
    seal.push_str(
        "UPDATE pg_catalog.pg_trigger SET tgenabled = 'A' \
          WHERE tgname = 'citus_fence_moved' AND tgenabled <> 'A' \
            AND tgfoid = 'citus_fence.shard_has_moved()'::regprocedure",
    );
    seal
}

/// The new metadata: the clone is a node, and what moves has a new placement there.
///
/// New numbers of placements, for Citus keys a session's open connections by them: with the old number a session that
/// had used the shard before would go on writing to the source.
pub fn new_metadata(clone: &Replica, source: i32, source_group: i32, plan: &Plan) -> String {
    let Plan { group, moving, reference, .. } = plan;
    let (nodeid, host, port) = (clone.nodeid, literal(&clone.host), clone.port);
    let shards = numbers(moving.iter().map(|(shard, _)| *shard));
    let placements = numbers(moving.iter().map(|(_, placement)| *placement));
    let references = numbers(reference.iter().map(|(shard, _)| *shard));
    let copies = numbers(reference.iter().map(|(_, placement)| *placement));
    format!(
        "INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, noderack, hasmetadata, isactive, \
                                   noderole, nodecluster, metadatasynced, shouldhaveshards) \
         VALUES ({nodeid}, {group}, {host}, {port}, 'default', true, true, 'primary', 'default', true, true);\
         INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) \
         SELECT {nodeid}, rolename, authinfo FROM pg_dist_authinfo WHERE nodeid = {source} AND {source} <> 0;\
         INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid) \
         SELECT new.placementid, p.shardid, p.shardstate, p.shardlength, {group} \
           FROM pg_dist_placement p JOIN unnest({references}, {copies}) AS new(shardid, placementid) USING (shardid) \
          WHERE p.groupid = {source_group};\
         WITH gone AS (DELETE FROM pg_dist_placement \
                        WHERE groupid = {source_group} AND shardid = ANY ({shards}) \
                        RETURNING shardid, shardstate, shardlength) \
         INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid) \
         SELECT new.placementid, gone.shardid, gone.shardstate, gone.shardlength, {group} \
           FROM gone JOIN unnest({shards}, {placements}) AS new(shardid, placementid) USING (shardid)"
    )
}

/// Ends a transaction so that it keeps its locks through any restart.
pub fn prepare(gid: &str) -> String {
    format!("PREPARE TRANSACTION {}", literal(gid))
}

/// Where a promoted server has left its former timeline, as its history says: its timeline and the position.  Empty if that is
/// not to be found, and `recovery` for one that is not promoted.
pub const FORK: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN 'recovery' ELSE coalesce(( \
        SELECT ('x' || name)::bit(32)::int || ' ' \
               || (regexp_match(pg_read_file('pg_wal/' || name || '.history', 0, 1048576, true), \
                                '(.*\n)?[0-9]+\t([0-9A-F]+/[0-9A-F]+)\t'))[2] \
          FROM (SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS name) timeline), '') END";

/// Which of our own transactions are prepared on a node.
pub fn prepared(clone: &Replica) -> String {
    query(&format!(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid IN ({}, {})",
        literal(&clone.switch_gid()),
        literal(&clone.seal_gid())
    ))
}

/// Ends what was about to prepare something of the split when its session was lost; how many did not end.
pub fn end_leftovers(clone: &Replica) -> String {
    query(&format!(
        "SELECT count(*) FROM pg_stat_activity \
          WHERE starts_with(application_name, {}) AND pid <> pg_backend_pid() \
            AND NOT pg_terminate_backend(pid, 5000)",
        literal(&clone.gid())
    ))
}

/// How many of these tables are sealed.
pub fn sealed(plan: &Plan) -> String {
    format!(
        "SELECT count(*) FROM pg_trigger \
          WHERE tgname = 'citus_fence_moved' \
            AND tgrelid IN (SELECT to_regclass(name)::oid FROM unnest({}) AS name)",
        texts(&plan.moving_names)
    )
}

/// Transactions of Citus that were prepared before that moment, and are still.
pub fn prepared_before(moment: &str) -> String {
    query(&format!(
        "SELECT count(*) FROM pg_prepared_xacts \
          WHERE database = current_database() AND starts_with(gid, 'citus_') \
            AND NOT starts_with(gid, 'citus_fence_') AND prepared < {}::timestamptz",
        literal(moment)
    ))
}

/// Whether the new metadata is there.
pub fn has_switched(clone: &Replica) -> String {
    query(&format!(
        "SELECT count(*) FROM pg_dist_node WHERE nodeid = {} AND noderole = 'primary'",
        clone.nodeid
    ))
}

/// Whether the new metadata has been there, although the clone is no node there any more: what moves is not where it was.  One
/// that had rolled the switch back would have it there.
pub fn had_switched(clone: &Replica, plan: &Plan) -> String {
    let shards = numbers(plan.moving.iter().map(|(shard, _)| *shard));
    let source_group = plan.source_group.map_or("NULL".to_owned(), |group| group.to_string());
    query(&format!(
        "SELECT NOT EXISTS (SELECT FROM pg_dist_node WHERE nodeid = {}) \
                AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = {}) \
                AND {source_group} IS NOT NULL \
                AND NOT EXISTS (SELECT FROM pg_dist_placement \
                                 WHERE groupid = {source_group} AND shardid = ANY ({shards})) AS had",
        clone.nodeid,
        literal(&clone.switch_gid())
    ))
}

/// What the session of that process waits for; the oldest first.
pub fn blockers(pid: i32) -> String {
    query(&format!(
        "SELECT coalesce(a.pid, 0) AS pid, coalesce(a.usename::text, p.owner::text, '') AS usename, \
                greatest(0, extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)))::int8 AS age, \
                CASE WHEN a.pid IS NULL THEN 'prepared transaction ' || coalesce(p.gid, '') \
                     ELSE coalesce(a.state || ': ', '') \
                          || left(regexp_replace(coalesce(a.query, ''), E'\\\\s+', ' ', 'g'), 120) END AS what \
           FROM unnest(pg_blocking_pids({pid})) AS b(pid) \
           LEFT JOIN pg_stat_activity a ON a.pid = b.pid \
           LEFT JOIN LATERAL (SELECT p.* FROM pg_prepared_xacts p WHERE b.pid = 0 ORDER BY prepared LIMIT 1) p ON true \
          ORDER BY a.xact_start NULLS LAST LIMIT 3"
    ))
}

/// How many of these processes wait, over whomever, for one of them.
pub fn entangled(own: &[i32]) -> String {
    let own = numbers(own.iter().map(|pid| i64::from(*pid)));
    query(&format!(
        "WITH RECURSIVE chain (pid) AS ( \
             SELECT b.pid FROM unnest({own}) o, unnest(pg_blocking_pids(o::int)) b (pid) \
             UNION \
             SELECT b.pid FROM chain c, unnest(pg_blocking_pids(c.pid)) b (pid) WHERE c.pid <> 0) \
         SELECT count(*) FROM chain WHERE pid = ANY ({own})"
    ))
}

/// For whose sessions these processes wait here, over whomever (`b`), and whose wait for them (`w`): by the number that a
/// session has on all nodes.
pub fn entangled_elsewhere(own: &[i32]) -> String {
    let own = numbers(own.iter().map(|pid| i64::from(*pid)));
    query(&format!(
        "WITH RECURSIVE waiting (pid, behind) AS MATERIALIZED ( \
             SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity \
              WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()), \
         b (pid) AS ( \
             SELECT unnest(behind) FROM waiting WHERE pid = ANY ({own}) \
             UNION SELECT unnest(w.behind) FROM b JOIN waiting w ON w.pid = b.pid), \
         w (pid) AS ( \
             SELECT pid FROM waiting WHERE behind && {own}::int[] \
             UNION SELECT o.pid FROM w JOIN waiting o ON w.pid = ANY (o.behind)) \
         SELECT 'b' AS way, t.global_pid FROM get_all_active_transactions() t JOIN b ON b.pid = t.process_id \
          WHERE t.global_pid > 0 AND b.pid <> ALL ({own}) \
         UNION \
         SELECT 'w', t.global_pid FROM get_all_active_transactions() t JOIN w ON w.pid = t.process_id \
          WHERE t.global_pid > 0 AND w.pid <> ALL ({own})"
    ))
}

/// With it on (Citus 13.2 and later, by default) a statement on a shard of its own node locks the shard's table while it
/// is planned, and *then* waits for the shard's metadata lock: the seal would wait for it, and it for us, and no search for
/// deadlocks sees that.  So it is off at the source while writers are held.
pub const FAST_PATH: &str = "citus.enable_local_fast_path_query_optimization";

/// What a clone takes back of the settings that keep its daemon from acting under its source's identity.
/// Names in the order in which they are set.
pub const HARMLESS: &[(&str, &str)] = &[
    ("citus.recover_2pc_interval", "-1"),
    ("citus.defer_shard_delete_interval", "-1"),
    ("citus.background_task_queue_interval", "-1"),
    ("citus.distributed_deadlock_detection_factor", "-1"),
    ("citus.stat_statements_purge_interval", "-1"),
    ("citus.enable_statistics_collection", "off"),
    ("synchronous_standby_names", ""),
    ("sync_replication_slots", "off"),
];

/// The identity of its own, in one transaction; nothing where it has that already.
///
/// `citus_fence.enter_reserved_node()` comes first: its gate lets nobody else through.
pub fn identity(token: &str, plan: &Plan, is_citus: bool, was_coordinator: bool) -> String {
    let group = plan.group;
    let citus = if is_citus {
        "SET LOCAL citus.enable_ddl_propagation = off; SET LOCAL citus.enable_manual_changes_to_shards = on;"
    } else {
        ""
    };
    let server_id = if is_citus {
        "UPDATE pg_dist_node_metadata SET metadata = jsonb_set(metadata, '{server_id}', to_jsonb(gen_random_uuid()::text));"
    } else {
        ""
    };
    // Jobs and clean-ups are the coordinator's to run.
    let coordinators = match (is_citus, was_coordinator) {
        (true, true) => {
            "DELETE FROM pg_dist_cleanup; DELETE FROM pg_dist_background_task_depend;\
             DELETE FROM pg_dist_background_task; DELETE FROM pg_dist_background_job;\
             DELETE FROM citus_fence.clone;"
        }
        (false, true) => "DELETE FROM citus_fence.clone;",
        (_, false) => "",
    };
    // Reference tables may point to tables that are on the coordinator alone: their copies here do not any more, as on any
    // worker, or no row could come that points to a new one until the clean-up has been.
    let free = if is_citus && was_coordinator {
        format!(
            "FOR pointing IN \
                 WITH own AS (SELECT to_regclass(name)::oid AS shard FROM unnest({}) AS name) \
                 SELECT conrelid::regclass AS shard, conname FROM pg_constraint \
                  WHERE contype = 'f' AND confrelid IN (SELECT shard FROM own) \
                    AND conrelid NOT IN (SELECT shard FROM own WHERE shard IS NOT NULL) \
             LOOP \
                 EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', pointing.shard, pointing.conname); \
             END LOOP;",
            texts(&plan.staying_names)
        )
    } else {
        String::new()
    };
    format!(
        "BEGIN READ WRITE; {AS_OWNER}{AS_ORIGIN}{citus}\
         SET LOCAL statement_timeout = '60s';\
         SELECT citus_fence.enter_reserved_node({});\
         DO $do$ \
         DECLARE \
             sequence record; \
             pointing record; \
         BEGIN \
             IF (SELECT groupid FROM pg_dist_local_group) = {group} THEN \
                 RETURN; \
             END IF; \
             UPDATE pg_dist_local_group SET groupid = {group}; \
             {free} \
             FOR sequence IN \
                 SELECT n.nspname, c.relname, s.seqtypid \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   JOIN pg_sequence s ON s.seqrelid = c.oid \
                  WHERE c.oid IN ( \
                        SELECT d.objid FROM pg_depend d \
                         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                           AND d.deptype IN ('a', 'i') \
                           AND d.refobjid IN (SELECT logicalrelid FROM pg_dist_partition) \
                        UNION \
                        SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef a ON a.oid = d.objid \
                         WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass \
                           AND a.adrelid IN (SELECT logicalrelid FROM pg_dist_partition)) \
                  ORDER BY 1, 2 \
             LOOP \
                 PERFORM worker_apply_sequence_command( \
                     format('CREATE SEQUENCE IF NOT EXISTS %I.%I AS %s', sequence.nspname, sequence.relname, \
                            format_type(sequence.seqtypid, NULL)), sequence.seqtypid::regtype); \
             END LOOP; \
         END \
         $do$;\
         DELETE FROM pg_dist_transaction;\
         {server_id}{coordinators}\
         COMMIT",
        literal(token)
    )
}

/// What is prepared on the clone, of all databases.
pub const INHERITED: &str = "SELECT gid, database = current_database() AS here, database::text AS database \
      FROM pg_prepared_xacts ORDER BY prepared";

/// Orphans are dropped by Citus' own clean-up: what has moved, at the source, and what has stayed, on the clone; each where
/// that is a node of the cluster still, for Citus passes over the others for good.
///
/// What has moved only if a node has the shard now, other than the source itself and a clone that is lost: its table at the
/// source may be the last there is of it.
pub fn clean_up(plan: &Plan, source_group: i32, clone_is_lost: bool) -> String {
    let group = plan.group;
    let lost = if clone_is_lost { group.to_string() } else { "NULL".to_owned() };
    let is_node = |of: i32| format!("EXISTS (SELECT FROM pg_dist_node WHERE groupid = {of})");
    let record = |ids: String, names: &[String], of: i32, besides: &str| {
        format!(
            "INSERT INTO pg_dist_cleanup (record_id, operation_id, object_type, object_name, node_group_id, policy_type) \
             SELECT nextval('pg_dist_cleanup_recordid_seq'), o.operation, 1, orphan.name, {of}, 2 \
               FROM unnest({ids}, {}) AS orphan (shardid, name), \
                    (SELECT nextval('pg_dist_operationid_seq') AS operation) o \
              WHERE {}{besides};",
            texts(names),
            is_node(of)
        )
    };
    let is_elsewhere = format!(
        " AND NOT EXISTS (SELECT FROM pg_dist_placement p \
                           WHERE p.shardid = orphan.shardid AND p.groupid = {source_group}) \
          AND (NOT EXISTS (SELECT FROM pg_dist_shard s WHERE s.shardid = orphan.shardid) \
               OR EXISTS (SELECT FROM pg_dist_placement p JOIN pg_dist_node n ON n.groupid = p.groupid \
                           WHERE p.shardid = orphan.shardid AND n.noderole = 'primary' \
                             AND p.groupid IS DISTINCT FROM {lost}))"
    );
    let moved = numbers(plan.moving.iter().map(|(shard, _)| *shard));
    format!(
        "INSERT INTO pg_dist_cleanup (record_id, operation_id, object_type, object_name, node_group_id, policy_type) \
         SELECT nextval('pg_dist_cleanup_recordid_seq'), operation_id, object_type, object_name, {group}, policy_type \
           FROM pg_dist_cleanup \
          WHERE node_group_id = {source_group} AND object_type = 1 AND policy_type = 2 \
            AND object_name <> ALL ({}) AND {};{}{}",
        texts(&plan.moving_names),
        is_node(group),
        record(moved, &plan.moving_names, source_group, &is_elsewhere),
        record(numbers([]), &plan.staying_names, group, "")
    )
}

/// Tables that the coordinator alone had, on its clone: of users, neither Citus' nor an extension's, nor shards.
pub const OF_COORDINATOR: &str = "SELECT count(*) AS count, \
        string_agg(quote_ident(nspname) || '.' || quote_ident(relname), ', ' ORDER BY nspname, relname) \
            FILTER (WHERE place <= 10) AS names \
   FROM (SELECT n.nspname, c.relname, row_number() OVER (ORDER BY n.nspname, c.relname) AS place \
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
          WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't' \
            AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
            AND NOT c.relispartition \
            AND NOT EXISTS (SELECT FROM pg_dist_partition p WHERE p.logicalrelid = c.oid) \
            AND NOT EXISTS (SELECT FROM pg_depend d \
                             WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
            AND NOT relation_is_a_known_shard(c.oid)) t";

/// Who takes changes of the source's tables from its WAL: such do not see any more what has moved.
pub const LOGICAL_SLOTS: &str = "SELECT string_agg(slot_name::text, ', ' ORDER BY slot_name) AS names FROM pg_replication_slots \
     WHERE slot_type = 'logical' AND database = current_database() AND NOT temporary";

/// Drops slots that the clone has copied from its source (17 and later): promoted, they would keep WAL for nobody.
pub const DROP_SYNCHRONIZED: &str = "SELECT slot_name, pg_drop_replication_slot(slot_name) FROM pg_replication_slots s \
     WHERE slot_type = 'logical' AND to_jsonb(s) ->> 'synced' = 'true' AND NOT active ORDER BY 1";

/// How long, in seconds, a walsender may live whose standby is gone without a word: somewhat longer than its time-out.
/// Where it has none, the kernel's is the bound, and nobody waits for that.
pub fn walsender_life() -> String {
    query(
        "SELECT CASE setting WHEN '0' THEN 60 ELSE least(ceil(setting::numeric / 1000), 300) END + 10 \
           FROM pg_settings WHERE name = 'wal_sender_timeout'",
    )
}

/// Whether a clone's writers were let go that many seconds ago.
pub fn released_for(nodeid: i32, seconds: u32) -> String {
    query(&format!(
        "SELECT clock_timestamp() - step_since > make_interval(secs => {seconds}) FROM citus_fence.clone \
          WHERE clone_nodeid = {nodeid} AND step = 'released'"
    ))
}

/// Drops the slot that the clone streamed from; an error as long as a walsender has not noticed that it is gone.
pub fn drop_slot(name: &str) -> String {
    query(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
          WHERE slot_name = {} AND slot_type = 'physical'",
        literal(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::{AS_ORIGIN, AS_OWNER, lock_shards, lock_tables, numbers, texts, write};

    #[test]
    fn who_writes_is_the_owner_first() {
        let sql = write("SELECT");
        let (owner, origin) = (sql.find(AS_OWNER), sql.find(AS_ORIGIN));
        assert!(owner.is_some() && owner < origin, "{sql}");
    }

    #[test]
    fn what_goes_into_sql_is_quoted() {
        assert_eq!(numbers([1, 2]), "'{1,2}'::bigint[]");
        assert_eq!(texts(&["a'".to_owned()]), "ARRAY['a''']::text[]");
    }

    #[test]
    fn no_table_takes_no_lock() {
        assert_eq!(lock_tables(&[]), None);
        // Citus refuses an empty list.
        assert_eq!(lock_shards([]), "SELECT");
    }
}
