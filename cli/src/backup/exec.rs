//! `--exec`: any tool that copies a node, in the place of pg_basebackup.

use std::path::Path;
use std::process::Command;

use super::source::Source;
use crate::failure::Failure;
use crate::lease::Held;

/// What messages call it.
pub const PROGRAM: &str = "the command of --exec";

/// What is known of a node, by the names that stand for it in the command.
fn facts(source: &Source) -> [(&'static str, Option<String>); 5] {
    let node = &source.node;
    let params = &node.destination.target.params;
    let seen = |keyword: &str, else_: String| {
        Some(params.get(keyword).filter(|value| !value.is_empty()).map_or(else_, str::to_owned))
    };
    [
        ("name", Some(node.name.clone())),
        ("host", seen("host", node.name.clone())),
        ("port", seen("port", node.port.to_string())),
        ("groupid", Some(node.groupid.to_string())),
        ("datadir", source.data_directory.clone()),
    ]
}

/// The command with what stands for the node replaced. A value that the shell would take apart is refused, not quoted:
/// whether there are quotes around it already, only the shell knows.
pub fn filled_in(text: &str, source: &Source) -> Result<String, Failure> {
    let mut command = text.to_owned();
    for (name, value) in facts(source) {
        let placeholder = format!("{{{name}}}");
        if !command.contains(&placeholder) {
            continue;
        }
        let Some(value) = value else {
            return Err(source.node.unfit(
                format!("what {placeholder} stands for is not known: this user may not see it there"),
                "Nothing was done. Run there: GRANT pg_read_all_settings TO …; or do without it in --exec.",
            ));
        };
        let is_plain = |c: char| c.is_alphanumeric() || "-_./:,+@%".contains(c);
        if value.is_empty() || !value.chars().all(is_plain) {
            return Err(source.node.unfit(
                format!("{placeholder} stands for \"{value}\", which a shell would take apart"),
                format!(
                    "Nothing was done. Write \"$CITUS_FENCE_NODE_{}\" in --exec, with the quotes.",
                    name.to_uppercase()
                ),
            ));
        }
        command = command.replace(&placeholder, &value);
    }
    Ok(command)
}

/// It, as the manifest and messages have it: without the values that look like passwords.
pub fn shown(text: &str) -> String {
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["pass", "secret", "token", "key"].iter().any(|part| name.contains(part))
    };
    let mut hide_next = false;
    let words = text.split(' ').map(|word| {
        if std::mem::take(&mut hide_next) && !word.starts_with('-') {
            return "****".to_owned();
        }
        match word.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=****"),
            None if word.starts_with("--") && is_secret(word) => {
                hide_next = true;
                word.to_owned()
            }
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// It, as it is run for a node.
pub fn command(text: &str, source: &Source, held: &Held, folder: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", text])
        .env("CITUS_FENCE_BLOCK_ID", held.id.to_string())
        .env("CITUS_FENCE_BLOCK_MODE", &held.mode)
        .env("CITUS_FENCE_BACKUP_DIR", folder);
    for (name, value) in facts(source) {
        command.env(format!("CITUS_FENCE_NODE_{}", name.to_uppercase()), value.unwrap_or_default());
    }
    if let Some(node) = held.nodes.iter().find(|node| node.groupid == source.node.groupid) {
        command.env("CITUS_FENCE_NODE_WAL_LSN", &node.wal_lsn);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_looks_like_a_password_is_not_kept() {
        for (text, kept) in [
            ("PGPASSWORD=x pgbackrest backup", "PGPASSWORD=**** pgbackrest backup"),
            ("a --cipher-pass x --stanza=n", "a --cipher-pass **** --stanza=n"),
            ("a --repo1-s3-key=x b", "a --repo1-s3-key=**** b"),
            ("barman backup --wait n{groupid}", "barman backup --wait n{groupid}"),
        ] {
            assert_eq!(shown(text), kept);
        }
    }
}
