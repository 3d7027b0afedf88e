//! What the tests of the gate and of read-only nodes share: switching a node, trying to write, and
//! reading in its WAL what was written.
//!
//! The tests are in `tests/`, a file per question. Each runs on every engine that there is.

mod call;
mod kill;
mod load;
mod node;
pub mod reserved;
mod traces;
pub mod ways;

use std::time::Duration;

pub use call::Call;
pub use kill::Kill;
pub use load::{Load, Stubborn};
pub use node::{
    READ_ONLY, READ_WRITE, assert_agrees, await_closing, close, give_as, is_read_only, open,
    refused, serve, single, state_file, try_write_in, ungated, writes,
};
pub use test_cluster::postgres::Client;
use test_cluster::postgres::error::DbError;
pub use test_cluster::{Cluster, Engine, PATIENCE, Result, Server, StopMode, Stopped, wait_until};
pub use traces::{assert_untouched, traces_of_writers};

/// SQLSTATE of whatever a read-only node refuses.
pub const REFUSED: &str = "25006";
/// The words of every refusal.
pub const WORDS: &str = ": system is now read only";
/// What a session in the way hears last.
pub const LAST_WORDS: &str = "system is now read only";
/// How long what should be quick may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Runs a test on every engine there is, and says on which it failed.
pub fn on_each_engine(test: impl Fn(Engine) -> Result<()>) {
    for engine in Engine::available() {
        if let Err(error) = test(engine) {
            panic!("on {}: {error}", engine.name());
        }
    }
}

/// The error that a statement has to end with.
pub fn refusal(client: &mut Client, sql: &str) -> DbError {
    match client.simple_query(sql) {
        Ok(_) => panic!("{sql} succeeded"),
        Err(error) => db_error(sql, &error),
    }
}

/// The server's part of an error.
pub fn db_error(what: &str, error: &test_cluster::postgres::Error) -> DbError {
    match error.as_db_error() {
        Some(db) => db.clone(),
        None => panic!("{what}: {}", test_cluster::describe(error)),
    }
}

/// The first value of a query, as text.
pub fn value(client: &mut Client, sql: &str) -> String {
    use test_cluster::postgres::SimpleQueryMessage;
    let messages = client
        .simple_query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {}", test_cluster::describe(&error)));
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap_or_else(|| panic!("{sql} yielded nothing"))
}
