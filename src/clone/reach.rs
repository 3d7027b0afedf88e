//! Whether the clone and the nodes reach each other, each as Citus will: for once it is a node, its queries go to all of
//! them and theirs to it.

use remote::{Session, Waiter};

use super::error::CloneError;
use super::fault::Fault;
use super::links::{Map, SHORT, ask};
use super::statements::query;
use crate::pg::quote::{identifier, literal};

/// An address.
struct Place<'a> {
    host: &'a str,
    port: i32,
}

/// A way that does not exist, as every role that Citus connects as.
///
/// `lines`: sessions with the nodes, in the order of the roster.
pub fn ask_ways<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    lines: &mut [Session],
    clone: &mut Session,
    place: (&str, i32),
) -> Result<Option<Fault>, CloneError> {
    // The embedded catalog asks nothing of that kind.
    if !map.roster.is_citus() {
        return Ok(None);
    }
    let nodes: Vec<Place<'_>> =
        map.roster.nodes().iter().map(|node| Place { host: &node.host, port: node.port }).collect();
    let clones = [Place { host: place.0, port: place.1 }];
    let clone_name = format!("{}:{}", place.0, place.1);
    let roles = roles(waiter, &mut lines[map.source])?;
    // The password or the pooler of one node is not known for a place that is no node yet: the switch brings them.
    let is_known_there =
        has_of_its_own(waiter, map, &mut lines[map.source])? || refuses_citus(waiter, clone)?;
    for role in &roles {
        if let Some(to) = find_closed(waiter, clone, role.as_deref(), &nodes)? {
            return Ok(Some(unreachable(clone_name, to, role.clone())));
        }
        if is_known_there {
            continue;
        }
        for (index, line) in lines.iter_mut().enumerate() {
            if let Some(to) = find_closed(waiter, line, role.as_deref(), &clones)? {
                return Ok(Some(unreachable(map.name(index), to, role.clone())));
            }
        }
    }
    Ok(None)
}

fn unreachable(from: String, to: String, role: Option<String>) -> Fault {
    Fault::Unreachable { from, to, role }
}

/// The session's own role, and those of `pg_dist_authinfo` that can log in.
fn roles<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
) -> Result<Vec<Option<String>>, CloneError> {
    let sql = query(
        "SELECT DISTINCT r.rolname FROM pg_dist_authinfo a JOIN pg_roles r ON r.rolname = a.rolename \
          WHERE r.rolcanlogin AND r.rolname <> current_user ORDER BY 1",
    );
    let reply = ask(waiter, session, "look at the roles of connections", &sql, SHORT)?;
    let others = reply.last_set()?.rows.iter().filter_map(|row| row.first()?.clone());
    Ok(std::iter::once(None).chain(others.map(Some)).collect())
}

/// Whether the source is reached by what holds for it alone.
fn has_of_its_own<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    session: &mut Session,
) -> Result<bool, CloneError> {
    let source = map.roster.nodes()[map.source].nodeid;
    let sql = query(&format!(
        "SELECT EXISTS (SELECT FROM pg_dist_authinfo WHERE nodeid = {source} AND nodeid <> 0)"
    ));
    let reply = ask(waiter, session, "look how the source is reached", &sql, SHORT)?;
    Ok(reply.single_value()? == "t")
}

/// Whether the clone, while it is a standby, refuses whatever Citus would ask it to see whether it is there.
fn refuses_citus<W: Waiter>(waiter: &mut W, clone: &mut Session) -> Result<bool, CloneError> {
    let sql = query(
        "SELECT reset_val = 'serializable' FROM pg_settings WHERE name = 'default_transaction_isolation'",
    );
    Ok(ask(waiter, clone, "look at its settings", &sql, SHORT)?.single_value()? == "t")
}

/// The first of these places to which that session's server finds no way.
fn find_closed<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    role: Option<&str>,
    places: &[Place<'_>],
) -> Result<Option<String>, CloneError> {
    let hosts: Vec<String> = places.iter().map(|place| literal(place.host)).collect();
    let ports: Vec<String> = places.iter().map(|place| place.port.to_string()).collect();
    let as_role =
        role.map_or(String::new(), |role| format!("SET LOCAL ROLE {};", identifier(role)));
    let sql = query(&format!(
        "{as_role} SELECT concat(a.host, ':', a.port) AS place \
           FROM unnest(ARRAY[{}]::text[], ARRAY[{}]::int[]) AS a (host, port) \
          WHERE NOT citus_check_connection_to_node(a.host, a.port) LIMIT 1",
        hosts.join(", "),
        ports.join(", ")
    ));
    let reply = ask(waiter, session, "look for the ways between nodes", &sql, SHORT)?;
    Ok(reply.last_set()?.value(0, "place").map(str::to_owned))
}
