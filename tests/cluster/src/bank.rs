//! The workload of the safety tests: money moves between accounts on different nodes, through every
//! node at once, in distributed transactions. A transfer that is half there shows: the total is
//! wrong, an entry has no counterpart, or a balance does not match its entries.

use std::collections::HashMap;
use std::sync::Arc;

use crate::audit::number;
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::error::{Error, Result, shorten};

/// The table of the balances.
pub(crate) const ACCOUNTS: &str = "accounts";

/// The table of what moved: two rows per transfer, each with its account.
pub(crate) const ENTRIES: &str = "entries";

const ACCOUNTS_DDL: &str = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)";
const ENTRIES_DDL: &str = "CREATE TABLE entries (account_id bigint NOT NULL, \
     transfer_id text NOT NULL, amount bigint NOT NULL, PRIMARY KEY (account_id, transfer_id))";

/// Few enough that each node has several and a look at all of them is quick.
const SHARDS: u32 = 8;

/// The accounts of a cluster, and what they were opened with.
#[derive(Clone, Debug)]
pub struct Bank {
    pub(crate) engine: Engine,
    accounts: i64,
    opening_balance: i64,
    /// The accounts that each node holds; nodes without any are left out.
    pub(crate) by_node: Arc<Vec<(usize, Vec<i64>)>>,
}

impl Bank {
    /// Creates the two tables, spread and colocated by account, and opens accounts 1 to `accounts`.
    pub fn create(cluster: &Cluster, accounts: u32, opening_balance: i64) -> Result<Bank> {
        cluster.create_distributed(ACCOUNTS_DDL, ACCOUNTS, "id", SHARDS)?;
        cluster.create_distributed(ENTRIES_DDL, ENTRIES, "account_id", SHARDS)?;
        let accounts = i64::from(accounts);
        let params = cluster.coordinator().connect_params();
        let mut client = params.connect()?;
        let mut run = |sql: &str| {
            client.batch_execute(sql).map_err(|error| params.sql_error(&shorten(sql), &error))
        };
        run("BEGIN")?;
        for id in 1..=accounts {
            run(&cluster.shard_sql(
                ACCOUNTS,
                id,
                &format!("INSERT INTO %s (id, balance) VALUES ({id}, {opening_balance})"),
            ))?;
        }
        run("COMMIT")?;

        let mut by_node: HashMap<usize, Vec<i64>> = HashMap::new();
        for row in cluster.read_all_shards(ACCOUNTS, "SELECT id FROM %s")? {
            let id = number(&row, 0)?;
            by_node.entry(row.node).or_default().push(id);
        }
        let mut by_node: Vec<(usize, Vec<i64>)> = by_node.into_iter().collect();
        by_node.sort();
        let bank = Bank {
            engine: cluster.engine(),
            accounts,
            opening_balance,
            by_node: Arc::new(by_node),
        };
        if bank.by_node.len() < 2 {
            return Err(Error::Environment(format!(
                "all {accounts} accounts are on one node, so no transfer would be distributed"
            )));
        }
        Ok(bank)
    }

    /// The same bank, whose writers only move money between accounts that were on certain nodes.
    ///
    /// # Panics
    /// When fewer than two of them hold accounts: there would be no transfer.
    pub fn between(&self, nodes: &[usize]) -> Bank {
        let by_node = self.by_node.iter().filter(|(node, _)| nodes.contains(node));
        let by_node: Vec<_> = by_node.cloned().collect();
        assert!(by_node.len() >= 2, "of {nodes:?} fewer than two hold accounts");
        Bank { by_node: Arc::new(by_node), ..self.clone() }
    }

    /// The same bank, whose writers leave some accounts alone.
    pub fn without(&self, accounts: &[i64]) -> Bank {
        let rest = |on: &Vec<i64>| on.iter().copied().filter(|id| !accounts.contains(id)).collect();
        let by_node = self.by_node.iter().map(|(node, on)| (*node, rest(on))).collect();
        Bank { by_node: Arc::new(by_node), ..self.clone() }
    }

    /// A bank for tests of the arithmetic, on no cluster.
    #[cfg(test)]
    pub(crate) fn for_tests(engine: Engine, accounts: i64, opening_balance: i64) -> Bank {
        Bank { engine, accounts, opening_balance, by_node: Arc::default() }
    }

    /// How many accounts it has.
    pub fn accounts(&self) -> i64 {
        self.accounts
    }

    /// What each account was opened with.
    pub fn opening_balance(&self) -> i64 {
        self.opening_balance
    }

    /// What all accounts together hold at any time.
    pub fn expected_total(&self) -> i64 {
        self.accounts * self.opening_balance
    }
}
