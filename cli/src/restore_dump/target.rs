//! Where a dump is restored to: the nodes, and whether they are fit for it. Nothing is written here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use remote::{NodeLabel, RemoteError, Reply, Target as Place};

use super::args::RestoreDumpArgs;
use super::error::RestoreDumpError;
use super::progress;
use crate::check;
use crate::connection::Destination;
use crate::dump::{DataFile, Dump, Kind, NodeSession, Reach, literal};
use crate::failure::Failure;
use crate::rows::{only_row, rows};
use crate::side_by_side::side_by_side;
use crate::signals::Stop;
use crate::talk::Talk;

/// What a session starts with that makes the schema: the dump's own settings, but Citus carries what it does to the
/// other nodes, turns no table or schema into something else by itself, and keeps triggers.
fn making(citus: Option<&str>) -> String {
    let mut settings = vec![
        "citus.enable_ddl_propagation=on",
        "citus.override_table_visibility=on",
        "citus.use_citus_managed_tables=off",
        "citus.enable_unsafe_triggers=on",
        "client_min_messages=warning",
    ];
    // Citus 11 has no tenants, and takes no session that names a setting which it does not know.
    if citus.is_none_or(|version| leading(version) >= (12, 0)) {
        settings.push("citus.enable_schema_based_sharding=off");
    }
    settings.iter().map(|setting| format!("-c {setting}")).collect::<Vec<_>>().join(" ")
}

/// What a transaction has Citus' own sessions on other nodes begin with, over what roles and databases say there: those
/// take no options. Without Citus these words mean nothing. Citus passes on all that is sent to it with one of these, so
/// each is sent by itself, as psql does; and whatever scripts of extensions set later is none of them.
pub const TIMELESS_ELSEWHERE: [&str; 5] = [
    "SET LOCAL citus.propagate_set_commands = 'local'",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL citus.propagate_set_commands = 'none'",
];

/// What a transaction begins with in which rows or definitions of a dump are read, so that they are what was written,
/// whatever roles and databases say. Citus writes anew what it passes on: dates, intervals and numbers as this session
/// shows them, which the other node reads as *its* database says. The 1st of February in German is the 2nd of January to
/// whoever has the month first, and no error to anybody. What is read there goes to the other nodes, too; how this session
/// shows things does not, nor does it last: a check or a view may look at it.
pub const AS_WRITTEN: [&str; 8] = [
    "SET LOCAL citus.propagate_set_commands = 'local'",
    "SET LOCAL array_nulls = on",
    "SET LOCAL lc_monetary = 'C'",
    "SET LOCAL xmloption = 'content'",
    "SET LOCAL citus.propagate_set_commands = 'none'",
    "SET LOCAL DateStyle = 'ISO'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL extra_float_digits = 3",
];

/// What a session starts with that reads rows of a dump and passes none on.
const READING: &str = "-c array_nulls=on -c lc_monetary=C";

/// Asks something that other nodes may be asked for, too, in a transaction that begins and ends with more.
pub fn ask_all(
    session: &mut NodeSession,
    begin: &str,
    name: &'static str,
    sql: &str,
) -> Result<Reply, RemoteError> {
    begin_all(session, begin)?;
    let reply = session.ask_within(name, sql, LONG)?;
    session.ask_within("commit", "COMMIT", LONG)?;
    Ok(reply)
}

/// The same for what Citus makes on other nodes by what is here.
pub fn ask_as_written(
    session: &mut NodeSession,
    begin: &str,
    name: &'static str,
    sql: &str,
) -> Result<Reply, RemoteError> {
    begin_all(session, begin)?;
    as_written(session)?;
    let reply = session.ask_within(name, sql, LONG)?;
    session.ask_within("commit", "COMMIT", LONG)?;
    Ok(reply)
}

/// Begins such a transaction.
pub fn begin_all(session: &mut NodeSession, begin: &str) -> Result<(), RemoteError> {
    // Long, for it may wait for what a killed run has left at work.
    session.ask_within("begin", begin, LONG)?;
    for setting in TIMELESS_ELSEWHERE {
        session.ask("begin", setting)?;
    }
    Ok(())
}

/// Has what follows in a transaction read as it was written.
pub fn as_written(session: &mut NodeSession) -> Result<(), RemoteError> {
    for setting in AS_WRITTEN {
        session.ask("read as it was written", setting)?;
    }
    Ok(())
}

/// How long making a table or an index may take.
pub const LONG: Duration = Duration::from_secs(24 * 3600);

/// The statement that gives functions a search_path which set none themselves. Types and functions of the server's own
/// are found first all the same: values of a dump may name them.
pub fn set_search_path(path: &str) -> String {
    let path = format!("pg_catalog, {path}");
    format!("SELECT pg_catalog.set_config('search_path', {}, false)", literal(&path))
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub group: i32,
    pub reach: Reach,
    /// What `--search-path` says.
    pub search_path: Option<String>,
    /// The options of a session that makes the schema.
    pub making: String,
}

impl Node {
    /// What messages call it.
    pub fn called(&self) -> String {
        self.reach.target.node.to_string()
    }

    /// A session that reads and loads there, and is seen by no other node.
    pub fn session(&self, halt: &Arc<AtomicBool>) -> Result<NodeSession, Failure> {
        NodeSession::open_with(&self.reach, READING, halt)
    }

    /// Has what runs in a session from now on find things by what `--search-path` says.
    pub fn widen(&self, session: &mut NodeSession) -> Result<(), RemoteError> {
        match &self.search_path {
            Some(path) => session.ask("take the search_path", &set_search_path(path)).map(drop),
            None => Ok(()),
        }
    }
}

/// The cluster, as it is.
#[derive(Clone, Debug)]
pub struct Target {
    pub database: String,
    /// Whether the catalog is Citus' own.
    pub citus: bool,
    /// The database's encoding.
    pub encoding: String,
    /// The coordinator first.
    pub nodes: Vec<Node>,
}

impl Target {
    pub fn coordinator(&self) -> &Node {
        &self.nodes[0]
    }

    /// The position of a group's node.
    pub fn position(&self, group: i32) -> Option<usize> {
        self.nodes.iter().position(|node| node.group == group)
    }

    /// Those that the schema is made on: Citus carries it from the coordinator, the embedded catalog does not.
    pub fn makers(&self) -> &[Node] {
        if self.citus { &self.nodes[..1] } else { &self.nodes }
    }
}

impl Target {
    /// Does something on all nodes at once, each in a session of its own.
    pub fn on_every_node<T: Send>(
        &self,
        halt: &Arc<AtomicBool>,
        what: impl Fn(usize, &mut NodeSession) -> Result<T, Failure> + Sync,
    ) -> Result<Vec<T>, Failure> {
        let what = &what;
        std::thread::scope(|scope| {
            let begin = |(position, node): (usize, &Node)| {
                let node = node.clone();
                scope.spawn(move || what(position, &mut node.session(halt)?))
            };
            let threads: Vec<_> = self.nodes.iter().enumerate().map(begin).collect();
            threads.into_iter().map(join).collect()
        })
    }
}

/// Sessions of one thread that does things on several nodes, begun when they are needed.
pub struct Sessions<'a> {
    target: &'a Target,
    halt: &'a Arc<AtomicBool>,
    open: HashMap<usize, NodeSession>,
}

impl Sessions<'_> {
    /// The one with the node of a position.
    pub fn with(&mut self, position: usize) -> Result<&mut NodeSession, Failure> {
        Ok(match self.open.entry(position) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(self.target.nodes[position].session(self.halt)?),
        })
    }
}

impl Target {
    /// Sessions for whoever is the only one to do things.
    pub fn sessions<'a>(&'a self, halt: &'a Arc<AtomicBool>) -> Sessions<'a> {
        Sessions { target: self, halt, open: HashMap::new() }
    }

    /// [`side_by_side`] with sessions.
    pub fn share_out<T: Sync, R: Send>(
        &self,
        jobs: usize,
        halt: &Arc<AtomicBool>,
        things: &[T],
        what: impl Fn(&T, &mut Sessions<'_>) -> Result<R, Failure> + Sync,
    ) -> Result<Vec<R>, Failure> {
        side_by_side(jobs, things, || self.sessions(halt), what)
    }
}

/// A thread's end. One that has panicked takes this one with it.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Finds the nodes, and refuses what the dump cannot be restored to.
pub fn find(
    args: &RestoreDumpArgs,
    destination: &Destination,
    dump: &Dump,
    stop: &Stop,
) -> Result<Target, Failure> {
    let mut first =
        check::open(&destination.target.node, &destination.target.params, destination, stop)?;
    let place = first.place().to_string();
    let who = check::ask(
        &mut first,
        "ask who answers",
        "SELECT pg_is_in_recovery() AS standby, current_setting('server_version_num')::int / 10000 AS major,
                current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
                (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS citus",
    )?;
    let who = only_row(&who)?;
    if who.is_true("standby")? {
        return Err(Failure::Standby { server: place });
    }
    let (major, version): (u32, String) = (who.get("major")?, who.get("version")?);
    let too_old = |found: String, needed: String| {
        Failure::from(RestoreDumpError::TooOld { node: place.clone(), found, needed })
    };
    if major < leading(&dump.postgresql).0 {
        let needed = format!("PostgreSQL {}", dump.postgresql);
        return Err(too_old(format!("PostgreSQL {version}"), needed));
    }
    let cluster = check::Cluster::of(&mut first, destination, &args.nodes, stop)?;
    let citus: Option<String> = who.maybe("citus")?;
    match (&dump.citus, &citus) {
        (Some(needed), Some(found)) if leading(found) < leading(needed) => {
            return Err(too_old(format!("Citus {found}"), format!("Citus {needed}")));
        }
        (Some(_), Some(_)) | (None, None) => {}
        (of, found) => {
            let name = |citus: bool| if citus { "Citus" } else { "the embedded catalog" };
            let (of, found) = (name(of.is_some()), name(found.is_some()));
            return Err(RestoreDumpError::OtherEngine { node: place, of, found }.into());
        }
    }
    let encoding: String = who.get("encoding")?;
    // What Citus passes on to other nodes is in its client's encoding, and taken there for the server's.
    if cluster.citus && encoding != dump.encoding && dump.files.iter().any(DataFile::is_binary) {
        let (of, found) = (dump.encoding.clone(), encoding);
        return Err(RestoreDumpError::OtherEncoding { node: place, of, found }.into());
    }
    let for_shards = check::ask(
        &mut first,
        "count nodes for shards",
        // The embedded catalog puts them on a coordinator that is alone; Citus only where it should have shards.
        "SELECT count(*) FROM pg_dist_node WHERE isactive AND noderole::text = 'primary'
            AND (shouldhaveshards OR (SELECT count(*) = 1 FROM pg_dist_node)
                 AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus'))",
    )?;
    let for_shards: usize = for_shards.parse_single()?;
    // Reference tables are on every node, whatever is said of shards.
    let used =
        dump.tables.iter().filter(|table| matches!(table.kind, Kind::Hash | Kind::SingleShard));
    let of = |id: Option<i64>| dump.colocation.iter().find(|group| Some(group.id) == id);
    let needed =
        used.filter_map(|table| of(table.colocation)).map(|group| group.replication_factor);
    let needed = needed.max().map_or(0, |most| usize::try_from(most).unwrap_or(1).max(1));
    let needed = needed.max(usize::from(!dump.tenants.is_empty()));
    if for_shards < needed {
        return Err(RestoreDumpError::TooFewNodes { node: place, found: for_shards, needed }.into());
    }
    let making = making(citus.as_deref());
    let nodes = cluster.members.iter().map(|member| {
        let (label, params) = match member.group {
            0 => {
                let mut params = destination.target.params.clone();
                if !cluster.database.contains('=') {
                    params.set("dbname", &cluster.database);
                }
                (first.place().clone(), params)
            }
            group => (
                NodeLabel::new(member.nodeid, member.host.clone(), member.port),
                check::params(
                    destination,
                    &args.nodes,
                    group,
                    &member.host,
                    member.port,
                    &cluster.database,
                ),
            ),
        };
        let target = Place { node: label, params };
        let reach =
            Reach { target, connect_timeout: destination.connect_timeout, group: member.group };
        Node {
            group: member.group,
            reach,
            search_path: args.search_path.clone(),
            making: making.clone(),
        }
    });
    let nodes = nodes.collect();
    Ok(Target { database: cluster.database.clone(), citus: cluster.citus, encoding, nodes })
}

/// The first two numbers of a version: `13.2-1` is 13 and 2.
fn leading(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0);
    (next(), next())
}

/// What somebody has made: an extension's own things are none of it, nor is what this program keeps.
const MADE: &str = "
SELECT what || ' ' || name AS made FROM (
  SELECT 1 AS place, CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
           ELSE 'table' END AS what, format('%I.%I', n.nspname, c.relname) AS name,
         'pg_class'::regclass AS class, c.oid AS oid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
     AND n.nspname NOT IN ('information_schema', 'citus_fence_restore')
  UNION ALL
  SELECT 2, 'schema', quote_ident(nspname), 'pg_namespace'::regclass, oid FROM pg_namespace
   WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public', 'citus_fence_restore')
  UNION ALL
  SELECT 3, 'type', format('%I.%I', n.nspname, t.typname), 'pg_type'::regclass, t.oid
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
   WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c') AND n.nspname !~ '^pg_'
     AND n.nspname <> 'information_schema'
  UNION ALL
  SELECT 4, 'function', p.oid::regprocedure::text, 'pg_proc'::regclass, p.oid
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
   WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  UNION ALL
  SELECT 5, 'event trigger', quote_ident(evtname), 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
  UNION ALL
  SELECT 6, 'distributed table', logicalrelid::text, 'pg_class'::regclass, logicalrelid::oid FROM pg_dist_partition
) made
 WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = made.class AND d.objid = made.oid AND d.deptype IN ('e', 'i'))
 ORDER BY place, name";

/// How many of them are named.
const NAMED: usize = 8;

/// Refuses a node on which there is something, or whose user would be filtered.
pub fn check(
    node: &Node,
    session: &mut NodeSession,
    id: &str,
    args: &RestoreDumpArgs,
    is_resumed: bool,
    has_schema: bool,
) -> Result<(), Failure> {
    let called = node.called();
    let who = session.ask(
        "ask what this user may",
        "SELECT current_user AS me, pg_is_in_recovery() AS standby,
                rolsuper, rolsuper OR rolbypassrls AS unfiltered
           FROM pg_roles WHERE rolname = current_user",
    )?;
    let who = only_row(&who)?;
    if who.is_true("standby")? {
        return Err(Failure::Standby { server: called });
    }
    if has_schema && !who.is_true("rolsuper")? {
        return Err(RestoreDumpError::NoSuperuser { node: called, user: who.get("me")? }.into());
    }
    if !who.is_true("unfiltered")? {
        return Err(RestoreDumpError::Filtered { node: called, user: who.get("me")? }.into());
    }
    match progress::begun(session)? {
        Some(other) if other != id && is_same_dump(&other, id) => {
            let begun = other.split_once(' ').map_or("no selection", |(_, words)| words).to_owned();
            return Err(RestoreDumpError::OtherSelection { node: called, begun }.into());
        }
        Some(other) if other != id => {
            return Err(RestoreDumpError::OtherBegun { node: called }.into());
        }
        Some(_) if args.resume && is_resumed => return Ok(()),
        // The coordinator knows of none: what is remembered here is of another time.
        Some(_) if !is_resumed => {
            return Err(RestoreDumpError::OtherBegun { node: called }.into());
        }
        Some(_) => return Err(RestoreDumpError::Begun { node: called }.into()),
        None => {}
    }
    if args.into_non_empty || is_resumed || !has_schema {
        return Ok(());
    }
    let reply = session.ask("look for what is there", MADE)?;
    let made: Vec<String> = rows(&reply)?.map(|row| row.get("made")).collect::<Result<_, _>>()?;
    if made.is_empty() {
        return Ok(());
    }
    let mut what = made[..made.len().min(NAMED)].join(", ");
    if made.len() > NAMED {
        what.push_str(&format!(" and {} more", made.len() - NAMED));
    }
    Err(match args.resume {
        true => RestoreDumpError::NothingToResume { node: called, what }.into(),
        false => RestoreDumpError::NotEmpty { node: called, what }.into(),
    })
}

/// Whether two restores are of one dump, and differ in what is selected of it.
fn is_same_dump(one: &str, other: &str) -> bool {
    one.split(' ').next() == other.split(' ').next()
}

/// Refuses a node that does not let this user write, for whatever reason. Nothing of the attempt stays.
pub fn can_write(
    node: &Node,
    session: &mut NodeSession,
    target: &Target,
    stop: &Stop,
) -> Result<(), Failure> {
    let denied = |error| RestoreDumpError::CannotWrite { node: node.called(), error };
    session.ask("try to write", progress::TRY).map_err(|error| match error {
        RemoteError::Query { .. } => denied(error).into(),
        error => Failure::Remote(error),
    })?;
    if !target.citus {
        return Ok(());
    }
    // Citus' own sessions there have no options, and so no word against what is said of roles and databases.
    let mut params = node.reach.target.params.clone();
    params.set("options", "");
    let label = node.reach.target.node.clone();
    let mut plain = Talk::open(label, params, node.reach.connect_timeout, LONG, stop)?;
    let sql = "SELECT current_setting('default_transaction_read_only')::bool AS read_only, current_user AS me";
    let reply = check::ask(&mut plain, "ask whether Citus' sessions can write", sql)?;
    let row = only_row(&reply)?;
    match row.is_true("read_only")? {
        true => {
            let (node, user) = (node.called(), row.get("me")?);
            Err(RestoreDumpError::ReadOnly { node, user, database: target.database.clone() }.into())
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_session_names_a_setting_that_its_citus_does_not_know() {
        let tenants = "citus.enable_schema_based_sharding";
        assert!(!making(Some("11.3-1")).contains(tenants));
        assert!(making(Some("12.0-1")).contains(tenants) && making(None).contains(tenants));
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(leading("13.2-1"), (13, 2));
        assert_eq!(leading("15.20 (Debian 15.20-0+deb12u1)"), (15, 20));
        assert_eq!(leading("18beta1"), (18, 0));
        assert!(leading("9.6") < leading("13.2-1") && leading("13.10-1") > leading("13.2-1"));
    }
}
