//! What a server has written to its WAL, read with the real pg_waldump.

use crate::binaries::{Installation, run};
use crate::control_file;
use crate::error::{Error, Result};
use crate::server::Server;

/// One record, as pg_waldump shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalRecord {
    /// The resource manager, such as `Heap` or `Transaction`.
    pub manager: String,
    /// The transaction that wrote it; 0 for none.
    pub xid: u64,
    /// Where it begins, as the server writes positions.
    pub lsn: String,
    /// What it does, beginning with its kind: `COMMIT 2031-05-01 …`.
    pub what: String,
}

impl WalRecord {
    /// The first word of what it does.
    pub fn kind(&self) -> &str {
        self.what.split_whitespace().next().unwrap_or_default()
    }

    /// Whether it commits something, or prepares something to be committed.
    pub fn is_commit(&self) -> bool {
        self.manager == "Transaction"
            && ["COMMIT", "PREPARE", "COMMIT_PREPARED"].contains(&self.kind())
    }

    fn parse(line: &str) -> Option<WalRecord> {
        let manager = line.strip_prefix("rmgr: ")?.split_whitespace().next()?;
        let field = |name: &str| {
            let rest = &line[line.find(name)? + name.len()..];
            rest.split(',').next().map(str::trim)
        };
        Some(WalRecord {
            manager: manager.to_owned(),
            xid: field(", tx:")?.parse().ok()?,
            lsn: field(", lsn:")?.to_owned(),
            what: line.split_once(", desc: ")?.1.to_owned(),
        })
    }
}

/// The name of the file that holds the byte so many before a position.
fn wal_file(timeline: u32, lsn: &str, before: u64) -> Option<String> {
    let (high, low) = lsn.split_once('/')?;
    let high = u64::from_str_radix(high, 16).ok()?;
    let low = u64::from_str_radix(low, 16).ok()?;
    Some(control_file::wal_file_name(timeline, ((high << 32) | low).checked_sub(before)?))
}

impl Server {
    /// Where the next record will be inserted.
    pub fn wal_position(&self) -> Result<String> {
        self.query_value("SELECT pg_current_wal_insert_lsn()")
    }

    /// All records that begin at or after a position, up to a checkpoint that is made for this, so
    /// that what is returned is known to reach to now. The checkpoint's own records are among them.
    pub fn wal_since(&self, from: &str) -> Result<Vec<WalRecord>> {
        self.execute("CHECKPOINT")?;
        let row = self.query(
            "SELECT pg_current_wal_flush_lsn(), left(pg_walfile_name(pg_current_wal_flush_lsn()), 8)",
        )?;
        let (to, timeline) = match row.first().map(Vec::as_slice) {
            Some([Some(to), Some(timeline)]) => (to.clone(), timeline.clone()),
            _ => return Err(self.error("does not say where its WAL ends")),
        };
        let timeline = u32::from_str_radix(&timeline, 16)
            .map_err(|_| self.error(format!("has the timeline {timeline}")))?;
        // The end is the first byte that is not to be read.
        let (Some(first), Some(last)) = (wal_file(timeline, from, 0), wal_file(timeline, &to, 1))
        else {
            return Err(self.error(format!("is asked for WAL from {from:?} to {to:?}")));
        };
        let mut command = Installation::current()?.command("pg_waldump")?;
        command
            .arg("-p")
            .arg(self.data_dir().join("pg_wal"))
            .args(["-s", from, "-e", &to])
            // Named, as it would look for the files' size in any of them, also in one yet to be filled.
            .args([first, last]);
        let text = run(self.name(), Some(&self.log_path()), &mut command)?;
        let records: Vec<WalRecord> = text.lines().filter_map(WalRecord::parse).collect();
        if records.iter().any(|record| record.kind() == "CHECKPOINT_ONLINE") {
            Ok(records)
        } else {
            Err(Error::Server {
                server: self.name().into(),
                what: format!("pg_waldump from {from} to {to} did not reach the checkpoint").into(),
                log: text.into(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_file_of_a_position() {
        let name = wal_file(1, "2/4FD4E90", 0);
        assert_eq!(name.as_deref(), Some("000000010000000200000004"));
        assert_eq!(wal_file(1, "2/5000000", 1), name);
        assert_eq!(wal_file(1, "nowhere", 0), None);
    }

    #[test]
    fn reads_a_line() {
        let line = "rmgr: Transaction len (rec/tot):     34/    34, tx:        738, lsn: \
             0/0163C0B0, prev 0/0163C070, desc: COMMIT 2031-05-01 10:00:00.1 UTC; inval: x, y";
        let record = WalRecord::parse(line);
        assert_eq!(
            record,
            Some(WalRecord {
                manager: "Transaction".into(),
                xid: 738,
                lsn: "0/0163C0B0".into(),
                what: "COMMIT 2031-05-01 10:00:00.1 UTC; inval: x, y".into(),
            })
        );
        assert!(record.is_some_and(|record| record.is_commit()));
        assert_eq!(WalRecord::parse("pg_waldump: error: whatever"), None);
    }
}
