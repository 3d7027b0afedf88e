//! Settings without which something of Citus fails later.

use super::members::{Cluster, ask};
use super::{Finding, Report, looks};
use crate::failure::Failure;

/// What Citus names as its own, for splits of shards.
const PLUGIN: &str = "citus";

/// Whether all nodes let Citus decode: PostgreSQL's minor releases of November 2026 refuse what is not in that list.
pub fn output_plugins(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    if !cluster.citus {
        return Ok(());
    }
    for member in &mut cluster.members {
        let sql = "SELECT coalesce(current_setting('output_plugin_libraries', true), '*')";
        let list = match ask(&mut member.talk, "output plugins", sql) {
            Ok(reply) => reply.single_value()?.to_owned(),
            Err(Failure::Remote(error)) if looks::is_forbidden(&error) => {
                let why =
                    error.server_error().map_or(error.to_string(), |error| error.message.clone());
                report.not_checked.push(Finding {
                    check: "output plugins",
                    node: member.talk.place().to_string(),
                    what: why,
                });
                continue;
            }
            Err(failure) => return Err(failure),
        };
        // Older servers have no such list.
        if list != "*" && !names(&list).any(|name| name == PLUGIN) {
            let what = format!(
                "{PLUGIN} is not in output_plugin_libraries ({list}): shards cannot be split online here (42501): \
                 ALTER SYSTEM SET output_plugin_libraries = {}; SELECT pg_reload_conf();",
                with(&list)
            );
            looks::push(report, "output plugins", &member.talk, what);
        }
    }
    Ok(())
}

/// The libraries in such a list, without folders.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|name| {
        let name = name.trim().trim_matches('"');
        name.rsplit('/').next().unwrap_or(name)
    })
}

/// The list with that one, as ALTER SYSTEM takes it.
fn with(list: &str) -> String {
    let known = list.split(',').map(|name| name.trim().trim_matches('"'));
    let all = known.filter(|name| !name.is_empty()).chain([PLUGIN]);
    let all: Vec<String> = all.map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{names, with};

    #[test]
    fn lists_are_read_and_added_to() {
        assert!(names("pgoutput, \"$libdir/citus\"").any(|name| name == "citus"));
        assert!(!names("pgoutput,citus_decoders").any(|name| name == "citus"));
        assert_eq!(with("pgoutput, test_decoding"), "'pgoutput', 'test_decoding', 'citus'");
        assert_eq!(with(""), "'citus'");
    }
}
