//! How far the clone is behind its source.

use remote::{Session, Waiter};

use super::error::CloneError;
use super::links::{Links, Map, SHORT, ask};
use super::statements::query;
use crate::pg::quote::literal;

/// How many bytes the clone lags behind its source, where that is known.
pub fn lag<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    links: &mut Links,
) -> Result<Option<i64>, CloneError> {
    let sql = query("SELECT pg_current_wal_flush_lsn()::text AS lsn");
    let source = &mut links.lines[map.source];
    let reply = ask(waiter, source, "look how far the source is", &sql, SHORT)?;
    let lsn = reply.single_value()?.to_owned();
    lag_behind(waiter, &mut links.clone, &lsn)
}

/// The same behind a position.
pub fn lag_behind<W: Waiter>(
    waiter: &mut W,
    clone: &mut Session,
    lsn: &str,
) -> Result<Option<i64>, CloneError> {
    let sql = query(&format!(
        "SELECT greatest(0, {}::pg_lsn - pg_last_wal_replay_lsn())::bigint AS lag",
        literal(lsn)
    ));
    let reply = ask(waiter, clone, "look how far the clone is", &sql, SHORT)?;
    Ok(reply.last_set()?.value(0, "lag").and_then(|text| text.parse().ok()))
}
