//! What the tests work on: accounts spread over both workers, and functions on every node that hide
//! how each engine writes to them, so that one test and one expected output serve both.

use std::fs;
use std::path::Path;

use test_cluster::{Cluster, Engine};

use crate::Result;

/// Enough for two accounts on each worker, wherever the hash puts them.
const ACCOUNTS: i32 = 20;
/// How many accounts of each worker the tests can name.
const PER_WORKER: usize = 2;
const SHARDS: u32 = 4;

/// Makes the accounts, with 100 on each, and the functions.
pub fn create(cluster: &Cluster, sources: &Path) -> Result<()> {
    let table = "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)";
    cluster.create_distributed(table, "accounts", "id", SHARDS)?;
    let deposits: Vec<String> = (1..=ACCOUNTS)
        .map(|id| {
            let insert = format!("INSERT INTO %s (id, balance) VALUES ({id}, 100)");
            cluster.shard_sql("accounts", id, &insert)
        })
        .collect();
    cluster.coordinator().execute(&deposits.join(";"))?;

    let engine = format!("setup_{}.sql", cluster.engine());
    for file in ["setup.sql", &engine] {
        execute_everywhere(cluster, &fs::read_to_string(sources.join(file))?)?;
    }
    execute_everywhere(cluster, &account_function(cluster)?)
}

/// `account(worker, number)`: the id of an account on that worker.
fn account_function(cluster: &Cluster) -> Result<String> {
    let rows = cluster.read_all_shards("accounts", "SELECT id FROM %s ORDER BY id")?;
    let mut branches = String::new();
    for worker in 1..=cluster.workers().len() {
        let ids: Vec<&str> = rows
            .iter()
            .filter(|row| row.node == worker)
            .filter_map(|row| row.values.first()?.as_deref())
            .take(PER_WORKER)
            .collect();
        if ids.len() < PER_WORKER {
            return Err(format!("worker {worker} has only {} of the accounts", ids.len()).into());
        }
        branches.push_str(&format!(" WHEN {worker} THEN (ARRAY[{}])[number]", ids.join(",")));
    }
    Ok(format!(
        "CREATE FUNCTION account(worker int, number int) RETURNS int LANGUAGE sql IMMUTABLE \
         RETURN CASE worker{branches} END"
    ))
}

/// On every node by itself: Citus would otherwise carry some of it to the workers, and not all.
fn execute_everywhere(cluster: &Cluster, sql: &str) -> Result<()> {
    let local = match cluster.engine() {
        Engine::Citus => "SET citus.enable_ddl_propagation = off;",
        Engine::Embedded => "",
    };
    Ok(cluster.execute_everywhere(&format!("{local}{sql}"))?)
}
