//! A node before its copy: who it is, how large, and its configuration files.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::reached;
use crate::failure::Failure;
use crate::folder::{self, Folder};
use crate::manifest::{Fork, Missing, Tablespace};
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
    /// Where its files are; none where the user may not know.
    pub data_directory: Option<String>,
    /// File name and text; none where the user may not read them.
    pub config: Option<BTreeMap<String, String>>,
    /// What is not known, or not copied, and why.
    pub remarks: Vec<String>,
}

impl Source {
    /// Where what is kept of it is, below the backup's directory.
    pub fn below(&self) -> PathBuf {
        Path::new("nodes").join(self.node.groupid.to_string())
    }

    /// The same as a whole path.
    pub fn place(&self, folder: &Folder) -> PathBuf {
        folder.path.join(self.below())
    }

    /// Where each timeline before this one was left, as far as this user may know.
    pub fn forks(&self, timeline: i32, stop: &Stop) -> Result<Vec<Fork>, Failure> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT pg_catalog.pg_read_file('pg_wal/{timeline:08X}.history', 0, {LONGEST_FILE}, true) AS text"
        );
        match self.node.talk(stop)?.ask("reading of the timeline's history", &sql) {
            Ok(reply) => {
                let text = only_row(&reply)?.maybe::<String>("text")?;
                Ok(text.map_or_else(Vec::new, |text| reached::history(&text)))
            }
            Err(Failure::ToldToStop { signal }) => Err(Failure::ToldToStop { signal }),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Makes its directory, and writes its configuration files there.
    pub fn keep_config(&self, folder: &Folder) -> Result<(), Failure> {
        let place = self.place(folder);
        folder.make(&place)?;
        let Some(config) = &self.config else { return Ok(()) };
        let directory = place.join("config");
        folder.make(&directory)?;
        for (name, text) in config {
            let path = directory.join(name);
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| folder::failed("write", &path, error))?;
        }
        folder::sync(&directory)
    }
}

/// Asks all of them.
pub fn look_at_all(nodes: &[Node], stop: &Stop) -> Result<(Vec<Source>, Vec<Missing>), Failure> {
    nodes::each(nodes, |node| look(node, stop))
}

/// Where each node's WAL is by now.
pub fn positions(sources: &[Source], stop: &Stop) -> Result<BTreeMap<i32, String>, Failure> {
    let one = |source: &Source| {
        let sql = "SELECT pg_catalog.pg_current_wal_insert_lsn()";
        let reply = source.node.talk(stop)?.ask("WAL position", sql)?;
        Ok((source.node.groupid, reply.single_value()?.to_owned()))
    };
    sources.iter().map(one).collect()
}

/// Asks it.
fn look(node: &Node, stop: &Stop) -> Result<Source, Failure> {
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
    let place = talk.ask(
        "data directory",
        "SELECT pg_catalog.current_setting('data_directory') AS data_directory",
    );
    let data_directory = match place {
        Ok(reply) => only_row(&reply)?.maybe("data_directory")?,
        Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
        Err(_) => None,
    };
    let config = match config(&mut talk) {
        Ok(config) => Some(config),
        Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
        Err(error) => {
            remarks.push(format!("its configuration files are not copied: {error}"));
            None
        }
    };
    Ok(Source { node: node.clone(), identity, bytes, tablespaces, data_directory, config, remarks })
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
