//! A node before its copy: who it is, how large, and its configuration files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::manifest::Tablespace;
use crate::nodes::{self, Identity, Node};
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::{Talk, quoted};

/// How much of a configuration file is read.
const LONGEST_FILE: u32 = 16 << 20;

/// What is known of it.
pub struct Source {
    pub node: Node,
    pub identity: Identity,
    /// Of all its databases; none where the user may not know.
    pub bytes: Option<u64>,
    pub tablespaces: Vec<Tablespace>,
    /// File name and text; none where the user may not read them.
    pub config: Option<BTreeMap<String, String>>,
    /// What is not known, or not copied, and why.
    pub remarks: Vec<String>,
}

/// Asks it.
pub fn look(node: &Node, stop: &Stop) -> Result<Source, Failure> {
    let mut talk = node.talk(stop)?;
    let identity = nodes::identify(node, &mut talk)?;
    let reply = talk.ask(
        "list of tablespaces",
        // One without a location of its own (pg_default, or made in place) is in the data directory.
        "SELECT oid, pg_catalog.pg_tablespace_location(oid) AS location FROM pg_catalog.pg_tablespace \
          WHERE pg_catalog.pg_tablespace_location(oid) LIKE '/%' ORDER BY oid",
    )?;
    let mut tablespaces = Vec::new();
    for row in rows(&reply)? {
        let location: String = row.get("location")?;
        tablespaces.push(Tablespace {
            oid: row.get("oid")?,
            location: location.into(),
            copy: None,
        });
    }
    let mut remarks = Vec::new();
    // Only the server knows what this user may see; without it there is no estimate.
    let size = talk.ask(
        "size of the databases",
        "SELECT sum(pg_catalog.pg_database_size(oid))::bigint AS bytes FROM pg_catalog.pg_database",
    );
    let bytes = match size {
        Ok(reply) => only_row(&reply)?.maybe("bytes")?,
        Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
        Err(error) => {
            remarks.push(format!("its size is not known: {error}"));
            None
        }
    };
    let config = match config(&mut talk) {
        Ok(config) => Some(config),
        Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
        Err(error) => {
            remarks.push(format!("its configuration files are not copied: {error}"));
            None
        }
    };
    Ok(Source { node: node.clone(), identity, bytes, tablespaces, config, remarks })
}

/// Its configuration files, which may lie outside of the data directory, with those that they include.
fn config(talk: &mut Talk<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let reply = talk.ask(
        "list of configuration files",
        "SELECT path FROM (VALUES (pg_catalog.current_setting('config_file')), \
                (pg_catalog.current_setting('hba_file')), (pg_catalog.current_setting('ident_file'))) AS main(path) \
         UNION SELECT sourcefile FROM pg_catalog.pg_file_settings WHERE sourcefile IS NOT NULL",
    )?;
    let mut paths = Vec::new();
    for row in rows(&reply)? {
        paths.push(PathBuf::from(row.get::<String>("path")?));
    }
    let mut files = BTreeMap::new();
    for path in paths {
        let sql = format!(
            "SELECT pg_catalog.pg_read_file({}, 0, {LONGEST_FILE}, true) AS text",
            quoted(&path.to_string_lossy())
        );
        let reply = talk.ask("reading of a configuration file", &sql)?;
        if let Some(text) = only_row(&reply)?.maybe::<String>("text")? {
            files.insert(unused_name(&files, &path), text);
        }
    }
    Ok(files)
}

/// Its last name, or one that says more where another file has that.
fn unused_name(files: &BTreeMap<String, String>, path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    match files.contains_key(&name) {
        false => name,
        true => path.to_string_lossy().trim_start_matches('/').replace('/', "__"),
    }
}
