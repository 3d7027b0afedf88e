//! The books of the bank, checked. Every placement is read on its own node, so no planner, cache or
//! connection between nodes can hide what is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::bank::{ACCOUNTS, Bank, ENTRIES};
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::shards::ShardRow;

/// How many examples of each kind of damage are printed.
const EXAMPLES: usize = 5;

/// A transfer of which not exactly two entries with the sum zero are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfTransfer {
    /// Its id.
    pub transfer: String,
    /// How many of its entries are there.
    pub entries: usize,
    /// Their sum.
    pub sum: i64,
    /// The nodes that have them.
    pub nodes: Vec<usize>,
}

/// An account whose balance is not what its entries make of the opening balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceMismatch {
    /// The account.
    pub account: i64,
    /// The node that holds it.
    pub node: usize,
    /// What it holds.
    pub balance: i64,
    /// What it should hold.
    pub expected: i64,
}

/// A prepared transaction that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedLeft {
    /// The node it is on.
    pub node: usize,
    /// Its name.
    pub gid: String,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// What all accounts together hold.
    pub total: i64,
    /// What they should.
    pub expected_total: i64,
    /// How many accounts are there.
    pub accounts: i64,
    /// How many should be.
    pub expected_accounts: i64,
    /// How many transfers are there, whole or half.
    pub transfers: usize,
    /// Those that are half there.
    pub half_transfers: Vec<HalfTransfer>,
    /// Accounts that do not match their entries.
    pub balance_mismatches: Vec<BalanceMismatch>,
    /// Prepared transactions in the cluster's database, on any node.
    pub prepared_left: Vec<PreparedLeft>,
    /// Transfers that had to be there and are not, not even half.
    pub missing_acknowledged: Vec<String>,
}

impl Audit {
    /// Whether there is nothing to complain of.
    pub fn is_clean(&self) -> bool {
        self.total == self.expected_total
            && self.accounts == self.expected_accounts
            && self.half_transfers.is_empty()
            && self.balance_mismatches.is_empty()
            && self.prepared_left.is_empty()
            && self.missing_acknowledged.is_empty()
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "total {} of {}, {} of {} accounts, {} transfers",
            self.total, self.expected_total, self.accounts, self.expected_accounts, self.transfers
        )?;
        write_examples(f, "half there", &self.half_transfers)?;
        write_examples(f, "balance wrong", &self.balance_mismatches)?;
        write_examples(f, "still prepared", &self.prepared_left)?;
        write_examples(f, "acknowledged, but missing", &self.missing_acknowledged)
    }
}

fn write_examples<T: fmt::Debug>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    found: &[T],
) -> fmt::Result {
    if found.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {kind}: {}", found.len())?;
    for example in found.iter().take(EXAMPLES) {
        write!(f, "\n    {example:?}")?;
    }
    if found.len() > EXAMPLES {
        write!(f, "\n    …")?;
    }
    Ok(())
}

/// What is known of one transfer.
#[derive(Default)]
struct Seen {
    entries: usize,
    sum: i64,
    nodes: Vec<usize>,
}

impl Bank {
    /// Checks the books of a cluster that is at rest: the one the bank was opened in, or a restored
    /// copy of it. `acknowledged` are the transfers that have to be there.
    pub fn audit<'a>(
        &self,
        cluster: &Cluster,
        acknowledged: impl IntoIterator<Item = &'a str>,
    ) -> Result<Audit> {
        let balances = cluster.read_all_shards(ACCOUNTS, "SELECT id, balance FROM %s")?;
        let entries =
            cluster.read_all_shards(ENTRIES, "SELECT account_id, transfer_id, amount FROM %s")?;
        let prepared_left = prepared_transactions(cluster)?;
        self.check(&balances, &entries, prepared_left, acknowledged)
    }

    /// Checks the books as snapshots of the nodes show them, one per node by its number, whatever is going on
    /// since.
    pub fn audit_under(&self, cluster: &Cluster, snapshots: &[String]) -> Result<Audit> {
        let read = |table, sql| cluster.read_all_shards_under(snapshots, table, sql);
        let balances = read(ACCOUNTS, "SELECT id, balance FROM %s")?;
        let entries = read(ENTRIES, "SELECT account_id, transfer_id, amount FROM %s")?;
        self.check(&balances, &entries, Vec::new(), std::iter::empty())
    }

    /// The arithmetic, apart from the reading.
    fn check<'a>(
        &self,
        balances: &[ShardRow],
        entries: &[ShardRow],
        prepared_left: Vec<PreparedLeft>,
        acknowledged: impl IntoIterator<Item = &'a str>,
    ) -> Result<Audit> {
        let mut transfers: BTreeMap<&str, Seen> = BTreeMap::new();
        let mut moved: HashMap<i64, i64> = HashMap::new();
        for row in entries {
            let account = number(row, 0)?;
            let amount = number(row, 2)?;
            let seen = transfers.entry(text(row, 1)?).or_default();
            seen.entries += 1;
            seen.sum += amount;
            seen.nodes.push(row.node);
            *moved.entry(account).or_default() += amount;
        }

        let mut total = 0;
        let mut found = HashSet::new();
        let mut balance_mismatches = Vec::new();
        for row in balances {
            let (account, balance) = (number(row, 0)?, number(row, 1)?);
            let expected = self.opening_balance() + moved.get(&account).copied().unwrap_or(0);
            total += balance;
            // The same account on two nodes is as wrong as a wrong balance.
            if !found.insert(account) || balance != expected {
                balance_mismatches.push(BalanceMismatch {
                    account,
                    node: row.node,
                    balance,
                    expected,
                });
            }
        }

        let missing_acknowledged = acknowledged
            .into_iter()
            .filter(|transfer| !transfers.contains_key(transfer))
            .map(str::to_owned)
            .collect();
        let count = transfers.len();
        let half_transfers = transfers
            .into_iter()
            .filter(|(_, seen)| seen.entries != 2 || seen.sum != 0)
            .map(|(transfer, seen)| HalfTransfer {
                transfer: transfer.to_owned(),
                entries: seen.entries,
                sum: seen.sum,
                nodes: seen.nodes,
            })
            .collect();
        Ok(Audit {
            total,
            expected_total: self.expected_total(),
            accounts: i64::try_from(found.len()).unwrap_or(i64::MAX),
            expected_accounts: self.accounts(),
            transfers: count,
            half_transfers,
            balance_mismatches,
            prepared_left,
            missing_acknowledged,
        })
    }
}

/// All prepared transactions of a cluster's database, whoever they belong to.
pub fn prepared_transactions(cluster: &Cluster) -> Result<Vec<PreparedLeft>> {
    let mut left = Vec::new();
    for (node, server) in cluster.nodes().iter().enumerate() {
        let rows = server.query(
            "SELECT gid FROM pg_catalog.pg_prepared_xacts \
             WHERE database = pg_catalog.current_database() ORDER BY gid",
        )?;
        left.extend(rows.into_iter().flatten().flatten().map(|gid| PreparedLeft { node, gid }));
    }
    Ok(left)
}

fn text(row: &ShardRow, column: usize) -> Result<&str> {
    row.values.get(column).and_then(Option::as_deref).ok_or_else(|| unreadable(row))
}

pub(crate) fn number(row: &ShardRow, column: usize) -> Result<i64> {
    text(row, column)?.parse().map_err(|_| unreadable(row))
}

fn unreadable(row: &ShardRow) -> Error {
    Error::Environment(format!(
        "shard {} on node {} has a row that cannot be read: {:?}",
        row.shardid, row.node, row.values
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;

    fn row(node: usize, values: &[&str]) -> ShardRow {
        ShardRow {
            shardid: 1,
            node,
            values: values.iter().map(|value| Some((*value).to_owned())).collect(),
        }
    }

    fn check(balances: &[ShardRow], entries: &[ShardRow], wanted: &[&str]) -> Result<Audit> {
        Bank::for_tests(Engine::Embedded, 2, 100).check(
            balances,
            entries,
            Vec::new(),
            wanted.iter().copied(),
        )
    }

    #[test]
    fn whole_transfers_are_clean() -> Result<()> {
        let audit = check(
            &[row(1, &["1", "90"]), row(2, &["2", "110"])],
            &[row(1, &["1", "t1", "-10"]), row(2, &["2", "t1", "10"])],
            &["t1"],
        )?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    }

    #[test]
    fn half_a_transfer_shows() -> Result<()> {
        let audit = check(
            &[row(1, &["1", "90"]), row(2, &["2", "100"])],
            &[row(1, &["1", "t1", "-10"])],
            &["t1"],
        )?;
        assert!(!audit.is_clean());
        assert_eq!(audit.total, 190);
        assert_eq!(audit.half_transfers.len(), 1);
        assert_eq!(audit.half_transfers[0].nodes, [1]);
        assert!(audit.balance_mismatches.is_empty());
        Ok(())
    }

    #[test]
    fn a_balance_without_its_entry_shows() -> Result<()> {
        let audit = check(&[row(1, &["1", "90"]), row(2, &["2", "110"])], &[], &[])?;
        assert_eq!(audit.total, audit.expected_total);
        assert_eq!(audit.balance_mismatches.len(), 2);
        Ok(())
    }

    #[test]
    fn lost_accounts_and_transfers_show() -> Result<()> {
        let audit = check(&[row(1, &["1", "200"])], &[], &["t1"])?;
        assert_eq!(audit.accounts, 1);
        assert_eq!(audit.missing_acknowledged, ["t1"]);
        assert!(!audit.is_clean());
        Ok(())
    }
}
