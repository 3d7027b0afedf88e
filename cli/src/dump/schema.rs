//! The schema, by the real pg_dump under the coordinator's snapshot.
//!
//! pg_dump asks the server to write definitions (`pg_get_viewdef` and its like), which do so as of now and not as
//! of the snapshot, and it writes a table that was altered since as it is now. So the catalogs are summed up under
//! the snapshot and in the present, after pg_dump has ended: if they differ, what it wrote may be of neither.
//!
//! It can also wait for ever: for an ALTER that is queued behind this program's own lock, which that holds until
//! pg_dump is done, where no deadlock detector looks. `--lock-wait-timeout` ends it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use remote::ConnParams;
use tracing::debug;

use super::error::DumpError;
use super::file::{at, measure, new_file};
use super::manifest::SchemaFile;
use super::session::Reach;
use crate::failure::Failure;
use crate::rows::rows;
use crate::signals::Stop;

/// How long pg_dump waits for a lock.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// How long a program that was told to end is waited for before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Sums of what a schema is made of: a number per catalog. Rows are told by who wrote them and where they stand;
/// VACUUM and ANALYZE change neither. Temporary things are everybody's own business, and Citus' shards are no
/// part of the schema.
pub const DIGEST: &str = r"
WITH mine AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'
     AND NOT EXISTS (SELECT FROM pg_dist_shard s
                      WHERE s.shardid::text = substring(c.relname FROM '_([0-9]+)$')))
SELECT 'pg_class' AS name, count(*) AS rows, sum(hashtext(t.xmin::text || t.ctid::text)) AS digest
  FROM pg_class t WHERE oid IN (SELECT oid FROM mine) AND relkind <> 'm'
UNION ALL SELECT 'pg_attribute', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_attribute t WHERE attrelid IN (SELECT oid FROM mine)
UNION ALL SELECT 'pg_constraint', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_constraint t WHERE conrelid IN (SELECT oid FROM mine) OR contypid <> 0
UNION ALL SELECT 'pg_trigger', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_trigger t WHERE tgrelid IN (SELECT oid FROM mine) AND NOT tgisinternal
UNION ALL SELECT 'pg_attrdef', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_attrdef t WHERE adrelid IN (SELECT oid FROM mine)
UNION ALL SELECT 'pg_index', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_index t WHERE indrelid IN (SELECT oid FROM mine)
UNION ALL SELECT 'pg_statistic_ext', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_statistic_ext t WHERE stxrelid IN (SELECT oid FROM mine)
UNION ALL SELECT 'pg_rewrite', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_rewrite t WHERE ev_class IN (SELECT oid FROM mine)
UNION ALL SELECT 'pg_policy', count(*), sum(hashtext(t.xmin::text || t.ctid::text)) FROM pg_policy t
UNION ALL SELECT 'pg_proc', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_proc t JOIN pg_namespace n ON n.oid = t.pronamespace WHERE n.nspname !~ '^pg_temp'
UNION ALL SELECT 'pg_type', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typrelid = 0 AND t.typelem = 0 AND n.nspname !~ '^pg_'
UNION ALL SELECT 'pg_enum', count(*), sum(hashtext(t.xmin::text || t.ctid::text)) FROM pg_enum t
UNION ALL SELECT 'pg_namespace', count(*), sum(hashtext(t.xmin::text || t.ctid::text))
  FROM pg_namespace t WHERE nspname !~ '^pg_'
UNION ALL SELECT 'pg_extension', count(*), sum(hashtext(t.xmin::text || t.ctid::text)) FROM pg_extension t
UNION ALL SELECT 'pg_event_trigger', count(*), sum(hashtext(t.xmin::text || t.ctid::text)) FROM pg_event_trigger t";

/// What [`DIGEST`] gave.
pub fn digest(reply: &remote::Reply) -> Result<BTreeMap<String, (String, String)>, Failure> {
    let mut sums = BTreeMap::new();
    for row in rows(reply)? {
        let digest: Option<String> = row.maybe("digest")?;
        sums.insert(row.get("name")?, (row.get("rows")?, digest.unwrap_or_default()));
    }
    Ok(sums)
}

/// A program that is not to outlive this one's interest in it.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// How pg_dump ended.
pub enum SchemaEnd {
    Done,
    /// Somebody has a lock, for longer than it waits.
    Waited(String),
}

/// A program of PostgreSQL's and what it has to do.
pub struct Programs<'a> {
    pub bindir: Option<&'a Path>,
    pub reach: &'a Reach,
    pub directory: &'a Path,
    pub stop: &'a Stop,
}

impl Programs<'_> {
    /// A section of the schema.
    pub fn section(
        &self,
        section: &str,
        snapshot: &str,
        hidden: &[String],
        selected: &[String],
        encoding: &str,
        keep_alive: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<SchemaEnd, Failure> {
        let mut words = vec![
            "--schema-only".to_owned(),
            format!("--section={section}"),
            format!("--snapshot={snapshot}"),
            format!("--lock-wait-timeout={}", LOCK_WAIT.as_millis()),
            "--no-password".to_owned(),
            format!("--encoding={encoding}"),
        ];
        words.extend(selected.iter().cloned());
        words.extend(hidden.iter().map(|table| format!("--exclude-table={table}")));
        self.run("pg_dump", &words, &format!("schema/{section}.sql"), keep_alive)
    }

    /// The roles.
    pub fn roles(
        &self,
        keep_alive: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<SchemaEnd, Failure> {
        let words = ["--roles-only", "--no-role-passwords", "--no-password"].map(str::to_owned);
        self.run("pg_dumpall", &words, "schema/roles.sql", keep_alive)
    }

    fn run(
        &self,
        program: &str,
        words: &[String],
        file: &str,
        keep_alive: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<SchemaEnd, Failure> {
        let path = self.directory.join(file);
        let program = crate::programs::find(program, self.bindir);
        let broken = |why: String| {
            Failure::from(DumpError::Program { program: program.display().to_string(), why })
        };
        let params = self.reach.for_pg_dump();
        // Elsewhere: the dump's own place may be full.
        let io = |error: std::io::Error| broken(error.to_string());
        let complaints = tempfile::NamedTempFile::new().map_err(io)?;
        let mut command = Command::new(&program);
        // For its owner alone, and there before the program opens it. By its name: what does not come to the disk of its
        // standard output's last buffer, the program does not tell.
        drop(new_file(&path)?);
        command
            .args(words)
            .arg("-f")
            .arg(std::path::absolute(&path).map_err(at(&path))?)
            .arg("-d")
            .arg(params.without_secrets())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints.reopen().map_err(io)?)
            // So that a terminal's Ctrl-C comes to this program alone, which then ends it.
            .process_group(0)
            .env("LC_ALL", "C");
        secrets(&params, &mut command);
        let begun = Instant::now();
        let child =
            command.spawn().map_err(|error| broken(format!("it cannot be run: {error}")))?;
        let mut child = Running(child);
        let status = loop {
            match child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(broken(error.to_string())),
            }
            if let Some(signal) = self.stop.signal() {
                return Err(Failure::ToldToStop { signal });
            }
            keep_alive()?;
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = fs::read(complaints.path()).map_err(io)?;
        let said = String::from_utf8_lossy(&said);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        debug!("{}: {status} {said}", program.display());
        if !status.success() {
            // A server may say it in another language; pg_dump itself speaks English here.
            let waited = said.contains("lock timeout")
                || said.contains("statement timeout")
                || said.contains("LOCK TABLE") && begun.elapsed() >= LOCK_WAIT;
            return match waited {
                true => Ok(SchemaEnd::Waited(said)),
                false => Err(broken(format!("{status}, writing {}: {said}", path.display()))),
            };
        }
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(at(&path))?;
        if !is_whole(&fs::read(&path).map_err(at(&path))?) {
            let why =
                format!("{} ended well, and has not written it to its end", program.display());
            return Err(at(&path)(std::io::Error::other(why)).into());
        }
        Ok(SchemaEnd::Done)
    }
}

/// Whether a file of pg_dump's or pg_dumpall's has its last line, and of newer ones the word that they end with.
fn is_whole(text: &[u8]) -> bool {
    let lines = || text.split(|byte| *byte == b'\n');
    let complete = [
        &b"-- PostgreSQL database dump complete"[..],
        b"-- PostgreSQL database cluster dump complete",
    ];
    let word = lines().find_map(|line| line.strip_prefix(b"\\restrict "));
    let is_said = |line: &&[u8]| !line.is_empty() && *line != b"--";
    // pg_dump's word comes last, pg_dumpall's before its last line.
    let last: Vec<&[u8]> =
        lines().rev().filter(is_said).take(1 + usize::from(word.is_some())).collect();
    let is_word = |line: &&[u8]| line.strip_prefix(b"\\unrestrict ") == word;
    text.ends_with(b"\n")
        && last.iter().any(|line| complete.contains(line))
        && (word.is_none() || last.iter().any(is_word))
}

/// Passwords go by the environment, which nobody else can read, as the words can be.
fn secrets(params: &ConnParams, command: &mut Command) {
    if let Some(password) = params.get("password") {
        command.env("PGPASSWORD", password);
    }
}

/// The schema's files that there are.
pub fn files(directory: &Path) -> Result<Vec<SchemaFile>, DumpError> {
    let mut found = Vec::new();
    for name in ["roles.sql", "pre-data.sql", "post-data.sql"] {
        let path = PathBuf::from("schema").join(name);
        let whole = directory.join(&path);
        if whole.exists() {
            let (bytes, sha256) = measure(&whole).map_err(at(&whole))?;
            found.push(SchemaFile { path, bytes, sha256 });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_its_end_is_not_whole() {
        let old = "--\n-- PostgreSQL database dump\n--\n\nSET a = 1;\n\n--\n-- PostgreSQL database dump complete\n--\n\n";
        let new = old.replacen("SET", "\\restrict abc\n\nSET", 1) + "\\unrestrict abc\n\n";
        let roles = old.replace("database dump complete", "database cluster dump complete");
        let (word, end) = ("\\unrestrict abc\n\n", "--\n-- PostgreSQL database cluster");
        let new_roles = new.replace("database dump complete", "database cluster dump complete");
        let new_roles = new_roles.replace(word, "").replace(end, &format!("{word}{end}"));
        for text in [old, &new, &roles, &new_roles] {
            assert!(is_whole(text.as_bytes()), "{text}");
            let end = text.trim_end_matches(['\n', '-']).len();
            for cut in 0..=end {
                assert!(!is_whole(&text.as_bytes()[..cut]), "{}", &text[..cut]);
            }
        }
    }
}
