//! What can go wrong, each with what to do, and how it is told.

use std::io;
use std::path::PathBuf;

use remote::{ConnInfoError, RemoteError};
use serde::Serialize;

use crate::block::BlockFailure;
use crate::dump::DumpError;
use crate::exit::Exit;
use crate::lease::Trouble;
use crate::restore::Fault;
use crate::restore_dump::RestoreDumpError;

/// Why the program ends without having done what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// `--dbname` is to be a connection string and is none.
    #[error("--dbname: {0}")]
    BadConnInfo(ConnInfoError),
    /// A session failed, or what was asked in it.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// A signal.
    #[error("ended by {signal}")]
    ToldToStop {
        /// Its name.
        signal: &'static str,
    },
    /// The extension is not in the database.
    #[error("the extension citus_fence does not exist in database \"{database}\" of {server}")]
    NoExtension {
        /// Where.
        server: String,
        /// The database.
        database: String,
        /// Whether its files are there.
        available: bool,
    },
    /// The database is not distributed.
    #[error("database \"{database}\" of {server} has no Citus catalog")]
    NoCatalog {
        /// Where.
        server: String,
        /// The database.
        database: String,
    },
    /// Asked the wrong node.
    #[error("{server} is a worker (group {group}), and only the coordinator knows of a block")]
    Worker {
        /// Where.
        server: String,
        /// Its group.
        group: i32,
        /// Host and port of the coordinator, where the worker knows.
        coordinator: Option<(String, i32)>,
    },
    /// Asked a standby.
    #[error("{server} is a standby, and only the coordinator's primary knows of a block")]
    Standby {
        /// Where.
        server: String,
    },
    /// A dump.
    #[error("{0}")]
    Dump(#[from] DumpError),
    /// The restore of a dump.
    #[error("{0}")]
    RestoreDump(#[from] RestoreDumpError),
    /// A restore cannot begin, or not go on.
    #[error("{0}")]
    Restore(#[from] Fault),
    /// A cluster is not what it has to be before anything in it is decided.
    #[error("{what}")]
    Unfit {
        /// What is wrong, with the node's name.
        what: String,
        /// What to do.
        todo: String,
    },
    /// A backup or a dump is not what was written.
    #[error("damaged: {}", dir.display())]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// A sentence for each part.
        damaged: Vec<String>,
    },
    /// Standard output takes nothing.
    #[error("could not write to standard output: {0}")]
    Output(io::Error),
    /// The extension does not know blocks by number.
    #[error(
        "the extension citus_fence of {server} is of version {version}, and this needs 0.2.0 or later"
    )]
    TooOld {
        /// Where.
        server: String,
        /// Its version.
        version: String,
    },
    /// The block did not last, or never began.
    #[error(transparent)]
    Block(#[from] BlockFailure),
    /// A block did not last for as long as it was needed.
    #[error("block {id} did not last: {why}")]
    NotHeld {
        /// Its number.
        id: i64,
        /// Why.
        why: String,
        /// It was ended here, after `--max`.
        is_over: bool,
    },
    /// What is in a directory is in the way.
    #[error("{dir}: {what}")]
    Directory {
        /// Which.
        dir: String,
        /// What is wrong.
        what: String,
        /// What to do.
        todo: &'static str,
    },
    /// A node is not what it has to be, or something failed on it.
    #[error("{node}: {what}")]
    Node {
        /// Which.
        node: String,
        /// What is wrong.
        what: String,
        /// What to do.
        todo: Option<String>,
    },
    /// A restore point with no such name.
    #[error("a restore point cannot be called \"{name}\": its name has 1 to {longest} bytes")]
    WrongName {
        /// The name.
        name: String,
        /// How long it may be.
        longest: usize,
    },
    /// `--node` names a group that is not there.
    #[error("--node {group}: the cluster has no node of that group")]
    UnknownGroup {
        /// Which.
        group: i32,
    },
    /// A restore point that is no moment of all nodes.
    #[error("the restore point \"{name}\" must not be used: {why}")]
    PointUnusable {
        /// Its name.
        name: String,
        /// Why.
        why: Box<Failure>,
    },
    /// What `--dir` keeps of a restore point could not be written.
    #[error(
        "the restore point \"{name}\" was made, and what `restore all` needs of it was not kept: {why}"
    )]
    PointNotKept {
        /// Its name.
        name: String,
        /// Why.
        why: Box<Failure>,
    },
    /// The archives may lack a restore point.
    #[error(
        "the restore point \"{name}\" is on all nodes, and not known to be in every archive: {why}"
    )]
    NotArchived {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
        /// Where what a restore needs of it was kept.
        dir: Option<PathBuf>,
    },
    /// Nodes have not archived in time.
    #[error("not archived within {limit}: {late}")]
    Late {
        /// How long was waited.
        limit: String,
        /// Who has not, and why.
        late: String,
    },
    /// A file.
    #[error("could not {what} {path}: {error}")]
    File {
        /// What was tried: `write`.
        what: &'static str,
        /// Its path.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// No thread.
    #[error("could not start a thread: {0}")]
    Thread(io::Error),
    /// No handler for signals.
    #[error("could not listen to signals: {0}")]
    Signals(io::Error),
}

/// A failure as it is told: in lines, or as one JSON object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What went wrong, with the names of the server and of what was asked.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The server's SQLSTATE, if a server spoke.
    pub sqlstate: Option<String>,
    /// The exit code.
    pub exit_code: u8,
}

impl Failure {
    /// The exit code it ends the program with.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::BadConnInfo(_)
            | Failure::WrongName { .. }
            | Failure::UnknownGroup { .. }
            | Failure::Directory { .. } => Exit::WrongUse,
            Failure::Block(failure) => failure.exit(),
            Failure::Dump(error) => error.exit(),
            Failure::RestoreDump(error) => error.exit(),
            Failure::Restore(fault) => fault.exit(),
            Failure::Remote(_)
            | Failure::ToldToStop { .. }
            | Failure::NoExtension { .. }
            | Failure::NoCatalog { .. }
            | Failure::Worker { .. }
            | Failure::Standby { .. }
            | Failure::Unfit { .. }
            | Failure::Damaged { .. }
            | Failure::Output(_)
            | Failure::TooOld { .. }
            | Failure::Node { .. }
            | Failure::PointUnusable { .. }
            | Failure::PointNotKept { .. }
            | Failure::NotArchived { .. }
            | Failure::Late { .. }
            | Failure::NotHeld { .. }
            | Failure::File { .. }
            | Failure::Thread(_)
            | Failure::Signals(_) => Exit::Failed,
        }
    }

    /// A block that has ended before it should.
    pub fn of_trouble(id: i64, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Lost(why) => Failure::NotHeld { id, why, is_over: false },
            Trouble::Over => {
                let why = "writers had been held for all of --max".to_owned();
                Failure::NotHeld { id, why, is_over: true }
            }
        }
    }

    /// How it is told.
    pub fn report(&self) -> Report {
        if let Failure::Block(BlockFailure::NotBegun(why)) = self {
            return Report { exit_code: self.exit().code(), ..why.report() };
        }
        let server = match self {
            Failure::Remote(error) => error.server_error(),
            Failure::Dump(error) => error.remote().and_then(RemoteError::server_error),
            Failure::RestoreDump(error) => error.remote().and_then(RemoteError::server_error),
            _ => None,
        };
        let sqlstate = match self {
            Failure::Remote(error) => error.sqlstate().map(str::to_owned),
            Failure::Dump(error) => {
                error.remote().and_then(RemoteError::sqlstate).map(str::to_owned)
            }
            Failure::RestoreDump(error) => {
                error.remote().and_then(RemoteError::sqlstate).map(str::to_owned)
            }
            _ => None,
        };
        Report {
            message: self.to_string(),
            detail: match self {
                Failure::Restore(fault) => fault.detail(),
                Failure::Damaged { damaged, .. } => Some(damaged.join("\n")),
                Failure::RestoreDump(error) => {
                    let server = server.and_then(|error| error.detail.clone());
                    let all: Vec<String> = server.into_iter().chain(error.detail()).collect();
                    Some(all.join("\n")).filter(|all| !all.is_empty())
                }
                _ => server.and_then(|error| error.detail.clone()),
            },
            hint: self.hint_beside(server.and_then(|error| error.hint.clone())),
            sqlstate,
            exit_code: self.exit().code(),
        }
    }

    /// What to do, where the server may have said something about it. How a restore goes on it does not know.
    fn hint_beside(&self, theirs: Option<String>) -> Option<String> {
        match (self, theirs, self.hint()) {
            (Failure::RestoreDump(_), Some(theirs), Some(own)) => Some(format!("{theirs} {own}")),
            (_, theirs, own) => theirs.or(own),
        }
    }

    /// What to do.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Failure::BadConnInfo(_) => {
                "Write it as in psql: \"host=coordinator dbname=shop\" or \
                 \"postgresql://coordinator/shop\"; \
                 the same quotes apply."
            }
            Failure::Remote(error) => return remote_hint(error).map(str::to_owned),
            Failure::Dump(error) => return error.hint(),
            Failure::RestoreDump(error) => return error.hint(),
            Failure::Restore(fault) => return fault.hint(),
            Failure::Unfit { todo, .. } => return Some(todo.clone()),
            Failure::Damaged { .. } => "Do not restore it; take another one.",
            Failure::NoExtension { available: true, .. } => {
                "Name the distributed database with -d, or, if it is this one, run there on the \
                 coordinator: CREATE EXTENSION citus_fence;"
            }
            Failure::NoExtension { available: false, .. } => {
                "Its files are not installed on that server: install them on every node, then run on \
                 the coordinator: CREATE EXTENSION citus_fence;"
            }
            Failure::NoCatalog { .. } => "Name the distributed database with -d.",
            Failure::Worker { coordinator: Some((host, port)), .. } => {
                return Some(format!("This worker knows the coordinator as: -h {host} -p {port}"));
            }
            Failure::Worker { coordinator: None, .. } => "Name the coordinator with -h and -p.",
            Failure::Standby { .. } => {
                "Name the primary with -h and -p, or all of them with \
                 target_session_attrs=read-write in -d."
            }
            Failure::TooOld { .. } => {
                "Install the new files on every node, then run on the coordinator: \
                 ALTER EXTENSION citus_fence UPDATE;"
            }
            Failure::Block(failure) => return failure.hint(),
            Failure::NotHeld { is_over: true, .. } => {
                "A larger --max allows more time; with a restore point writers are held for milliseconds, whatever the \
                 size: citus-fence restore-point --help"
            }
            Failure::NotHeld { is_over: false, .. } => {
                "See to the server that is named, if one is, and to the network between; then run it again. citus-fence \
                 status and the coordinator's log tell more."
            }
            Failure::Directory { todo, .. } => todo,
            Failure::Node { todo, .. } => return todo.clone(),
            Failure::UnknownGroup { .. } => {
                "On the coordinator, SELECT groupid, nodename, nodeport FROM pg_dist_node; lists them."
            }
            Failure::WrongName { .. } => {
                "A shorter one leaves room for the time; --exact-name adds none."
            }
            Failure::PointUnusable { .. } => {
                "It may be on some of the nodes, which makes no moment of all of them: make another one."
            }
            Failure::PointNotKept { .. } => {
                "The directory is empty: make another point, with a --dir that can be written to. Recovery by hand may use \
                 this one, with its name as recovery_target_name on every node."
            }
            Failure::NotArchived { dir, .. } => {
                let kept = dir.as_ref().map_or(String::new(), |dir| {
                    format!(" {} has what `restore all` needs for it.", dir.display())
                });
                return Some(format!(
                    "It can be restored to once those nodes have archived it: see to their archive_command and their \
                     logs.{kept} Or make another one, with a longer --archived-within."
                ));
            }
            Failure::Late { .. }
            | Failure::ToldToStop { .. }
            | Failure::Output(_)
            | Failure::File { .. }
            | Failure::Thread(_)
            | Failure::Signals(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// What to do about a session that failed, where the server has no hint of its own.
fn remote_hint(error: &RemoteError) -> Option<&'static str> {
    match error {
        RemoteError::Connect { sqlstate: None, node, .. } if node.nodeid.is_some() => Some(
            "Is the server running there? --node GROUP=CONNINFO names another address of a node than \
             pg_dist_node has.",
        ),
        RemoteError::Connect { sqlstate: None, .. } => Some(
            "Is the server running there? -h and -p name it, else PGHOST and PGPORT or the service \
             file.",
        ),
        RemoteError::Connect { sqlstate: Some(state), .. } if state.as_str() == "3D000" => {
            Some("Name the distributed database with -d.")
        }
        RemoteError::ConnectTimeout { .. } => {
            Some("Are host and port right? --connect-timeout allows more time.")
        }
        RemoteError::Refused { .. } => Some(
            "-U names the user. Passwords are taken from .pgpass, PGPASSWORD or the connection string, \
             and never asked for; pg_hba.conf of the server says who may connect.",
        ),
        RemoteError::Timeout { .. } => Some(
            "The server is overloaded, frozen or out of reach; the question was cancelled as far as \
             it could be reached.",
        ),
        RemoteError::Connect { sqlstate: Some(_), .. }
        | RemoteError::BadConnInfo { .. }
        | RemoteError::Query { .. }
        | RemoteError::Lost { .. }
        | RemoteError::Resources { .. }
        | RemoteError::Stopped { .. }
        | RemoteError::StillBusy { .. }
        | RemoteError::Closed { .. }
        | RemoteError::Unexpected { .. }
        | RemoteError::ZeroByte { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use remote::NodeLabel;

    use super::*;

    #[test]
    fn wrong_use_and_failure_have_different_codes() {
        assert_eq!(Failure::BadConnInfo(ConnInfoError::Malformed).exit(), Exit::WrongUse);
        assert_eq!(Failure::ToldToStop { signal: "SIGTERM" }.exit(), Exit::Failed);
    }

    #[test]
    fn a_failure_names_its_place_and_what_to_do() {
        let node = NodeLabel::unregistered("w1", 5432);
        let refused = Failure::from(RemoteError::Refused {
            node,
            message: "no".into(),
            sqlstate: remote::SqlState::parse("28P01"),
        });
        let report = refused.report();
        assert_eq!(report.message, "w1:5432 refused the connection: no");
        assert_eq!(report.sqlstate.as_deref(), Some("28P01"));
        assert!(report.hint.is_some_and(|hint| hint.contains(".pgpass")));
        let worker = Failure::Worker {
            server: "w1:1".into(),
            group: 2,
            coordinator: Some(("c".into(), 5433)),
        };
        assert!(worker.report().hint.is_some_and(|hint| hint.contains("-h c -p 5433")));
    }

    #[test]
    fn the_json_form_has_every_field() {
        let report = Failure::ToldToStop { signal: "SIGINT" }.report();
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "message": "ended by SIGINT", "detail": null, "hint": null, "sqlstate": null, "exit_code": 1
            })
        );
    }
}
