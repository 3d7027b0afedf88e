//! Asking the coordinator: who it is first, then what it knows.

use chrono::{DateTime, Utc};
use remote::{RemoteError, Reply};

use super::answer::{Answerer, Block, Node, State, Status, WaitingSession};
use crate::databases::{IS_EMPTIED, emptied};
use crate::failure::Failure;
use crate::rows::{Row, only_row, rows};
use crate::server::Server;

/// Which node it is, and who the coordinator is.
const WHICH_NODE: &str = "SELECT g.groupid, n.nodename, n.nodeport
  FROM pg_dist_local_group g
       LEFT JOIN pg_dist_node n ON n.groupid = 0 AND n.noderole::text = 'primary'
 LIMIT 1";

/// All of it.
pub fn status(server: &mut Server<'_>) -> Result<Status, Failure> {
    let who = server.ask("ask who answers", &who_sql())?;
    let who = only_row(&who)?;
    let answerer = answerer(server, who)?;
    let home: String = who.get("home")?;
    let call = |columns: &str, function: &str| format!("SELECT {columns} FROM {home}.{function}()");

    let number_and_mode = if who.is_true("has_numbers")? {
        "block_id, mode"
    } else {
        "NULL::bigint AS block_id, NULL::text AS mode"
    };
    let columns = format!(
        "state, worker_pid, requestor_pid, {}, timeout_ms, node_count, {}, error, {number_and_mode}",
        utc("block_start_time"),
        utc("expires_at")
    );
    let reply = server.ask("block's status", &call(&columns, "citus_backup_block_status"))?;
    let block = block(only_row(&reply)?)?;
    let mut findings: Vec<String> = match (block.state, &block.error) {
        (State::Error, error) => vec![format!(
            "the last block ended without being asked to: {}",
            error.as_deref().unwrap_or("no reason is known")
        )],
        _ => Vec::new(),
    };

    let nodes = if who.is_true("may_see_nodes")? {
        let columns = format!(
            "nodeid, groupid, nodename, nodeport, backend_pid, {}, system_identifier, timeline_id, \
             wal_lsn",
            utc("locked_at")
        );
        let reply = server.ask("block's nodes", &call(&columns, "citus_backup_block_nodes"))?;
        Some(all(&reply, node)?)
    } else {
        None
    };

    // Last, as an error of it ends the transaction; of a node that does not answer, say, which says
    // nothing against the block.
    let mut waiters = None;
    if who.is_true("may_see_waiters")? {
        let columns =
            format!("nodeid, nodename, nodeport, pid, usename, {}, query", utc("waiting_since"));
        match server.ask("search for waiters", &call(&columns, "citus_backup_block_waiters")) {
            Ok(reply) => waiters = Some(all(&reply, waiting_session)?),
            Err(Failure::Remote(error @ RemoteError::Query { .. })) => {
                findings.push(format!("who waits is not known: {error}"));
            }
            Err(other) => return Err(other),
        }
    }
    let asked_at = who.get("asked_at")?;
    Ok(Status { asked_at, server: answerer, block, nodes, waiters, findings })
}

/// The coordinator, or why it is none.
pub fn coordinator(server: &mut Server<'_>) -> Result<Answerer, Failure> {
    let who = server.ask("ask who answers", &who_sql())?;
    answerer(server, only_row(&who)?)
}

/// Who answers, and what is there.
fn who_sql() -> String {
    let may_call = |function: &str, name: &str| {
        format!(
            "has_function_privilege(to_regprocedure(quote_ident(n.nspname) || '.{function}()'), \
             'EXECUTE') AS {name}"
        )
    };
    format!(
        "SELECT {}, current_database() AS database, session_user AS username,
       current_setting('server_version') AS postgresql, pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       to_regclass('pg_catalog.pg_dist_local_group') IS NOT NULL AS has_catalog,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citus_fence') AS available,
       e.extversion AS citus_fence, quote_ident(n.nspname) AS home,
       (SELECT 'block_id' = ANY (proargnames) FROM pg_proc
         WHERE oid = to_regprocedure(quote_ident(n.nspname) || '.citus_backup_block_status()')) AS has_numbers,
       {}, {}
  FROM (VALUES (now())) AS one(asked_at)
       LEFT JOIN pg_extension e ON e.extname = 'citus_fence'
       LEFT JOIN pg_namespace n ON n.oid = e.extnamespace",
        utc("asked_at"),
        may_call("citus_backup_block_nodes", "may_see_nodes"),
        may_call("citus_backup_block_waiters", "may_see_waiters"),
    )
}

/// A time, in a session that shows UTC, in the form of RFC 3339.
fn utc(column: &str) -> String {
    format!(r#"to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {column}"#)
}

/// The server that answered, which has to be a coordinator with the extension: on any other an
/// answer would be "no block", and true only of that server.
fn answerer(server: &mut Server<'_>, who: Row<'_>) -> Result<Answerer, Failure> {
    let place = server.place().clone();
    let database: String = who.get("database")?;
    let Some(citus_fence) = who.maybe("citus_fence")? else {
        let available = who.is_true("available")?;
        return Err(Failure::NoExtension { server: place.to_string(), database, available });
    };
    if who.is_true("in_recovery")? {
        return Err(Failure::Standby { server: place.to_string() });
    }
    if !who.is_true("has_catalog")? {
        return Err(Failure::NoCatalog { server: place.to_string(), database });
    }
    let which = server.ask("ask which node it is", WHICH_NODE)?;
    let which = only_row(&which)?;
    let group: i32 = which.get("groupid")?;
    if group != 0 {
        let host = which.maybe("nodename")?;
        let coordinator = host.zip(which.maybe("nodeport")?);
        return Err(Failure::Worker { server: place.to_string(), group, coordinator });
    }
    let is_emptied = format!("SELECT {IS_EMPTIED} AS is_emptied");
    if only_row(&server.ask("look for the cluster's nodes", &is_emptied)?)?.is_true("is_emptied")? {
        return Err(emptied(&place));
    }
    Ok(Answerer {
        host: place.host,
        port: place.port,
        database,
        user: who.get("username")?,
        system_identifier: system_identifier(who)?,
        postgresql: who.get("postgresql")?,
        citus_fence,
    })
}

fn block(row: Row<'_>) -> Result<Block, RemoteError> {
    Ok(Block {
        state: row.get("state")?,
        worker_pid: row.maybe("worker_pid")?,
        requestor_pid: row.maybe("requestor_pid")?,
        block_start_time: time(row, "block_start_time")?,
        timeout_ms: row.maybe("timeout_ms")?,
        node_count: row.maybe("node_count")?,
        expires_at: time(row, "expires_at")?,
        error: row.maybe("error")?,
        block_id: row.maybe("block_id")?,
        mode: row.maybe("mode")?,
    })
}

fn node(row: Row<'_>) -> Result<Node, RemoteError> {
    Ok(Node {
        nodeid: row.maybe("nodeid")?,
        groupid: row.get("groupid")?,
        nodename: row.get("nodename")?,
        nodeport: row.get("nodeport")?,
        backend_pid: row.get("backend_pid")?,
        locked_at: time(row, "locked_at")?,
        system_identifier: system_identifier(row)?,
        timeline_id: row.get("timeline_id")?,
        wal_lsn: row.get("wal_lsn")?,
    })
}

fn waiting_session(row: Row<'_>) -> Result<WaitingSession, RemoteError> {
    Ok(WaitingSession {
        nodeid: row.maybe("nodeid")?,
        nodename: row.get("nodename")?,
        nodeport: row.get("nodeport")?,
        pid: row.get("pid")?,
        usename: row.maybe("usename")?,
        waiting_since: time(row, "waiting_since")?,
        query: row.maybe("query")?,
    })
}

/// What is made of every row.
fn all<T>(
    reply: &Reply,
    make: impl Fn(Row<'_>) -> Result<T, RemoteError>,
) -> Result<Vec<T>, RemoteError> {
    rows(reply)?.map(make).collect()
}

fn time(row: Row<'_>, column: &str) -> Result<Option<DateTime<Utc>>, RemoteError> {
    row.maybe(column)
}

/// SQL shows the unsigned number with a sign.
fn system_identifier(row: Row<'_>) -> Result<String, RemoteError> {
    Ok(row.get::<i64>("system_identifier")?.cast_unsigned().to_string())
}
