//! `restore finish`: started copies become one cluster.
//!
//! ```text
//! all answer ─> each is who it has to be, seen from here and from every node ─> two-phase commits finished
//!     │ late           │ swapped, a standby, another restore,                          │
//!     v                v production, no Citus                                          v
//!   error            error: nothing has been decided                  sequences, checks ─> quiet settings back
//! ```
//! The order is what makes it safe. A node finishes its own two-phase commits by looking for them at the addresses of
//! its catalog and then forgets its records. Where another node answers, or one in recovery, it finds none: what was
//! committed is then rolled back for ever, without a word. So every address of every database is asked for its group,
//! for the restore it belongs to and for its recovery before the first of them is told to decide anything.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use remote::{NodeLabel, RemoteError};
use serde::Serialize;
use tracing::debug;

use super::args::FinishArgs;
use super::config::{QUIET, settings};
use super::guard::FORMER_AUTO_CONF;
use super::party;
use crate::check::{self, Age, Cluster, Finding, ask, has_citus, open, params, tell};
use crate::connection::Destination;
use crate::databases;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::nodes::NodeArgs;
use crate::output::Output;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::{Talk, quoted};

/// How often a node that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a server says of a database that it does not have.
const NO_DATABASE: &str = "3D000";

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    pub restore_id: String,
    pub databases: Vec<String>,
    /// Two-phase commits that were finished.
    pub recovered: i64,
    #[serde(flatten)]
    pub check: check::Report,
}

/// Who a node is. One that has never had metadata does not know its group; `restore all` has written it down.
const IDENTITY: &str = "SELECT format('group %s, restore %s, %s',
    coalesce((SELECT metadata ->> 'restore_group' FROM pg_catalog.pg_dist_node_metadata),
             (SELECT groupid::text FROM pg_catalog.pg_dist_local_group)),
    coalesce((SELECT metadata ->> 'restore_id' FROM pg_catalog.pg_dist_node_metadata), 'none'),
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'in recovery' ELSE 'a primary' END)";

fn identity(group: i32, restore_id: &str) -> String {
    format!("group {group}, restore {restore_id}, a primary")
}

/// Does it and prints what was done.
pub fn run(args: &FinishArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let destination = Destination::new(&args.connection)?;
    let (report, mut clusters) = together(&destination, &args.nodes, args.wait, stop)?;
    let mut done = BTreeSet::new();
    for member in clusters.iter_mut().flat_map(|cluster| &mut cluster.members) {
        if done.insert(member.group) {
            loud(&mut member.talk)?;
        }
    }
    let told = |report: &Report| {
        format!(
            "restore {} is finished: {} two-phase commits finished, in database {}\n{}\
             archiving, synchronous standbys, subscriptions and cron jobs are still off, so that none reaches production;\n\
             on again, where wanted: ALTER SYSTEM (archive_command, which may still be production's, and then archive_mode; \
             synchronous_standby_names, max_logical_replication_workers), ALTER SUBSCRIPTION, cron.alter_job()\n",
            report.restore_id,
            report.recovered,
            report.databases.join(", "),
            check::lines(&report.check)
        )
    };
    Ok(output.outcome(&report, told, report.check.exit()))
}

/// All of it but the end: the nodes stay quiet. With a session for each node of each database.
pub fn together<'a>(
    destination: &Destination,
    at: &NodeArgs,
    wait: Duration,
    stop: &'a Stop,
) -> Result<(Report, Vec<Cluster<'a>>), Failure> {
    let deadline = Instant::now() + wait;
    let mut first = patiently(deadline, stop, || {
        open(&destination.target.node, &destination.target.params, destination, stop)
    })?;
    let restore_id = restore_id(&mut first)?;
    let (databases, elsewhere) = databases(&mut first, destination, stop)?;
    let mut clusters = Vec::new();
    for database in &databases {
        await_all(database, destination, at, deadline, stop)?;
        let mut coordinator = in_database(first.place(), destination, database, stop)?;
        clusters.push(Cluster::of(&mut coordinator, destination, at, stop)?);
    }
    for cluster in &mut clusters {
        as_superuser(cluster)?;
        who_is_where(cluster, &restore_id)?;
    }
    for cluster in &mut clusters {
        from_every_node(cluster, &restore_id)?;
    }
    for cluster in &mut clusters {
        party::require(cluster)?;
    }
    let mut report = Report {
        restore_id,
        databases,
        recovered: 0,
        check: check::Report {
            nodes: clusters.iter().map(|cluster| cluster.members.len()).max().unwrap_or_default(),
            findings: elsewhere,
            ..check::Report::default()
        },
    };
    for cluster in &mut clusters {
        for member in &mut cluster.members {
            let call = "SELECT pg_catalog.recover_prepared_transactions()";
            let reply = tell(&mut member.talk, "recover prepared transactions", call)?;
            report.recovered += reply.parse_single::<i64>()?;
        }
    }
    for cluster in &mut clusters {
        check::look(cluster, Age::Any, true, &mut report.check)?;
    }
    Ok((report, clusters))
}

/// Tries until somebody answers or the time is over; a server that starts, or has no room, says so. What it says of user
/// and database does not change by waiting.
fn patiently<'a>(
    deadline: Instant,
    stop: &Stop,
    mut connect: impl FnMut() -> Result<Talk<'a>, Failure>,
) -> Result<Talk<'a>, Failure> {
    loop {
        match connect() {
            Err(Failure::Remote(
                error @ (RemoteError::Connect { .. } | RemoteError::ConnectTimeout { .. }),
            )) if error.sqlstate() != Some(NO_DATABASE) && Instant::now() < deadline => {}
            other => return other,
        }
        if let Some(signal) = stop.signal() {
            return Err(Failure::ToldToStop { signal });
        }
        thread::sleep(PAUSE);
    }
}

/// The restore that this coordinator belongs to.
fn restore_id(talk: &mut Talk<'_>) -> Result<String, Failure> {
    let place = talk.place().to_string();
    let has = "SELECT to_regclass('pg_dist_node_metadata') IS NOT NULL AS has, current_database() AS database";
    let reply = ask(talk, "look for the catalog", has)?;
    let row = only_row(&reply)?;
    if !row.is_true("has")? {
        return Err(Failure::NoCatalog { server: place, database: row.get("database")? });
    }
    let sql = "SELECT (SELECT metadata ->> 'restore_id' FROM pg_dist_node_metadata) AS id";
    let reply = ask(talk, "restore", sql)?;
    only_row(&reply)?.maybe("id")?.ok_or_else(|| Failure::Unfit {
        what: format!("{place} is no node that `restore all` has prepared"),
        todo: "Name the restored coordinator with -h, -p and -d. A copy that was started without having been prepared \
               may act on production: stop it."
            .into(),
    })
}

/// All databases with Citus' catalog that know nodes: one that never had any has nobody to agree with. Those whose
/// coordinator is another one of the servers are findings: from here nobody speaks for them.
fn databases(
    first: &mut Talk<'_>,
    destination: &Destination,
    stop: &Stop,
) -> Result<(Vec<String>, Vec<Finding>), Failure> {
    let place = first.place().clone();
    let own = ask(first, "own database", "SELECT current_database()")?.single_value()?.to_owned();
    let connect = |name: &str| in_database(&place, destination, name, stop);
    let (mut names, mut elsewhere) = (Vec::new(), Vec::new());
    for (name, found) in databases::with_citus(first, connect)? {
        match found? {
            found if !found.has_nodes => {}
            found if found.is_coordinator || name == own => names.push(name),
            _ => elsewhere.push(Finding {
                check: "databases",
                node: place.to_string(),
                what: format!(
                    "database \"{name}\" has another coordinator than this server: run restore finish there, too"
                ),
            }),
        }
    }
    Ok((names, elsewhere))
}

/// A session with the coordinator in another database.
fn in_database<'a>(
    coordinator: &NodeLabel,
    destination: &Destination,
    database: &str,
    stop: &'a Stop,
) -> Result<Talk<'a>, Failure> {
    let mut params = destination.target.params.clone();
    params.set("dbname", database);
    open(coordinator, &params, destination, stop)
}

/// Waits for all nodes of a database, and names all that do not answer in time.
fn await_all(
    database: &str,
    destination: &Destination,
    at: &NodeArgs,
    deadline: Instant,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut parameters = destination.target.params.clone();
    parameters.set("dbname", database);
    let mut coordinator = open(&destination.target.node, &parameters, destination, stop)?;
    let list = ask(
        &mut coordinator,
        "list nodes",
        "SELECT nodeid, groupid, nodename, nodeport FROM pg_dist_node
          WHERE noderole::text = 'primary' AND isactive ORDER BY groupid",
    )?;
    let mut silent = Vec::new();
    for row in rows(&list)? {
        let (group, host, port) = (
            row.get::<i32>("groupid")?,
            row.get::<String>("nodename")?,
            row.get::<i32>("nodeport")?,
        );
        let params = params(destination, at, group, &host, port, database);
        let label = NodeLabel::new(row.get("nodeid")?, &host, port);
        match patiently(deadline, stop, || open(&label, &params, destination, stop)) {
            Ok(_) => debug!("node {group} answers at {label}"),
            Err(Failure::Remote(error)) => silent.push(format!("node {group}: {error}")),
            Err(other) => return Err(other),
        }
    }
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Failure::Unfit {
            what: format!("not all nodes answer, and nothing has been decided: {}", silent.join("; ")),
            todo: "Start them; pg_hba.conf of each has to let this machine and the other nodes in. Then run the same \
                   command again; --wait allows more time."
                .into(),
        }),
    }
}

/// Refuses a user who could not do what comes afterwards.
fn as_superuser(cluster: &mut Cluster<'_>) -> Result<(), Failure> {
    let sql = "SELECT current_user AS who, current_setting('is_superuser') AS is_superuser";
    for member in &mut cluster.members {
        let reply = ask(&mut member.talk, "superuser", sql)?;
        let row = only_row(&reply)?;
        if row.get::<String>("is_superuser")? != "on" {
            return Err(Failure::Unfit {
                what: format!(
                    "role \"{}\" is no superuser of {}, and nothing has been decided",
                    row.get::<String>("who")?,
                    member.talk.place()
                ),
                todo: "Name one with -U.".into(),
            });
        }
    }
    Ok(())
}

/// Refuses any address at which somebody else answers.
fn who_is_where(cluster: &mut Cluster<'_>, restore_id: &str) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let mut known_as: BTreeMap<i32, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for member in &mut cluster.members {
        let place = member.talk.place().to_string();
        let who = ask(&mut member.talk, "identity", IDENTITY)?.single_value()?.to_owned();
        let wanted = identity(member.group, restore_id);
        if who != wanted {
            wrong.push(format!("at {place} answers {who}, and not {wanted}"));
            continue;
        }
        let libraries = ask(
            &mut member.talk,
            "libraries",
            "SELECT current_setting('shared_preload_libraries')",
        )?;
        if has_citus(&mut member.talk)? && !super::config::preloads_citus(libraries.single_value()?)
        {
            wrong.push(format!("{place} does not preload citus"));
        }
        // A worker without metadata knows no nodes, and begins nothing on others; one whose metadata is behind may not know
        // all of them. What a node knows has to be right.
        let known = ask(
            &mut member.talk,
            "addresses",
            "SELECT groupid, format('%s:%s', nodename, nodeport) AS address FROM pg_dist_node",
        )?;
        for row in rows(&known)? {
            let addresses = known_as.entry(row.get::<i32>("groupid")?).or_default();
            addresses.entry(row.get("address")?).or_default().push(place.clone());
        }
    }
    for (group, addresses) in known_as.iter().filter(|(_, addresses)| addresses.len() > 1) {
        let each: Vec<String> = addresses
            .iter()
            .map(|(address, who)| format!("{} know it at {address}", who.join(", ")))
            .collect();
        wrong.push(format!("nodes know different addresses of group {group}: {}", each.join("; ")));
    }
    refuse(wrong)
}

/// The same as each node sees it: names may lead elsewhere there.
fn from_every_node(cluster: &mut Cluster<'_>, restore_id: &str) -> Result<(), Failure> {
    if !cluster.citus {
        return Ok(());
    }
    let groups: BTreeMap<i32, (i32, String)> = cluster
        .members
        .iter()
        .map(|member| (member.nodeid, (member.group, format!("{}:{}", member.host, member.port))))
        .collect();
    let sql = format!(
        "SELECT nodeid, success, result FROM pg_catalog.run_command_on_all_nodes({})",
        quoted(IDENTITY)
    );
    let mut wrong = Vec::new();
    for member in cluster.members.iter_mut().filter(|member| member.has_metadata) {
        let reply = ask(&mut member.talk, "identities", &sql)?;
        let mut seen = 0;
        for row in rows(&reply)? {
            let nodeid: i32 = row.get("nodeid")?;
            let Some((group, address)) = groups.get(&nodeid) else { continue };
            seen += 1;
            let who: String = row.maybe("result")?.unwrap_or_default();
            let wanted = identity(*group, restore_id);
            let place = member.talk.place();
            if !row.is_true("success")? {
                wrong.push(format!("{place} does not get an answer at {address}: {who}"));
            } else if who != wanted {
                wrong.push(format!("from {place}, at {address} answers: {who}, and not {wanted}"));
            }
        }
        let known = ask(&mut member.talk, "nodes", "SELECT nodeid FROM pg_dist_node")?;
        let known = rows(&known)?.map(|row| row.get::<i32>("nodeid"));
        let known = known.collect::<Result<Vec<_>, _>>()?;
        let registered = known.iter().filter(|nodeid| groups.contains_key(nodeid)).count();
        if seen < registered {
            wrong.push(format!("{} reaches {seen} of {registered} nodes", member.talk.place()));
        }
    }
    refuse(wrong)
}

fn refuse(wrong: Vec<String>) -> Result<(), Failure> {
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::Unfit {
            what: format!("nothing has been decided: {}", wrong.join("; ")),
            todo: "Start each restored node at its own address of --to, with its own configuration, as a primary and \
                   with citus preloaded; each has to let the others in as they come: pg_hba.conf, pg_dist_authinfo, and \
                   certificates for these addresses where citus.node_conninfo asks for them. Then run the same command \
                   again."
                .into(),
        }),
    }
}

/// Takes back what kept a node quiet: each setting to what production had by ALTER SYSTEM, or out of that file.
fn loud(talk: &mut Talk<'_>) -> Result<(), Failure> {
    // ALTER SYSTEM is in no transaction with others; whatever a role has set, this session is ours.
    talk.ask("time-outs", "SET statement_timeout = 0; SET lock_timeout = 0")?;
    let sql = format!(
        "SELECT coalesce(pg_catalog.pg_read_file('{FORMER_AUTO_CONF}', 0, 10485760, true), '') AS text"
    );
    let reply = talk.ask("read former settings", &sql)?;
    let former: BTreeMap<String, String> = settings(reply.single_value()?).into_iter().collect();
    for name in QUIET {
        let sql = match former.get(name) {
            Some(value) => format!("ALTER SYSTEM SET {name} = {}", quoted(value)),
            None => format!("ALTER SYSTEM RESET {name}"),
        };
        talk.ask("take a setting back", &sql)?;
    }
    talk.ask("reload", "SELECT pg_catalog.pg_reload_conf()")?;
    Ok(())
}
