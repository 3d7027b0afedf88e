//! Clusters in other databases of this server that are noted as read-only.
//!
//! Whether a server writes is the same for all its databases; that their cluster is to be read-only is noted in the
//! one that was asked.  So who is read-only without a note has one in another database; and what is opened from one
//! database is open for the others, whose notes would go on saying something else.

use std::time::Duration;

use pgrx::{PgLogLevel, PgSqlErrorCode};
use remote::{Command, Deadline, Reply, Session, Waiter, connect_all, run_all};

use super::intent::REMOVE;
use crate::citus::databases::{MOST, in_database, other_databases};
use crate::citus::myself::must_be_home;
use crate::citus::{Node, Roster};
use crate::fence::statements;
use crate::pg::elog;
use crate::pg::fd::ReservedDescriptors;
use crate::report::Report;

/// What all of them together may take.
const BOUND: Duration = Duration::from_secs(5);

/// Whether the extension is there, and the note's table is its own: these sessions are a superuser's.
const HAS_NOTE: &str = "SELECT EXISTS (SELECT FROM pg_extension e \
     JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' \
     JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid \
     JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE e.extname = 'citus_fence' AND n.nspname = 'citus_fence' AND c.relname = 'cluster_read_only' \
      AND c.relkind = 'r') AS has_note";

/// The nodes of a cluster that is noted; nothing where it is not.
const NODES: &str = "SELECT nodename AS host, nodeport AS port FROM pg_dist_node \
     WHERE noderole::text = 'primary' AND EXISTS (SELECT FROM citus_fence.cluster_read_only) \
    UNION ALL SELECT NULL, NULL FROM citus_fence.cluster_read_only";

/// One that is noted.
struct Noted {
    database: String,
    nodes: Vec<(String, i32)>,
    session: Session,
}

/// What was found.
#[derive(Default)]
struct Found {
    noted: Vec<Noted>,
    /// Databases of which it is not known.
    unknown: Vec<String>,
    _descriptors: Option<ReservedDescriptors>,
}

/// The databases of this server whose clusters are noted as read-only.
pub fn noted<W: Waiter>(waiter: &mut W, roster: &Roster) -> Vec<String> {
    look(waiter, roster).noted.into_iter().map(|noted| noted.database).collect()
}

/// After all nodes of this database's cluster were told to write: takes the notes of those away that are open with it,
/// and says what became of the others.
pub fn opened<W: Waiter>(waiter: &mut W, roster: &Roster) {
    let Found { noted, unknown, _descriptors } = look(waiter, roster);
    let by = Deadline::after(waiter, BOUND);
    for Noted { database, nodes, mut session } in noted {
        let call = "SELECT citus_set_cluster_read_write();";
        let is_known = |node: &Node, at: &(String, i32)| (&node.host, node.port) == (&at.0, at.1);
        let is_open = |at: &(String, i32)| roster.nodes().iter().any(|node| is_known(node, at));
        let what = if !nodes.iter().all(is_open) {
            Err("it has nodes that are not among those of this one".to_owned())
        } else {
            let remove = Command::new("end of another database's note of a switch", REMOVE);
            session.run(waiter, remove, by).map(drop).map_err(|error| error.to_string())
        };
        warn(match what {
            Ok(()) => Report::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("the cluster in database \"{database}\" takes writes again, too"),
            )
            .detail("It was read only, and its nodes are the same servers."),
            Err(why) => Report::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("the cluster in database \"{database}\" is noted as read only, and takes writes again in part"),
            )
            .detail(format!("Its note was left: {why}."))
            .hint(format!("To let all of its nodes write, in that database, on its coordinator: {call}")),
        });
    }
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        let report = Report::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!(
                "whether clusters in other databases are noted as read only is not known: {names}"
            ),
        )
        .detail("Those on the same servers take writes again, too.");
        elog::emit(PgLogLevel::NOTICE, &report);
    }
}

fn warn(report: Report) {
    elog::emit(PgLogLevel::WARNING, &report);
}

fn look<W: Waiter>(waiter: &mut W, roster: &Roster) -> Found {
    let mut names: Vec<String> = other_databases().into_iter().map(|other| other.name).collect();
    let skipped = names.split_off(names.len().min(MOST));
    let mut found = Found { unknown: skipped, ..Found::default() };
    let Some(own) = roster.targets().first().filter(|_| !names.is_empty()) else { return found };
    found._descriptors = ReservedDescriptors::acquire(names.len());
    if found._descriptors.is_none() {
        found.unknown.extend(names);
        return found;
    }
    let by = Deadline::after(waiter, BOUND);
    let targets: Vec<_> = names.iter().map(|name| in_database(own, name)).collect();
    let mut open: Vec<(String, Session)> = Vec::new();
    for (name, session) in names.into_iter().zip(connect_all(waiter, &targets, by)) {
        match session {
            Ok(session) => open.push((name, session)),
            Err(_) => found.unknown.push(name),
        }
    }
    let has_note = ask(waiter, &mut open, HAS_NOTE, by);
    let mut with_note = Vec::new();
    for ((name, mut session), reply) in open.into_iter().zip(has_note) {
        match reply
            .as_ref()
            .and_then(|reply| reply.sets.iter().find_map(|set| set.value(0, "has_note")))
        {
            Some("f") => {}
            Some(_) if must_be_home(waiter, &mut session, by).is_ok() => {
                with_note.push((name, session));
            }
            _ => found.unknown.push(name),
        }
    }
    let nodes = ask(waiter, &mut with_note, NODES, by);
    for ((database, session), reply) in with_note.into_iter().zip(nodes) {
        match reply {
            None => found.unknown.push(database),
            Some(reply) => {
                let (mut is_noted, mut nodes) = (false, Vec::new());
                for set in &reply.sets {
                    for row in 0..set.rows.len() {
                        is_noted = true;
                        let port = set.value(row, "port").and_then(|port| port.parse().ok());
                        nodes.extend(set.value(row, "host").map(str::to_owned).zip(port));
                    }
                }
                if is_noted {
                    found.noted.push(Noted { database, nodes, session });
                }
            }
        }
    }
    found
}

/// Asks all of them; nothing where there was no answer.
fn ask<W: Waiter>(
    waiter: &mut W,
    sessions: &mut [(String, Session)],
    question: &str,
    by: Deadline,
) -> Vec<Option<Reply>> {
    let sql =
        format!("{}; {question}; COMMIT", statements::begin_helper(statements::HELPER_IDLE_MS));
    let mut sessions: Vec<&mut Session> = sessions.iter_mut().map(|(_, session)| session).collect();
    let command = |_| Command::new("look for another database's note of a switch", sql.as_str());
    run_all(waiter, &mut sessions, command, by).into_iter().map(Result::ok).collect()
}
