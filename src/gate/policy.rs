//! Which statements and functions write: plain values in, a verdict out.
//!
//! What is not known to be harmless writes.  The verdict decides about the gate, so it is not the one
//! of the server's read-only transactions: those allow VACUUM, NOTIFY or PREPARE TRANSACTION.

use std::ffi::CString;

use crate::pg::statement::{CustomScan, Plan, Utility};

/// What a statement means to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes no gate; what it runs inside (queries, procedures) is looked at on its own.
    Reads,
    /// Nobody can tell: it passes the gate, and is not refused where the node is read-only.
    MayWrite,
    /// It passes the gate.
    Writes,
    /// It passes the gate, and a read-only node does not refuse it: it says where another node is found that has failed
    /// over, and managers repeat it until it is done.
    MovesNode,
    /// It ends a prepared transaction, which has passed the gate long ago and keeps it until then.
    EndsPrepared,
}

/// What Citus calls its scans.
fn is_of_citus(scan: &CustomScan<'_>) -> bool {
    scan.name.to_bytes().starts_with(b"Citus ")
}

/// Whether Citus runs a plan, or a part of it, on other nodes.
pub fn is_distributed(plan: &Plan<'_>) -> bool {
    plan.custom_scan.as_ref().is_some_and(is_of_citus)
}

/// Whether a plan of Citus is a function call that it runs on another node: one that names no table (Citus
/// lists them for the sake of their permissions) and reads no result of a subplan.
fn is_delegated(scan: &CustomScan<'_>) -> bool {
    let reads_result =
        |function: &CString| function.to_bytes().starts_with(b"read_intermediate_result");
    scan.functions.as_ref().is_some_and(|functions| !functions.iter().any(reads_result))
}

/// The verdict on a plan.
pub fn of_plan(plan: &Plan<'_>) -> Verdict {
    let by_citus = plan.custom_scan.as_ref().filter(|scan| is_of_citus(scan));
    // The rights that it needs are all that Citus' plans say of row locks and of WITH queries that modify.
    let writes_elsewhere = by_citus.is_some_and(|scan| scan.needs_more_than_reading);
    if plan.modifies || plan.has_modifying_cte || plan.locks_rows || writes_elsewhere {
        Verdict::Writes
    } else if by_citus.is_some_and(is_delegated) {
        Verdict::MayWrite
    } else {
        Verdict::Reads
    }
}

/// The verdict on a utility statement.  `has_citus`: Citus is loaded here.
pub fn of_utility(utility: Utility<'_>, has_citus: bool) -> Verdict {
    match utility {
        // Citus gives a node the result of a subquery this way.  It goes to a file that is gone with the
        // transaction, and to no table: Citus' utility hook takes the statement before the server sees it.
        Utility::CopyFrom { format } if has_citus && format == Some(c"result") => Verdict::Reads,
        // Citus may have another node run it.
        Utility::Call if has_citus => Verdict::MayWrite,
        Utility::Transaction
        | Utility::CopyTo
        // Its query is looked at when it is run, if it is.
        | Utility::Explain { makes_table: false }
        | Utility::Lock { access_exclusive: false }
        // It changes a file that is no part of the database.
        | Utility::AlterSystem
        // What they run is looked at on its own.
        | Utility::Call
        | Utility::Do
        | Utility::Checkpoint
        | Utility::Cursor
        | Utility::Prepared
        | Utility::Session
        | Utility::Listen => Verdict::Reads,
        Utility::EndPrepared => Verdict::EndsPrepared,
        // Takes a number and writes a record even where nothing was written before.
        Utility::PrepareTransaction
        | Utility::CopyFrom { .. }
        | Utility::DropDatabase
        | Utility::Concurrently
        | Utility::Explain { makes_table: true }
        // It is written to the WAL, for standbys.
        | Utility::Lock { access_exclusive: true }
        | Utility::Other => Verdict::Writes,
    }
}

/// Citus' functions that write to other nodes before this node's own transaction shows that it writes.
/// Without this they would meet the clients' gate at their commit, when their sessions on other nodes have
/// passed the internal gates long before, and a block that closes one after the other would stand between.
/// Moves and splits of shards are not among them: they work in many transactions, for hours.
///
/// Those that run any command on other nodes are of the second kind: nobody can tell what it does.
pub fn writing_function_of_citus(name: &str) -> Option<(&'static str, Verdict)> {
    let find = |names: &'static [&'static str], verdict| {
        let known = names.iter().copied().find(|known| known.strip_suffix("()") == Some(name));
        known.map(|known| (known, verdict))
    };
    find(&CITUS, Verdict::Writes)
        .or_else(|| find(&CITUS_MOVES_NODE, Verdict::MovesNode))
        .or_else(|| find(&CITUS_RUNS_ANYTHING, Verdict::MayWrite))
}

const CITUS_MOVES_NODE: [&str; 2] = ["citus_update_node()", "master_update_node()"];

const CITUS_RUNS_ANYTHING: [&str; 8] = [
    "master_run_on_worker()",
    "run_command_on_all_nodes()",
    "run_command_on_colocated_placements()",
    "run_command_on_coordinator()",
    "run_command_on_master_and_workers()",
    "run_command_on_placements()",
    "run_command_on_shards()",
    "run_command_on_workers()",
];

const CITUS: [&str; 30] = [
    "alter_distributed_table()",
    "alter_table_set_access_method()",
    "citus_activate_node()",
    "citus_add_inactive_node()",
    "citus_add_local_table_to_metadata()",
    "citus_add_node()",
    "citus_add_secondary_node()",
    "citus_disable_node()",
    "citus_remove_node()",
    "citus_schema_distribute()",
    "citus_schema_undistribute()",
    "citus_set_coordinator_host()",
    "citus_set_node_property()",
    "create_distributed_function()",
    "create_distributed_table()",
    "create_reference_table()",
    "master_activate_node()",
    "master_add_inactive_node()",
    "master_add_node()",
    "master_disable_node()",
    "master_get_new_placementid()",
    "master_get_new_shardid()",
    "master_remove_node()",
    "master_set_node_property()",
    "remove_local_tables_from_metadata()",
    "start_metadata_sync_to_node()",
    "stop_metadata_sync_to_node()",
    "truncate_local_data_after_distributing_table()",
    "undistribute_table()",
    "update_distributed_table_colocation()",
];

/// The server's own functions that write when they are called from a plain SELECT, by their numbers,
/// which are the same in PostgreSQL 15 to 18.  Functions that write through SQL are not here: their
/// statements are looked at.
pub fn writing_function(oid: u32) -> Option<&'static str> {
    Some(match oid {
        715 => "lo_create()",
        764 | 767 => "lo_import()",
        955 => "lowrite()",
        957 => "lo_creat()",
        964 => "lo_unlink()",
        1004 => "lo_truncate()",
        1574 => "nextval()",
        1576 | 1765 => "setval()",
        2943 => "txid_current()",
        3036 => "pg_notify()",
        3172 => "lo_truncate64()",
        3445 => "pg_import_system_collations()",
        3457 => "lo_from_bytea()",
        3460 => "lo_put()",
        3577 | 3578 => "pg_logical_emit_message()",
        3789 => "gin_clean_pending_list()",
        3952 => "brin_summarize_new_values()",
        3999 => "brin_summarize_range()",
        4014 => "brin_desummarize_range()",
        5059 => "pg_current_xact_id()",
        6003 => "pg_replication_origin_create()",
        6004 => "pg_replication_origin_drop()",
        6012 => "pg_replication_origin_advance()",
        6362 => "pg_restore_relation_stats()",
        6363 => "pg_restore_attribute_stats()",
        6397 => "pg_clear_relation_stats()",
        6398 => "pg_clear_attribute_stats()",
        _ => return None,
    })
}

/// The two gates of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Passed by sessions of clients.
    Client,
    /// Passed by sessions that serve another node, and by the server's and Citus' own processes.
    Internal,
}

impl Gate {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Internal];

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Internal => "internal",
        }
    }

    /// The gate of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate| gate.name() == name)
    }
}

/// What Citus, and the embedded catalog, call the sessions that serve another node.
const INTERNAL_NAMES: [&[u8]; 5] = [
    b"citus_fence ",
    b"citus_internal gpid=",
    b"citus_rebalancer gpid=",
    b"citus_run_command gpid=",
    b"pg_dist gpid=",
];

/// The gate of a client's session, by its `application_name`.  Anyone can claim such a name; he then
/// waits at the internal gate all the same.
pub fn gate_of_session(application_name: &[u8]) -> Gate {
    if INTERNAL_NAMES.iter().any(|name| application_name.starts_with(name)) {
        Gate::Internal
    } else {
        Gate::Client
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each kind once.  The match makes a new kind fail to compile until it is listed.
    fn every_utility() -> Vec<Utility<'static>> {
        use Utility::*;
        let all = vec![
            Transaction,
            PrepareTransaction,
            EndPrepared,
            CopyTo,
            CopyFrom { format: None },
            CopyFrom { format: Some(c"result") },
            DropDatabase,
            Concurrently,
            Explain { makes_table: false },
            Explain { makes_table: true },
            Lock { access_exclusive: false },
            Lock { access_exclusive: true },
            AlterSystem,
            Do,
            Call,
            Checkpoint,
            Cursor,
            Prepared,
            Session,
            Listen,
            Other,
        ];
        for utility in &all {
            match utility {
                Transaction
                | PrepareTransaction
                | EndPrepared
                | CopyTo
                | CopyFrom { .. }
                | DropDatabase
                | Concurrently
                | Explain { .. }
                | Lock { .. }
                | AlterSystem
                | Do
                | Call
                | Checkpoint
                | Cursor
                | Prepared
                | Session
                | Listen
                | Other => {}
            }
        }
        all
    }

    #[test]
    fn what_writes_and_what_does_not() {
        let of = |has_citus, verdict| -> Vec<Utility<'static>> {
            let mut all = every_utility();
            all.retain(|utility| of_utility(*utility, has_citus) == verdict);
            all
        };
        let writes = [
            Utility::PrepareTransaction,
            Utility::CopyFrom { format: None },
            Utility::DropDatabase,
            Utility::Concurrently,
            Utility::Explain { makes_table: true },
            Utility::Lock { access_exclusive: true },
            Utility::Other,
        ];
        assert_eq!(of(true, Verdict::Writes), writes);
        assert_eq!(of(true, Verdict::MayWrite), [Utility::Call]);
        assert_eq!(of(true, Verdict::EndsPrepared), [Utility::EndPrepared]);
        assert_eq!(of(true, Verdict::Reads).len(), every_utility().len() - 9);

        // Without Citus there is no such format, and nobody to hand a procedure to.
        let mut without = of(false, Verdict::Writes);
        without.retain(|utility| *utility != Utility::CopyFrom { format: Some(c"result") });
        assert_eq!(without, writes);
        assert_eq!(of(false, Verdict::MayWrite), []);
        assert_eq!(of(false, Verdict::Reads).len(), every_utility().len() - 9);
    }

    #[test]
    fn scans_of_others_are_not_citus() {
        let scan = |name, needs_more_than_reading, functions| Plan {
            custom_scan: Some(CustomScan { name, needs_more_than_reading, functions }),
            ..Plan::default()
        };
        for name in [c"ColumnarScan", c"Custom Citus Scan", c""] {
            assert_eq!(of_plan(&scan(name, true, Some(vec![]))), Verdict::Reads, "{name:?}");
        }
        let name = c"Citus Adaptive";
        assert_eq!(of_plan(&scan(name, false, None)), Verdict::Reads);
        let result = c"read_intermediate_results".to_owned();
        assert_eq!(of_plan(&scan(name, false, Some(vec![result]))), Verdict::Reads);
        let other = c"transfer".to_owned();
        assert_eq!(of_plan(&scan(name, false, Some(vec![other]))), Verdict::MayWrite);
    }

    proptest! {
        #[test]
        fn only_a_plain_select_reads(
            modifies: bool, has_modifying_cte: bool, locks_rows: bool, writes_elsewhere: bool,
            is_delegated: bool
        ) {
            let custom_scan = (writes_elsewhere || is_delegated).then(|| CustomScan {
                name: c"Citus Adaptive",
                needs_more_than_reading: writes_elsewhere,
                functions: is_delegated.then(Vec::new),
            });
            let plan = Plan { modifies, has_modifying_cte, locks_rows, custom_scan };
            let is_plain = !(modifies || has_modifying_cte || locks_rows || writes_elsewhere);
            let expected = match (is_plain, is_delegated) {
                (false, _) => Verdict::Writes,
                (true, true) => Verdict::MayWrite,
                (true, false) => Verdict::Reads,
            };
            prop_assert_eq!(of_plan(&plan), expected);
        }

        #[test]
        fn functions_of_users_are_never_on_the_list(oid in 16384u32..) {
            prop_assert_eq!(writing_function(oid), None);
        }

        #[test]
        fn only_the_known_beginnings_are_internal(name: Vec<u8>) {
            let known = INTERNAL_NAMES.iter().any(|known| name.starts_with(known));
            prop_assert_eq!(gate_of_session(&name) == Gate::Internal, known);
        }
    }

    #[test]
    fn sessions_of_nodes_pass_the_internal_gate() {
        for name in [
            "citus_internal gpid=10000000123",
            "citus_rebalancer gpid=1",
            "citus_run_command gpid=1",
            "pg_dist gpid=1",
        ] {
            assert_eq!(gate_of_session(name.as_bytes()), Gate::Internal, "{name}");
        }
        for name in
            ["", "psql", "citus_internal", "my citus_internal gpid=1", "pg_distribution gpid=1"]
        {
            assert_eq!(gate_of_session(name.as_bytes()), Gate::Client, "{name}");
        }
    }

    #[test]
    fn gates_are_known_by_their_names() {
        for gate in Gate::ALL {
            assert_eq!(Gate::parse(gate.name()), Some(gate));
        }
        assert_eq!(Gate::parse("Client"), None);
        assert_eq!(Gate::parse(""), None);
    }

    #[test]
    fn reading_large_objects_and_sequences_is_free() {
        // lo_open, lo_close, loread, lo_get, currval, txid_current_snapshot.
        for oid in [952, 953, 954, 3458, 1575, 2944] {
            assert_eq!(writing_function(oid), None, "{oid}");
        }
    }
}
