//! What writers leave behind: in the WAL, in the catalog, in the data directory, in the log.

use test_cluster::{Result, Server, WalRecord};

use crate::ungated;

/// What may be written on a node that is read-only: by the server itself, and by readers that clean
/// up pages or set hint bits.
fn is_upkeep(record: &WalRecord) -> bool {
    let kind = record.kind();
    match record.manager.as_str() {
        // Not whole pages for their own sake, which clients' functions write.
        "XLOG" => kind != "FPI",
        "Standby" => kind == "RUNNING_XACTS",
        // Since 17 a record says who pruned.
        "Heap2" => record.xid == 0 && ["PRUNE", "PRUNE_ON_ACCESS", "VISIBLE"].contains(&kind),
        // The end of a writer that was refused late or terminated.
        "Transaction" => kind == "ABORT",
        // Index entries that readers have found dead.
        "Btree" | "Hash" | "Gist" => {
            record.xid == 0 && ["DELETE", "VACUUM_ONE_PAGE"].contains(&kind)
        }
        _ => false,
    }
}

/// What a transaction writes that has no effect unless it commits, and a commit is looked for by itself.
fn is_doomed(record: &WalRecord) -> bool {
    let kind = record.kind();
    record.xid != 0
        && match record.manager.as_str() {
            "Heap" | "Heap2" | "Btree" | "Hash" | "Gin" | "Gist" | "SPGist" | "BRIN" => true,
            "Standby" => kind == "LOCK",
            "Transaction" => ["INVALIDATION", "ASSIGNMENT"].contains(&kind),
            _ => false,
        }
}

/// Everything after a position that a transaction of a client wrote and that matters: commits,
/// prepared transactions, sequences, messages, and whatever else needs no commit to have an effect.
/// Rows of a transaction that did not commit are nothing.
pub fn traces_of_writers(node: &Server, from: &str) -> Result<Vec<WalRecord>> {
    let mut records = node.wal_since(from)?;
    records.retain(|record| !is_upkeep(record) && !is_doomed(record));
    Ok(records)
}

/// After everything: no commit that missed the gate, no PANIC, no database that is half there, no
/// directory or file that belongs to nothing.
pub fn assert_untouched(node: &Server) -> Result<()> {
    assert_eq!(ungated(node)?, 0, "{}: commits that missed the gate", node.name());
    assert!(!node.log().contains("PANIC"), "{}: {}", node.name(), node.log());
    assert!(!node.log().contains("terminated by signal"), "{}: {}", node.name(), node.log());
    let invalid = "SELECT count(*) FROM pg_database WHERE datconnlimit = -2";
    assert_eq!(node.query_value(invalid)?, "0", "invalid databases");
    // What was dropped goes away with the next checkpoint.
    node.execute("CHECKPOINT; CHECKPOINT")?;
    let orphans = node.query(
        "SELECT 'base/' || f FROM pg_ls_dir('base') f
          WHERE f ~ '^[0-9]+$' AND NOT EXISTS (SELECT FROM pg_database WHERE oid::text = f)
         UNION ALL
         SELECT 'pg_tblspc/' || f FROM pg_ls_dir('pg_tblspc') f
          WHERE NOT EXISTS (SELECT FROM pg_tablespace WHERE oid::text = f)
         UNION ALL
         SELECT 'base/' || d.oid || '/' || f
           FROM pg_database d, LATERAL pg_ls_dir('base/' || d.oid) f
          WHERE d.datname = current_database() AND f ~ '^[0-9]+$'
            AND pg_filenode_relation(0, f::oid) IS NULL",
    )?;
    assert!(orphans.is_empty(), "{}: nobody's files: {orphans:?}", node.name());
    Ok(())
}
