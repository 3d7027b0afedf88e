//! What the database's sessions begin with: `ALTER DATABASE … SET`, `ALTER ROLE … IN DATABASE … SET`. With `--create`, as
//! `pg_restore --create` has them; a database that was there before has its own.
//!
//! They come before the schema, since a check or a view may look at one of them, `TimeZone` say. Only what would have the
//! restore itself write nothing comes last.

use remote::RemoteError;
use tracing::debug;

use super::target::{Node, Target};
use crate::dump::{Dump, NodeSession, Setting, literal, quote};
use crate::failure::Failure;

/// What comes last.
const LATE: [&str; 2] = ["default_transaction_read_only", "role"];

/// Those whose value is a list of names that are in quotes already.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    BeforeTheSchema,
    Last,
}

/// Makes them on every node; what a server did not take is a finding.
pub fn make(
    dump: &Dump,
    target: &Target,
    sessions: &mut [NodeSession],
    when: When,
) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    for (node, session) in target.nodes.iter().zip(sessions) {
        let late = when == When::Last;
        let now = |setting: &&Setting| LATE.contains(&setting.name.as_str()) == late;
        for setting in of_node(dump, node).filter(now) {
            let sql = statement(setting, &target.database);
            debug!("{}: {sql}", node.called());
            match session.ask("make a setting of the database", &sql) {
                Ok(_) => {}
                Err(error @ RemoteError::Query { .. }) => findings.push(format!(
                    "the database's setting {}{} was not made: {error}",
                    setting.name,
                    setting.role.as_ref().map_or(String::new(), |role| format!(" for role {role}"))
                )),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(findings)
}

/// The group of the dump whose node a node is like: its own, or for one that is new the first worker's, or else the
/// coordinator's.
pub fn group_like(dump: &Dump, node: &Node) -> i32 {
    let groups = || dump.nodes.iter().map(|node| node.groupid);
    match groups().any(|group| group == node.group) {
        true => node.group,
        false => groups().filter(|group| *group != 0).min().unwrap_or(0),
    }
}

fn of_node<'a>(dump: &'a Dump, node: &Node) -> impl Iterator<Item = &'a Setting> {
    let group = group_like(dump, node);
    dump.settings.iter().filter(move |setting| setting.groupid == group)
}

fn statement(setting: &Setting, database: &str) -> String {
    let of = match &setting.role {
        None => format!("DATABASE {}", quote(database)),
        Some(role) => format!("ROLE {} IN DATABASE {}", quote(role), quote(database)),
    };
    let (name, value) = (quote(&setting.name), literal(&setting.value));
    if LISTS.contains(&setting.name.as_str()) {
        // Taken from a session that has it, for one transaction: nobody has to read the list.
        let own = literal(&setting.name);
        return format!(
            "SELECT pg_catalog.set_config({own}, {value}, true); ALTER {of} SET {name} FROM CURRENT"
        );
    }
    format!("ALTER {of} SET {name} TO {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_from_the_session_and_values_are_quoted() {
        let mut setting =
            Setting { groupid: 0, role: None, name: "app.it's".into(), value: "a'b".into() };
        assert_eq!(statement(&setting, "d"), "ALTER DATABASE \"d\" SET \"app.it's\" TO E'a''b'");
        setting.name = "search_path".into();
        setting.role = Some("r".into());
        assert_eq!(
            statement(&setting, "d"),
            "SELECT pg_catalog.set_config(E'search_path', E'a''b', true); \
             ALTER ROLE \"r\" IN DATABASE \"d\" SET \"search_path\" FROM CURRENT"
        );
    }
}
