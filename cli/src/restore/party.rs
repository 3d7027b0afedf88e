//! Who was brought to one mind with whom.
//!
//! The same backup may be restored to the same places twice. Where one node's directory is forgotten, that node goes on from
//! the first time, with all that was written there since, and belongs to the same restore. So each copy gets a number of
//! its own when it is rewritten (`server_id`), and `restore finish` writes those of all nodes down on each of them before it
//! decides anything.

use std::collections::BTreeMap;

use super::rewrite;
use crate::check::{Cluster, ask, tell};
use crate::failure::Failure;
use crate::rows::only_row;
use crate::talk::quoted;

/// By group.
type Copies = BTreeMap<i32, String>;

/// Refuses nodes of which one was finished with other copies than the others are.
pub fn require(cluster: &mut Cluster<'_>) -> Result<(), Failure> {
    let mut now = Copies::new();
    let mut before = Vec::new();
    for member in &mut cluster.members {
        let reply = ask(
            &mut member.talk,
            "copies",
            "SELECT metadata ->> 'server_id' AS own, metadata ->> 'restored_with' AS others FROM pg_dist_node_metadata",
        )?;
        let row = only_row(&reply)?;
        now.insert(member.group, row.get("own")?);
        let others = row.maybe::<String>("others")?.unwrap_or_default();
        // What somebody else has written there says nothing.
        let others: Option<Copies> = serde_json::from_str(&others).ok();
        before.push((member.talk.place().to_string(), others));
    }
    for (place, others) in &before {
        let Some(others) = others else { continue };
        let is_another =
            |(group, copy): &(&i32, &String)| now.get(group).is_some_and(|now| now != *copy);
        let groups: Vec<String> =
            others.iter().filter(is_another).map(|(group, _)| group.to_string()).collect();
        if !groups.is_empty() {
            return Err(Failure::Unfit {
                what: format!(
                    "nothing has been decided: {place} was finished before, with other copies of node {} than are there \
                     now: what was written since is on one of them and not on the other",
                    groups.join(", ")
                ),
                todo: "Stop all nodes, empty the data directories of all, and restore all of them anew.".into(),
            });
        }
    }
    let text = serde_json::to_string(&now).unwrap_or_default();
    for (member, (_, others)) in cluster.members.iter_mut().zip(before) {
        if others.as_ref() == Some(&now) {
            continue;
        }
        let (lend, take_back) = rewrite::identities(&mut member.talk)?;
        let write = format!(
            "{lend} UPDATE pg_dist_node_metadata SET metadata = metadata || \
             pg_catalog.jsonb_build_object('restored_with', {}::text); {take_back} SELECT",
            quoted(&text)
        );
        tell(&mut member.talk, "write down the copies", &write)?;
    }
    Ok(())
}
