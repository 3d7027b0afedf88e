//! Which node of the backup each node of a database is.
//!
//! A backup numbers its nodes as the database does of which it was made. Another database of the same servers is a
//! cluster of its own, and may number them in another way, or have another one of them as its coordinator: there a node
//! is told by the address that both catalogs have for it. Where they have other names for one node, the number decides,
//! as long as no address speaks against it.

use super::fault::Fault;
use super::plan::{Address, Place, Plan};

/// A node as a database knows it, before its address is rewritten.
#[derive(Clone, Debug)]
pub struct Known {
    pub group: i32,
    pub host: String,
    pub port: i32,
}

/// Where the nodes of a database are to be, by its own numbers; one that is restored nowhere is left out. `own` is the
/// number that this node has there.
pub fn addresses(
    plan: &Plan,
    place: &Place,
    database: &str,
    own: i32,
    known: &[Known],
) -> Result<Vec<(i32, Address)>, Fault> {
    let other = |what: String| {
        let todo = "Restore such a database from a backup of its own.";
        Err(place.refused(format!("database \"{database}\" {what}"), todo))
    };
    let number = numbers(plan, database, known);
    // A node that has never had metadata knows no nodes, and not its own number.
    if !known.is_empty() {
        let here = match known.iter().position(|node| node.group == own) {
            Some(at) => number[at],
            None => Some(own),
        };
        if here != Some(place.group()) {
            return other(format!(
                "numbers its nodes in another way: this one is {own} there, and the addresses do not tell which one of \
                 the backup that is"
            ));
        }
    }
    let mut addresses = Vec::new();
    for (node, number) in known.iter().zip(number) {
        let Some(number) = number else {
            return other(format!(
                "numbers its nodes in another way, and knows one ({}:{}) that the backup has under no such address",
                node.host, node.port
            ));
        };
        let address = plan.addresses.iter().find(|address| address.group == number);
        addresses.extend(address.map(|address| (node.group, address.clone())));
    }
    if known.is_empty() {
        addresses.extend(plan.addresses.iter().map(|address| (address.group, address.clone())));
    }
    Ok(addresses)
}

/// The number that the backup has for each; none where that cannot be told.
fn numbers(plan: &Plan, database: &str, known: &[Known]) -> Vec<Option<i32>> {
    let by_number = || known.iter().map(|node| Some(node.group)).collect();
    if database == plan.backup.database {
        return by_number();
    }
    let nodes = plan.backup.nodes.iter().map(|node| (&node.name, node.port, node.groupid));
    let missing = plan.backup.missing.iter().map(|node| (&node.name, node.port, node.groupid));
    let nodes: Vec<_> = nodes.chain(missing).collect();
    let at = |one: &Known| {
        let same = nodes.iter().find(|(name, port, _)| **name == one.host && *port == one.port);
        same.map(|(_, _, group)| *group)
    };
    let by_address: Vec<Option<i32>> = known.iter().map(at).collect();
    let mut pairs = known.iter().zip(&by_address);
    match pairs.all(|(node, number)| number.is_none_or(|number| number == node.group)) {
        true => by_number(),
        false => by_address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(database: &str) -> Plan {
        let node = |group: i32, name: &str| {
            serde_json::json!({
                "nodeid": group, "groupid": group, "name": name, "port": 5432, "system_identifier": "1", "timeline": 1,
                "forks": [], "wal_lsn": "0/1", "postgresql": "15", "bytes": 0, "data": null, "config": null,
                "tablespaces": [], "tool": "x"
            })
        };
        let now = "2031-01-01T00:00:00Z";
        let backup = serde_json::from_value(serde_json::json!({
            "format": "citus-fence backup", "version": 1, "citus_fence": "0", "database": database,
            "citus_databases": [], "citus": null, "nodes": [node(0, "c"), node(1, "a"), node(2, "b")],
            "block": {"id": 1, "mode": "2pc", "began_at": now, "ended_at": now, "held_ms": 1},
            "missing": [{"nodeid": 3, "groupid": 3, "name": "gone", "port": 5432, "why": "it is inactive"}]
        }));
        let to = |group| Address { group, host: format!("new{group}"), port: 1 };
        Plan {
            dir: "/b".into(),
            backup: backup.expect("a backup"),
            restore_id: "id".into(),
            places: Vec::new(),
            addresses: vec![to(0), to(1), to(2)],
            lost: [3].into(),
            point: None,
        }
    }

    /// What a database becomes on the node that the backup has as `group`: pairs of its number and the new host.
    fn there(group: i32, own: i32, known: &[(i32, &str)]) -> Result<Vec<(i32, String)>, String> {
        let plan = plan("main");
        let place = Place {
            to: super::super::args::To {
                group,
                host: "h".into(),
                port: 1,
                data: "/d".into(),
                config: None,
            },
            node: plan.backup.nodes[0].clone(),
            mappings: Vec::new(),
            restore_command: None,
        };
        let known: Vec<Known> = known
            .iter()
            .map(|(group, host)| Known { group: *group, host: (*host).into(), port: 5432 })
            .collect();
        let found = addresses(&plan, &place, "other", own, &known);
        let host = |(group, address): (i32, Address)| (group, address.host);
        found.map(|found| found.into_iter().map(host).collect()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_node_is_the_one_whose_address_it_has() {
        let new = |pairs: &[(i32, &str)]| -> Vec<(i32, String)> {
            pairs.iter().map(|(group, host)| (*group, (*host).to_owned())).collect()
        };
        let same = [(0, "c"), (1, "a"), (2, "b")];
        let all = new(&[(0, "new0"), (1, "new1"), (2, "new2")]);
        assert_eq!(there(1, 1, &same), Ok(all.clone()));
        // Added in another order, and one that nobody has restored.
        let turned = [(0, "c"), (1, "b"), (2, "a"), (4, "gone")];
        let right = new(&[(0, "new0"), (1, "new2"), (2, "new1")]);
        for (group, own) in [(0, 0), (1, 2), (2, 1)] {
            assert_eq!(there(group, own, &turned), Ok(right.clone()));
            assert!(there(group, (own + 1) % 3, &turned).is_err());
        }
        // Another one of them is its coordinator.
        let elsewhere = new(&[(0, "new1"), (1, "new0")]);
        assert_eq!(there(1, 0, &[(0, "a"), (1, "c")]), Ok(elsewhere.clone()));
        assert_eq!(there(0, 1, &[(0, "a"), (1, "c")]), Ok(elsewhere));
        // Other names, the same numbers.
        assert_eq!(there(2, 2, &[(0, "c.lan"), (1, "a.lan"), (2, "b")]), Ok(all.clone()));
        // No metadata yet.
        assert_eq!(there(2, 0, &[]), Ok(all));
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let odd = there(2, 1, &[(0, "c"), (1, "b"), (2, "a.lan")]).expect_err("whose is a.lan?");
        assert!(odd.contains("a.lan:5432"), "{odd}");
        let odd = there(2, 1, &[(0, "c"), (1, "b.lan"), (2, "a.lan")]).expect_err("no address");
        assert!(odd.contains("this one is 1 there"), "{odd}");
        // A coordinator without a row of its own.
        assert!(there(1, 0, &[(1, "b")]).is_err());
        assert!(there(0, 0, &[(1, "b")]).is_ok());
    }
}
