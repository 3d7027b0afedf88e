//! The nodes of a database, and sessions with them.

use std::time::Duration;

use remote::{ConnParams, NodeLabel, Reply};

use crate::connection::Destination;
use crate::databases::{IS_EMPTIED, emptied};
use crate::failure::Failure;
use crate::nodes::NodeArgs;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::Talk;

/// How long an answer may take: a maximum over a large table is among them.
const ANSWER: Duration = Duration::from_secs(3600);

/// What every question is asked under, for its own transaction alone. Citus hides shards otherwise; and what row-level
/// security keeps from this user is an error, and never a smaller answer.
const UNDER: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL quote_all_identifiers = off;
    SET LOCAL row_security = off;
    SET LOCAL lock_timeout = '30s';
    SET LOCAL statement_timeout = '59min'; SET LOCAL citus.override_table_visibility = off;";

/// A node that takes part.
pub struct Member<'a> {
    pub nodeid: i32,
    pub group: i32,
    pub host: String,
    pub port: i32,
    pub has_metadata: bool,
    pub talk: Talk<'a>,
}

/// All of them.
pub struct Cluster<'a> {
    pub database: String,
    /// Whether the catalog is Citus' own.
    pub citus: bool,
    pub members: Vec<Member<'a>>,
    /// Active nodes by group, as the coordinator knows them; and those that are lost or inactive.
    pub absent: Vec<i32>,
}

/// Opens a session with somebody.
pub fn open<'a>(
    label: &NodeLabel,
    params: &ConnParams,
    destination: &Destination,
    stop: &'a Stop,
) -> Result<Talk<'a>, Failure> {
    Talk::open(label.clone(), params.clone(), destination.connect_timeout, ANSWER, stop)
}

/// Asks something that is found in pg_catalog.
pub fn ask(talk: &mut Talk<'_>, name: &'static str, sql: &str) -> Result<Reply, Failure> {
    talk.ask(name, &format!("{UNDER} {sql}"))
}

/// The same of something that changes what is stored, whatever the database or role says of its transactions.
pub fn tell(talk: &mut Talk<'_>, name: &'static str, sql: &str) -> Result<Reply, Failure> {
    talk.ask(name, &format!("SET LOCAL transaction_read_only = off; {UNDER} {sql}"))
}

/// Whether the database has Citus, and not the embedded catalog.
pub fn has_citus(talk: &mut Talk<'_>) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')";
    Ok(ask(talk, "look for Citus", sql)?.single_value()? == "t")
}

impl<'a> Cluster<'a> {
    /// The nodes as the coordinator knows them, each with a session. Who does not answer is an error that names it.
    pub fn of(
        coordinator: &mut Talk<'a>,
        destination: &Destination,
        at: &NodeArgs,
        stop: &'a Stop,
    ) -> Result<Cluster<'a>, Failure> {
        let place = coordinator.place().clone();
        let who = ask(
            coordinator,
            "ask who answers",
            "SELECT current_database() AS database, to_regclass('pg_dist_node') IS NOT NULL AS has_catalog",
        )?;
        let who = only_row(&who)?;
        let database: String = who.get("database")?;
        if !who.is_true("has_catalog")? {
            return Err(Failure::NoCatalog { server: place.to_string(), database });
        }
        let group = ask(coordinator, "group", "SELECT groupid FROM pg_dist_local_group")?;
        let group: i32 = group.parse_single()?;
        if group != 0 {
            return Err(Failure::Unfit {
                what: format!("{place} is a worker (group {group})"),
                todo: "Name the coordinator with -h and -p.".into(),
            });
        }
        let is_emptied = format!("SELECT {IS_EMPTIED} AS is_emptied");
        let emptied_row = ask(coordinator, "look for the cluster's nodes", &is_emptied)?;
        if only_row(&emptied_row)?.is_true("is_emptied")? {
            return Err(emptied(place));
        }
        let citus = has_citus(coordinator)?;
        let list = ask(
            coordinator,
            "list nodes",
            "SELECT nodeid, groupid, nodename, nodeport, isactive, hasmetadata FROM pg_dist_node
              WHERE noderole::text = 'primary' ORDER BY groupid",
        )?;
        let mut cluster = Cluster { database, citus, members: Vec::new(), absent: Vec::new() };
        for row in rows(&list)? {
            let group: i32 = row.get("groupid")?;
            if !row.is_true("isactive")? {
                cluster.absent.push(group);
                continue;
            }
            let (nodeid, host, port) =
                (row.get("nodeid")?, row.get::<String>("nodename")?, row.get::<i32>("nodeport")?);
            let label = NodeLabel::new(nodeid, &host, port);
            let params = params(destination, at, group, &host, port, &cluster.database);
            let talk = open(&label, &params, destination, stop)?;
            let has_metadata = row.is_true("hasmetadata")? || group == 0;
            cluster.members.push(Member { nodeid, group, host, port, has_metadata, talk });
        }
        if !cluster.members.iter().any(|member| member.group == 0) {
            // A coordinator that has no row has no address for others; it is who answers here.
            let mut params = destination.target.params.clone();
            if !cluster.database.contains('=') {
                params.set("dbname", &cluster.database);
            }
            let talk = open(&place, &params, destination, stop)?;
            let (host, port) = (place.host, place.port);
            cluster
                .members
                .insert(0, Member { nodeid: 0, group: 0, host, port, has_metadata: true, talk });
        }
        let groups = cluster.members.iter().map(|member| member.group);
        at.must_be_among(&groups.chain(cluster.absent.iter().copied()).collect::<Vec<_>>())?;
        Ok(cluster)
    }
}

/// How a node's database is reached from here.
pub fn params(
    destination: &Destination,
    at: &NodeArgs,
    group: i32,
    host: &str,
    port: i32,
    database: &str,
) -> ConnParams {
    let mut params = at.params(destination, group, host, port);
    params.set("dbname", database);
    params
}
