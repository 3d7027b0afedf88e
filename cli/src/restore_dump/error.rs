//! What can go wrong with the restore of a dump, and what to do then.

use std::io;
use std::path::PathBuf;

use remote::RemoteError;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::rows::is_full;

/// Why a dump is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreDumpError {
    /// There is something already.
    #[error("the database is not empty on {node}: {what}")]
    NotEmpty { node: String, what: String },
    /// Nothing is removed.
    #[error("there is no --clean: restore-dump removes nothing that is there")]
    NoClean,
    /// `--create` makes what is there.
    #[error("database \"{database}\" exists on {node}")]
    DatabaseThere { node: String, database: String },
    /// There is something already, and no sign of a restore that could be gone on with.
    #[error("no restore is under way on {node}, and the database is not empty: {what}")]
    NothingToResume { node: String, what: String },
    /// Somebody has begun this.
    #[error("a restore of this dump into {node} was begun and not ended")]
    Begun { node: String },
    /// Somebody has begun something else.
    #[error("a restore of another dump into {node} was begun and not ended")]
    OtherBegun { node: String },
    /// Somebody has begun it with another selection.
    #[error("a restore of this dump into {node} was begun with {begun}, and not ended")]
    OtherSelection { node: String, begun: String },
    /// It is being done.
    #[error("another restore-dump is at work in this database on {node}")]
    AtWork { node: String },
    /// What the nodes remember is not true of their shards any more.
    #[error("nodes or shards of {node} have changed since this restore was begun")]
    Moved { node: String },
    /// A server that may not know what is in the dump.
    #[error("{node} has {found}, and the dump is of {needed}")]
    TooOld { node: String, found: String, needed: String },
    /// Citus and the embedded catalog do not read each other's dumps.
    #[error("the dump is of {of}, and {node} has {found}")]
    OtherEngine { node: String, of: &'static str, found: &'static str },
    /// The binary form has texts in an encoding that goes no further than the coordinator.
    #[error(
        "the dump is in COPY's binary format and in {of}, and the database on {node} is in {found}"
    )]
    OtherEncoding { node: String, of: String, found: String },
    /// Nobody would get the shards.
    #[error("{node} knows {found} nodes for shards, and the dump needs {needed}")]
    TooFewNodes { node: String, found: usize, needed: usize },
    /// Row-level security, and what only superusers may.
    #[error("role \"{user}\" is on {node} neither superuser nor does it bypass row-level security")]
    Filtered { node: String, user: String },
    /// The schema is for a superuser.
    #[error("role \"{user}\" is no superuser on {node}")]
    NoSuperuser { node: String, user: String },
    /// A node takes nothing.
    #[error("nothing can be written to {node}: {error}")]
    CannotWrite { node: String, error: RemoteError },
    /// Citus' own sessions there could write nothing.
    #[error(
        "on {node} transactions of role \"{user}\" in database \"{database}\" are read-only from the beginning"
    )]
    ReadOnly { node: String, user: String, database: String },
    /// A pattern that nothing matches.
    #[error("nothing matches {option} {pattern}")]
    NoMatch { option: &'static str, pattern: String },
    /// A pattern that means nothing, or nothing here.
    #[error("the pattern {pattern} is refused: {why}")]
    Pattern { pattern: String, why: String },
    /// An entry of the schema that belongs to nothing that can be told.
    #[error("schema/{file}, line {line}: it cannot be told what this belongs to: {title}")]
    Unclear { file: &'static str, line: usize, title: String },
    /// A program of PostgreSQL's.
    #[error("{program}: {why}")]
    Program { program: String, why: String },
    /// A part of the schema.
    #[error("{script} on {node}: {said}")]
    Script {
        /// What of it, and where it stands in the dump.
        script: String,
        node: String,
        said: String,
        /// The first line of the statement.
        statement: Option<String>,
    },
    /// The manifest names a table that the schema does not make.
    #[error("table {table} is not in the database on {node}")]
    NoTable { table: String, node: String },
    /// A table that has rows, and is to get those of the dump.
    #[error("table {table} on {node} has rows already")]
    HasRows { table: String, node: String },
    /// A table cannot be made what it was.
    #[error("table {table}: {error}")]
    Table { table: String, error: RemoteError },
    /// A file of the dump.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// A file that has other rows than the manifest says.
    #[error("table {table}: {} has {loaded} rows, and the manifest says {written}", path.display())]
    Rows { table: String, path: PathBuf, loaded: u64, written: u64 },
    /// The embedded catalog has nobody who finds the shard of a row.
    #[error("table {table}: {why}, and the embedded catalog does not distribute rows")]
    NoRoute { table: String, why: &'static str },
    /// Something came out differently.
    #[error("what was restored is not what was dumped: {}", differences.join("; "))]
    Differs { differences: Vec<String> },
    /// After something was written.
    #[error("{0}")]
    Partway(Box<Failure>),
}

impl RestoreDumpError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            RestoreDumpError::Partway(failure) => failure.exit(),
            RestoreDumpError::NoClean
            | RestoreDumpError::NoMatch { .. }
            | RestoreDumpError::Pattern { .. } => Exit::WrongUse,
            RestoreDumpError::NotEmpty { .. }
            | RestoreDumpError::DatabaseThere { .. }
            | RestoreDumpError::NothingToResume { .. }
            | RestoreDumpError::Begun { .. }
            | RestoreDumpError::OtherBegun { .. }
            | RestoreDumpError::OtherSelection { .. }
            | RestoreDumpError::Unclear { .. }
            | RestoreDumpError::AtWork { .. }
            | RestoreDumpError::Moved { .. }
            | RestoreDumpError::TooOld { .. }
            | RestoreDumpError::OtherEngine { .. }
            | RestoreDumpError::TooFewNodes { .. }
            | RestoreDumpError::OtherEncoding { .. }
            | RestoreDumpError::Filtered { .. }
            | RestoreDumpError::NoSuperuser { .. }
            | RestoreDumpError::CannotWrite { .. }
            | RestoreDumpError::ReadOnly { .. }
            | RestoreDumpError::Program { .. }
            | RestoreDumpError::Script { .. }
            | RestoreDumpError::NoTable { .. }
            | RestoreDumpError::HasRows { .. }
            | RestoreDumpError::Table { .. }
            | RestoreDumpError::File { .. }
            | RestoreDumpError::Rows { .. }
            | RestoreDumpError::NoRoute { .. }
            | RestoreDumpError::Differs { .. } => Exit::Failed,
        }
    }

    /// The session's error behind it.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            RestoreDumpError::Table { error, .. } | RestoreDumpError::CannotWrite { error, .. } => {
                Some(error)
            }
            RestoreDumpError::Partway(failure) => match failure.as_ref() {
                Failure::Remote(error) => Some(error),
                Failure::RestoreDump(inner) => inner.remote(),
                _ => None,
            },
            _ => None,
        }
    }

    /// More of it, beside what the server says.
    pub fn detail(&self) -> Option<String> {
        match self {
            RestoreDumpError::Script { statement: Some(first), .. } => {
                Some(format!("The statement begins: {first}"))
            }
            RestoreDumpError::Partway(failure) => match failure.as_ref() {
                Failure::RestoreDump(inner) => inner.detail(),
                _ => None,
            },
            _ => self.remote()?.server_error()?.context.as_ref().map(|lines| {
                format!("It happened in: {}", lines.lines().collect::<Vec<_>>().join("; "))
            }),
        }
    }

    /// Whether a function has not found something, which it may have looked for by the search_path.
    fn is_not_found(&self) -> bool {
        // undefined_function, undefined_table, undefined_object, invalid_schema_name
        let codes = ["42883", "42P01", "42704", "3F000"];
        match self {
            RestoreDumpError::Script { said, .. } => {
                let within =
                    said.split_once("CONTEXT:").is_some_and(|(_, it)| it.contains("function"));
                within && said.contains("does not exist")
            }
            RestoreDumpError::Table { error, .. } => {
                let context = error.server_error().and_then(|error| error.context.as_deref());
                match error.sqlstate() {
                    // What Citus says of another node's error, without where it was.
                    Some("XX000") => error.to_string().contains("does not exist"),
                    Some(state) => {
                        codes.contains(&state) && context.is_some_and(|it| it.contains("function"))
                    }
                    None => false,
                }
            }
            _ => false,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            RestoreDumpError::NotEmpty { .. } | RestoreDumpError::NoClean => {
                "Name an empty database. To replace this one, drop it on every node (DROP DATABASE, as a superuser) and \
                 say --create; there is no --clean. To keep what is there, say --into-non-empty: then what has the same \
                 name is an error."
            }
            RestoreDumpError::DatabaseThere { .. } => {
                "Name it with -d and leave out --create; or, if it was left by a run that was killed and there is \
                 nothing in it, drop it on every node."
            }
            RestoreDumpError::NothingToResume { .. } => {
                "Either it was restored to the end, for the traces of a restore go last; or it was begun elsewhere."
            }
            RestoreDumpError::Begun { .. } => {
                "--resume goes on with it. To begin anew, drop the database's contents, with schema \
                 citus_fence_restore on every node."
            }
            RestoreDumpError::OtherBegun { .. } => {
                "Go on with --resume and that dump; or drop the database's contents, with schema \
                 citus_fence_restore on every node."
            }
            RestoreDumpError::OtherSelection { .. } => {
                "Go on with --resume and the same -t, -T, -n, -N, -s and -a; or drop what it has restored, with schema \
                 citus_fence_restore on every node."
            }
            RestoreDumpError::NoMatch { .. } => {
                "Patterns are pg_dump's: SCHEMA.NAME, with * and ?, and double quotes around capital letters. They are \
                 put to the names in the dump: see \"citus-fence list\"."
            }
            RestoreDumpError::Pattern { .. } => {
                "Write SCHEMA.NAME for a table and NAME for a schema, with double quotes around a dot in a name; no \
                 server is asked what a pattern means."
            }
            RestoreDumpError::Unclear { .. } => {
                "Nothing was written. Restore all of the dump, without -t, -T, -n and -N, into another database."
            }
            RestoreDumpError::AtWork { .. } => "Wait until it has ended.",
            RestoreDumpError::Moved { .. } => {
                "Which rows are there cannot be told any more: drop the database's contents, with schema \
                 citus_fence_restore on every node, and begin anew. Do not move shards while a dump is restored."
            }
            RestoreDumpError::TooOld { .. } => "Restore it into the same release, or a newer one.",
            RestoreDumpError::OtherEngine { .. } => {
                "Restore it into a database with the extension it is of."
            }
            RestoreDumpError::OtherEncoding { .. } => {
                "Restore it into a database of its own encoding, or dump with --format text."
            }
            RestoreDumpError::TooFewNodes { .. } => {
                "Add nodes first, on the coordinator: SELECT citus_add_node('HOST', PORT); or let more of them take \
                 shards: SELECT citus_set_node_property('HOST', PORT, 'shouldhaveshards', true);"
            }
            RestoreDumpError::Filtered { .. } => "Name a superuser with -U.",
            RestoreDumpError::NoSuperuser { .. } => {
                "Name a superuser with -U: a dump's extensions, their comments and owners nobody else may make. Rows \
                 alone (dump --data-only) can be restored by one who has BYPASSRLS and may write those tables, on \
                 every node."
            }
            RestoreDumpError::ReadOnly { .. } => {
                "Nothing was written. default_transaction_read_only is on there, and Citus' own sessions take what it \
                 says: ALTER ROLE or ALTER DATABASE … RESET it on that node (SELECT * FROM pg_db_role_setting), or take \
                 it out of its configuration, for as long as you restore."
            }
            RestoreDumpError::Program { .. } => {
                "--bindir names the directory of psql, which must be no older than the dump's pg_dump."
            }
            RestoreDumpError::Script { said, .. } if said.contains("role ") => {
                "A role of the dump is missing: make it, or dump with --roles and restore with --roles."
            }
            _ if self.is_not_found() => {
                "The search_path of a restore is empty, as that of pg_restore. A function that finds others by it gets \
                 one of its own, by ALTER FUNCTION … SET search_path = … in the database; or --search-path names one \
                 for all of them."
            }
            RestoreDumpError::Table { error, .. } if is_full(error) => {
                "The server takes no more sessions: fewer --jobs, or a larger max_connections."
            }
            RestoreDumpError::HasRows { .. } => {
                "The dump has data only: empty its tables first, or name another database."
            }
            RestoreDumpError::Differs { .. } => {
                "Nothing was removed. Look into those tables; --resume compares again."
            }
            RestoreDumpError::Partway(failure)
                if matches!(**failure, Failure::RestoreDump(RestoreDumpError::Moved { .. })) =>
            {
                "Nothing was removed."
            }
            RestoreDumpError::Partway(_) => {
                "What has been restored so far stays there: --resume goes on from it."
            }
            RestoreDumpError::Script { .. }
            | RestoreDumpError::NoTable { .. }
            | RestoreDumpError::CannotWrite { .. }
            | RestoreDumpError::Table { .. }
            | RestoreDumpError::File { .. }
            | RestoreDumpError::Rows { .. }
            | RestoreDumpError::NoRoute { .. } => return None,
        };
        let own = match self {
            RestoreDumpError::Partway(failure) => match failure.as_ref() {
                Failure::RestoreDump(inner) => inner.hint(),
                _ => None,
            },
            _ => None,
        };
        Some(own.map_or_else(|| hint.to_owned(), |own| format!("{own} {hint}")))
    }
}
