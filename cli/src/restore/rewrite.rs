//! Taking everything out of a copy that leads to production, in its first start.

use std::path::Path;

use remote::{Command, ConnParams};

use super::first::FirstStart;
use super::numbering::{self, Known};
use super::plan::{Place, Plan};
use super::stage::Progress;
use crate::failure::Failure;
use crate::rows::rows;
use crate::talk::{Talk, quoted};

/// Where a subscription leads afterwards: to nowhere, and with something that passes for a password, which some
/// owners have to have.
const DEAD_END: &str = "host=/nonexistent password=none";

/// What is told of a copy. Each is on disk before what it tells of is changed: an interrupted run must not be the only
/// one to know where a subscription had led.
pub struct Notes<'a> {
    progress: &'a mut Progress,
    data: &'a Path,
}

impl<'a> Notes<'a> {
    /// Those of a data directory.
    pub fn of(progress: &'a mut Progress, data: &'a Path) -> Notes<'a> {
        Notes { progress, data }
    }

    /// Takes one more down, once.
    fn add(&mut self, note: String) -> Result<(), Failure> {
        if !self.progress.found.contains(&note) {
            self.progress.found.push(note);
            self.progress.write(self.data)?;
        }
        Ok(())
    }

    /// Takes down that a database takes no connections as a rule, before it is opened.
    fn will_close(&mut self, name: &str) -> Result<(), Failure> {
        if !self.is_to_close(name) {
            self.progress.closed.push(name.to_owned());
            self.progress.write(self.data)?;
        }
        Ok(())
    }

    fn is_to_close(&self, name: &str) -> bool {
        self.progress.closed.iter().any(|closed| closed == name)
    }
}

/// The databases. PostgreSQL's own template that nobody connects to has nothing in it; an invalid one is what an
/// interrupted DROP DATABASE has left, and nobody ever connects to it again.
const DATABASES: &str =
    "SELECT datname, datallowconn AS is_open, datconnlimit = -2 AS is_invalid FROM pg_database
      WHERE datname <> 'template0' ORDER BY 1";

/// Rewrites all databases. Gives the superuser that it was done as.
pub fn all(
    plan: &Plan,
    place: &Place,
    server: &FirstStart<'_>,
    users: &[String],
    notes: &mut Notes<'_>,
) -> Result<String, Failure> {
    let (mut main, user) = server.connect_as_superuser(users, &plan.backup.database)?;
    check(plan, place, &mut main)?;
    let databases = main.ask("list databases", DATABASES)?;
    for row in rows(&databases)? {
        let name: String = row.get("datname")?;
        if row.is_true("is_invalid")? {
            notes.add(format!(
                "database \"{name}\" is what an interrupted DROP DATABASE has left: nobody connects to it; drop it"
            ))?;
            continue;
        }
        // One that takes no connections would lead to production as soon as it does.
        if !row.is_true("is_open")? {
            notes.will_close(&name)?;
            allow(&mut main, &name, true)?;
        }
        let mut database = server.connect(&user, &name)?;
        let has_catalog = "SELECT to_regclass('pg_catalog.pg_dist_node') IS NOT NULL";
        if database.ask("look for Citus", has_catalog)?.single_value()? == "t" {
            addresses(plan, place, &mut database, &name, notes)?;
        }
        schedulers(&mut database, &name, notes)?;
        subscriptions(&mut database, &name, notes)?;
        leads(&mut database, &name, notes)?;
        drop(database);
        if notes.is_to_close(&name) {
            allow(&mut main, &name, false)?;
            notes.add(format!(
                "database \"{name}\" takes no connections, as before: once it does, run restore finish, again if need be"
            ))?;
        }
    }
    let slots = main.ask(
        "drop replication slots",
        "SELECT slot_name, pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
    )?;
    for row in rows(&slots)? {
        notes.add(format!("replication slot {} dropped", row.get::<String>("slot_name")?))?;
    }
    let settings = main.ask(
        "look for settings",
        "SELECT DISTINCT s FROM pg_db_role_setting, unnest(setconfig) s WHERE s LIKE 'citus.%'",
    )?;
    for row in rows(&settings)? {
        notes.add(format!("a role or database has the setting {}", row.get::<String>("s")?))?;
    }
    Ok(user)
}

/// Lets sessions into a database, or none any more.
fn allow(main: &mut Talk<'_>, name: &str, is_open: bool) -> Result<(), Failure> {
    let name = format!("\"{}\"", name.replace('"', "\"\""));
    main.ask(
        "open or close a database",
        &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {is_open}"),
    )?;
    Ok(())
}

/// Whether this copy is the node it is taken for, and ends where it has to.
fn check(plan: &Plan, place: &Place, main: &mut Talk<'_>) -> Result<(), Failure> {
    let group: i32 =
        main.ask("group of the copy", "SELECT groupid FROM pg_dist_local_group")?.parse_single()?;
    // A node that has never had metadata takes itself for the coordinator of nobody.
    let nobody = "SELECT NOT EXISTS (SELECT FROM pg_dist_node)";
    let is_new = group == 0 && main.ask("nodes of the copy", nobody)?.single_value()? == "t";
    if group != place.group() && !is_new {
        let what = format!("{} is a copy of node {group}", place.to.data.display());
        return Err(place.refused(what, "Exchange the data directories of --to.").into());
    }
    if plan.point.is_some() {
        return Ok(());
    }
    let question = Command::new(
        "end of the copy",
        "SELECT pg_current_wal_lsn() AS at, pg_current_wal_lsn() >= $1::pg_lsn AS reached",
    );
    let reply = main.run(question.with_param(place.node.wal_lsn.clone()))?;
    let row = crate::rows::only_row(&reply)?;
    if row.is_true("reached")? {
        return Ok(());
    }
    let what = format!(
        "the copy ends at {}, before the block of the backup began ({}): two-phase commits may be cut in half",
        row.get::<String>("at")?,
        place.node.wal_lsn
    );
    let todo = "Give the archive with --restore-command, or take another backup.";
    Err(place.refused(what, todo).into())
}

/// pg_dist_node. In two steps, over names that nobody has: new addresses may overlap old ones.
fn addresses(
    plan: &Plan,
    place: &Place,
    database: &mut Talk<'_>,
    name: &str,
    notes: &mut Notes<'_>,
) -> Result<(), Failure> {
    let group: i32 =
        database.ask("group", "SELECT groupid FROM pg_dist_local_group")?.parse_single()?;
    if is_rewritten(plan, database)? {
        return lost(database, name, notes);
    }
    let known = database.ask(
        "nodes",
        "SELECT n.groupid, n.nodename, n.nodeport FROM pg_dist_node n
          WHERE n.noderole::text = 'primary' AND to_jsonb(n) ->> 'nodeisclone' IS DISTINCT FROM 'true'",
    )?;
    let known = rows(&known)?.map(|row| {
        Ok(Known {
            group: row.get("groupid")?,
            host: row.get("nodename")?,
            port: row.get("nodeport")?,
        })
    });
    let known = known.collect::<Result<Vec<_>, remote::RemoteError>>()?;
    let new: Vec<String> = numbering::addresses(plan, place, name, group, &known)?
        .iter()
        .map(|(group, to)| format!("({group}, {}, {})", quoted(&to.host), to.port))
        .collect();
    // A node that has never had metadata is known to others by a number that it does not know itself.
    let group = if known.is_empty() { place.group() } else { group };
    let gone = database.ask(
        "read other nodes",
        "SELECT n.noderole::text AS role, n.nodename, n.nodeport, n.groupid FROM pg_dist_node n
          WHERE n.noderole::text <> 'primary' OR to_jsonb(n) ->> 'nodeisclone' = 'true'",
    )?;
    for row in rows(&gone)? {
        notes.add(format!(
            "database \"{name}\": {} {}:{} of group {} is no node any more",
            row.get::<String>("role")?,
            row.get::<String>("nodename")?,
            row.get::<i32>("nodeport")?,
            row.get::<i32>("groupid")?
        ))?;
    }
    let pools = database.ask(
        "poolers",
        "SELECT p.nodeid, p.poolinfo, n.groupid FROM pg_dist_poolinfo p LEFT JOIN pg_dist_node n USING (nodeid)
          ORDER BY p.nodeid",
    )?;
    for row in rows(&pools)? {
        let of: Option<i32> = row.maybe("groupid")?;
        notes.add(format!(
            "database \"{name}\": node {}'s pooler ({}) is production's and is left out: the copies connect directly, \
             until you name others after restore finish: INSERT INTO pg_dist_poolinfo (nodeid, poolinfo) VALUES ({}, \
             'host=… port=…')",
            of.map_or_else(|| "an unknown".to_owned(), |group| group.to_string()),
            row.get::<String>("poolinfo")?,
            row.get::<i32>("nodeid")?
        ))?;
    }
    let read_only = "SELECT to_regclass('citus_fence.cluster_read_only') IS NOT NULL";
    let open = match database.ask("look for a switch", read_only)?.single_value()? {
        "t" => "DELETE FROM citus_fence.cluster_read_only;",
        _ => "",
    };
    let clones = clones(database, name, notes)?;
    let (lend, take_back) = identities(database)?;
    database.ask(
        "rewrite addresses",
        &format!(
            "BEGIN;
             {lend}
             DELETE FROM pg_dist_node n
              WHERE n.noderole::text <> 'primary' OR to_jsonb(n) ->> 'nodeisclone' = 'true';
             UPDATE pg_dist_node SET nodename = 'lost-' || groupid || '.invalid', nodeport = 1;
             UPDATE pg_dist_node n SET nodename = r.host, nodeport = r.port
               FROM (VALUES {}) AS r(groupid, host, port) WHERE r.groupid = n.groupid;
             UPDATE pg_dist_node SET isactive = false WHERE nodename LIKE 'lost-%.invalid';
             DELETE FROM pg_dist_poolinfo;
             {open} {clones}
             INSERT INTO pg_dist_node_metadata (metadata)
             SELECT '{{}}'::jsonb WHERE NOT EXISTS (SELECT FROM pg_dist_node_metadata);
             UPDATE pg_dist_node_metadata SET metadata = metadata || jsonb_build_object(
                 'server_id', gen_random_uuid()::text, 'restore_id', {}::text, 'restore_group', {}::int);
             {take_back}
             COMMIT",
            new.join(", "),
            quoted(&plan.restore_id),
            group
        ),
    )?;
    lost(database, name, notes)
}

/// Whether that has been done, in one transaction: the names of nodes are the copies' then, and tell nothing any more.
fn is_rewritten(plan: &Plan, database: &mut Talk<'_>) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_dist_node_metadata WHERE metadata ->> 'restore_id' = {})",
        quoted(&plan.restore_id)
    );
    Ok(database.ask("look for an earlier run", &sql)?.single_value()? == "t")
}

/// Takes down which nodes nobody has restored.
fn lost(database: &mut Talk<'_>, name: &str, notes: &mut Notes<'_>) -> Result<(), Failure> {
    let lost = database.ask(
        "look for lost nodes",
        "SELECT groupid FROM pg_dist_node WHERE nodename LIKE 'lost-%.invalid' ORDER BY 1",
    )?;
    for row in rows(&lost)? {
        notes.add(format!(
            "database \"{name}\": node {} is lost, inactive from here on",
            row.get::<i32>("groupid")?
        ))?;
    }
    Ok(())
}

/// The registry of clones: with it a copy would go on with a split, or be told to begin one, at production's replica. Gives
/// what empties it.
fn clones(
    database: &mut Talk<'_>,
    name: &str,
    notes: &mut Notes<'_>,
) -> Result<&'static str, Failure> {
    let has = "SELECT to_regclass('citus_fence.clone') IS NOT NULL";
    if database.ask("look for a registry of clones", has)?.single_value()? != "t" {
        return Ok("");
    }
    let list = "SELECT clone_nodeid, nodename, nodeport, step FROM citus_fence.clone WHERE step <> 'cleaned'";
    for row in rows(&database.ask("look for clones", list)?)? {
        notes.add(format!(
            "database \"{name}\": clone {} at {}:{} (step {}) is none any more",
            row.get::<i32>("clone_nodeid")?,
            row.get::<String>("nodename")?,
            row.get::<i32>("nodeport")?,
            row.get::<String>("step")?
        ))?;
    }
    // Nothing cascades here.
    Ok("DELETE FROM citus_fence.clone_journal; DELETE FROM citus_fence.clone;")
}

/// What a publication of all tables takes to let rows of the catalog be changed: it publishes the tables of Citus, too,
/// and `pg_dist_node_metadata` has no key. Citus itself writes past that. Statements for before and after.
pub fn identities(database: &mut Talk<'_>) -> Result<(String, String), Failure> {
    let reply = database.ask(
        "look for tables without a replica identity",
        "SELECT c.oid::regclass::text AS name, CASE relreplident WHEN 'd' THEN 'DEFAULT' ELSE 'NOTHING' END AS identity
           FROM unnest(ARRAY[to_regclass('pg_catalog.pg_dist_node'), to_regclass('pg_catalog.pg_dist_poolinfo'),
                to_regclass('pg_catalog.pg_dist_node_metadata'), to_regclass('citus_fence.cluster_read_only')]) AS o
           JOIN pg_class c ON c.oid = o
          WHERE relreplident = 'n' OR relreplident = 'd'
            AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
    )?;
    let (mut lend, mut take_back) = (String::new(), String::new());
    for row in rows(&reply)? {
        let (name, identity): (String, String) = (row.get("name")?, row.get("identity")?);
        lend.push_str(&format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"));
        take_back.push_str(&format!("ALTER TABLE {name} REPLICA IDENTITY {identity};"));
    }
    Ok((lend, take_back))
}

/// pg_cron's jobs name nodes of their own.
fn schedulers(database: &mut Talk<'_>, name: &str, notes: &mut Notes<'_>) -> Result<(), Failure> {
    let has = "SELECT to_regclass('cron.job') IS NOT NULL";
    if database.ask("look for pg_cron", has)?.single_value()? != "t" {
        return Ok(());
    }
    let off = "UPDATE cron.job SET active = false WHERE active RETURNING jobid, nodename, nodeport";
    let jobs = database.ask("switch cron jobs off", off)?;
    for row in rows(&jobs)? {
        notes.add(format!(
            "database \"{name}\": cron job {} for {}:{} is off",
            row.get::<i64>("jobid")?,
            row.get::<String>("nodename")?,
            row.get::<i32>("nodeport")?
        ))?;
    }
    Ok(())
}

/// Subscriptions would take over production's slots. The address first: only then does nothing connect there any more.
fn subscriptions(
    database: &mut Talk<'_>,
    name: &str,
    notes: &mut Notes<'_>,
) -> Result<(), Failure> {
    let list = database.ask(
        "look for subscriptions",
        "SELECT quote_ident(subname) AS name, subconninfo, subenabled,
                subname ~ '^citus_shard_(move|split)_subscription_' AS of_citus
           FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()",
    )?;
    for row in rows(&list)? {
        let subscription: String = row.get("name")?;
        let conninfo: String = row.maybe("subconninfo")?.unwrap_or_default();
        let drop = match row.is_true("of_citus")? {
            true => format!("DROP SUBSCRIPTION {subscription};"),
            false => String::new(),
        };
        database.ask(
            "cut a subscription",
            &format!(
                "ALTER SUBSCRIPTION {subscription} CONNECTION {};
                 ALTER SUBSCRIPTION {subscription} DISABLE;
                 ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE);
                 {drop}",
                quoted(DEAD_END)
            ),
        )?;
        if conninfo != DEAD_END {
            let mut params = ConnParams::new();
            // Shown with its password masked; one that libpq cannot read is not shown.
            let _ = params.merge_conninfo(&conninfo);
            notes.add(format!(
                "database \"{name}\": subscription {subscription} to {params} {}",
                if drop.is_empty() { "is disabled and leads nowhere" } else { "dropped" }
            ))?;
        }
    }
    Ok(())
}

/// What may lead to production when somebody uses it.
fn leads(database: &mut Talk<'_>, name: &str, notes: &mut Notes<'_>) -> Result<(), Failure> {
    let servers = database
        .ask("look for foreign servers", "SELECT srvname FROM pg_foreign_server ORDER BY 1")?;
    for row in rows(&servers)? {
        let server: String = row.get("srvname")?;
        notes.add(format!(
            "database \"{name}\": foreign server {server} is as it was: see where it leads"
        ))?;
    }
    Ok(())
}
