//! `--create`: the dump's database, on all nodes of the cluster whose database was named.
//!
//! PostgreSQL makes no database in a transaction. So what was made is dropped again if anything fails before rows are
//! written; a program that is killed in between leaves an empty database, which the next run names.

use std::time::Duration;

use tracing::{info, warn};

use super::args::RestoreDumpArgs;
use super::error::RestoreDumpError;
use crate::check::{self, Cluster};
use crate::connection::Destination;
use crate::dump::{Dump, Locale, literal, quote};
use crate::failure::Failure;
use crate::rows::rows;
use crate::signals::Stop;
use crate::talk::Talk;

/// How long making a database, or an extension in it, may take.
const TIME: Duration = Duration::from_secs(600);

/// A node as the other database knows it.
struct Member {
    group: i32,
    host: String,
    port: i32,
    takes_shards: bool,
}

/// Makes it; the way to it. None where it is there already and a restore is gone on with.
pub fn create(
    args: &RestoreDumpArgs,
    destination: &Destination,
    dump: &Dump,
    stop: &Stop,
) -> Result<bool, Failure> {
    let place = &destination.target;
    let mut first = check::open(&place.node, &place.params, destination, stop)?;
    let mut cluster = Cluster::of(&mut first, destination, &args.nodes, stop)?;
    let name = &dump.database;
    let there =
        format!("SELECT EXISTS (SELECT FROM pg_database WHERE datname = {})", literal(name));
    for member in &mut cluster.members {
        if check::ask(&mut member.talk, "look for the database", &there)?.single_value()? == "t" {
            if args.resume && member.group == 0 {
                return Ok(false);
            }
            let node = member.talk.place().to_string();
            return Err(RestoreDumpError::DatabaseThere { node, database: name.clone() }.into());
        }
    }
    let reply = check::ask(
        &mut first,
        "list nodes",
        "SELECT groupid, nodename, nodeport, shouldhaveshards FROM pg_dist_node
          WHERE noderole::text = 'primary' AND isactive ORDER BY groupid",
    )?;
    let mut members = Vec::new();
    for row in rows(&reply)? {
        members.push(Member {
            group: row.get("groupid")?,
            host: row.get("nodename")?,
            port: row.get("nodeport")?,
            takes_shards: row.is_true("shouldhaveshards")?,
        });
    }
    match make(args, destination, dump, &mut cluster, &members, stop) {
        Ok(()) => Ok(true),
        Err(failure) => {
            remove(args, destination, dump);
            Err(failure)
        }
    }
}

/// The way to the dump's database.
pub fn destination(of: &Destination, dump: &Dump) -> Destination {
    let mut destination = of.clone();
    destination.target.params.set("dbname", &dump.database);
    destination
}

fn make(
    args: &RestoreDumpArgs,
    of: &Destination,
    dump: &Dump,
    cluster: &mut Cluster<'_>,
    members: &[Member],
    stop: &Stop,
) -> Result<(), Failure> {
    let sql = create_sql(&dump.database, dump.locale.as_ref());
    let extension = if cluster.citus { "citus" } else { "pg_dist" };
    for member in &mut cluster.members {
        info!("database \"{}\" on {}", dump.database, member.talk.place());
        member.talk.ask("create the database", &sql)?;
        let mut talk = open(args, of, dump, member, stop)?;
        talk.ask("create the extension", &format!("CREATE EXTENSION {extension}"))?;
    }
    let Some(coordinator) = cluster.members.iter().find(|member| member.group == 0) else {
        return Ok(());
    };
    let mut talk = open(args, of, dump, coordinator, stop)?;
    for member in members {
        let at = format!("{}, {}", literal(&member.host), member.port);
        let add = match member.group {
            0 => format!("SELECT citus_set_coordinator_host({at})"),
            _ => format!("SELECT citus_add_node({at})"),
        };
        talk.ask("add a node", &add)?;
        if cluster.citus {
            let takes = member.takes_shards;
            let property =
                format!("SELECT citus_set_node_property({at}, 'shouldhaveshards', {takes})");
            talk.ask("say whether a node takes shards", &property)?;
        }
    }
    Ok(())
}

fn open<'a>(
    args: &RestoreDumpArgs,
    of: &Destination,
    dump: &Dump,
    member: &check::Member<'_>,
    stop: &'a Stop,
) -> Result<Talk<'a>, Failure> {
    let params = match member.group {
        0 => destination(of, dump).target.params,
        group => check::params(of, &args.nodes, group, &member.host, member.port, &dump.database),
    };
    Talk::open(member.talk.place().clone(), params, of.connect_timeout, TIME, stop)
}

/// Drops it on all nodes, whoever has told this program to stop.
pub fn remove(args: &RestoreDumpArgs, of: &Destination, dump: &Dump) {
    let stop = Stop::default();
    let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&dump.database));
    let drop =
        || -> Result<(), Failure> {
            let mut first = check::open(&of.target.node, &of.target.params, of, &stop)?;
            let mut cluster = Cluster::of(&mut first, of, &args.nodes, &stop)?;
            cluster.members.iter_mut().rev().try_for_each(|member| {
                member.talk.ask("drop the database", &sql).map(std::mem::drop)
            })
        };
    if let Err(failure) = drop() {
        warn!("database \"{}\" could not be dropped again: {failure}", dump.database);
    }
}

/// As the dump's was, where the dump says.
fn create_sql(name: &str, locale: Option<&Locale>) -> String {
    let mut sql = format!("CREATE DATABASE {}", quote(name));
    if let Some(locale) = locale {
        sql.push_str(&format!(
            " TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            literal(&locale.encoding),
            literal(&locale.collate),
            literal(&locale.ctype)
        ));
        match (locale.provider.as_deref(), &locale.locale) {
            // Not said, it would be that of template0, which another cluster may have from ICU.
            (Some("c"), _) => sql.push_str(" LOCALE_PROVIDER libc"),
            (Some("i"), Some(name)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(name)));
                if let Some(rules) = &locale.icu_rules {
                    sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
                }
            }
            (Some("b"), Some(name)) => {
                sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(name)));
            }
            _ => {}
        }
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_as_the_dumps_was() {
        assert_eq!(create_sql("a\"b", None), "CREATE DATABASE \"a\"\"b\"");
        let mut locale = Locale {
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            provider: Some("c".into()),
            locale: None,
            icu_rules: None,
        };
        let plain = "CREATE DATABASE \"x\" TEMPLATE template0 ENCODING E'UTF8' LC_COLLATE E'C' LC_CTYPE E'C'";
        assert_eq!(create_sql("x", Some(&locale)), format!("{plain} LOCALE_PROVIDER libc"));
        (locale.provider, locale.locale) = (Some("i".into()), Some("de".into()));
        let icu = format!("{plain} LOCALE_PROVIDER icu ICU_LOCALE E'de'");
        assert_eq!(create_sql("x", Some(&locale)), icu);
        locale.icu_rules = Some("&v < w".into());
        assert_eq!(create_sql("x", Some(&locale)), format!("{icu} ICU_RULES E'&v < w'"));
    }
}
