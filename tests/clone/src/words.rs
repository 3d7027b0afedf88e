//! What a server says when it refuses.

use std::time::{Duration, Instant};

use test_cluster::postgres::error::DbError;
use test_cluster::{Cluster, Result, describe};

/// What "at once" may take on a busy machine.
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// The refusal of a statement.
///
/// # Panics
/// When it is not refused.
pub fn refusal(cluster: &Cluster, node: usize, sql: &str) -> Result<DbError> {
    let mut client = cluster.connect(node)?;
    let error = client.batch_execute(sql).expect_err(sql);
    Ok(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {}", describe(&error))).clone())
}

/// The same, which has to come at once.
///
/// # Panics
/// When it does not.
pub fn refusal_at_once(cluster: &Cluster, node: usize, sql: &str) -> Result<DbError> {
    let begun = Instant::now();
    let error = refusal(cluster, node, sql)?;
    assert!(begun.elapsed() < AT_ONCE, "{sql}: refused after {:?}", begun.elapsed());
    Ok(error)
}

/// All that an error says.
pub fn words(error: &DbError) -> String {
    let more = [error.detail(), error.hint()].map(Option::unwrap_or_default);
    format!("{} {} {} {}", error.code().code(), error.message(), more[0], more[1])
}
