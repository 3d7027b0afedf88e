//! The schema's files, by psql, which alone reads what pg_dump has written.
//!
//! What comes before the data is one transaction: all of it, or nothing. What comes after it (indexes, keys) may
//! take long and many locks, so each entry of pg_dump's is a transaction of its own, with its row of progress, and an
//! interrupted restore goes on with the next. Each entry is a file: what is begun in it ends where the file does, and
//! never takes in what follows.
//!
//! Event triggers are pg_dump's last entries, and come last here, too, in the transaction that ends the progress: they
//! fire on nothing of a restore, not even on what removes its traces.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tracing::debug;

use super::error::RestoreDumpError;
use super::progress::{self, SCRIPT};
use super::statement::{self, Place};
use super::target::{AS_WRITTEN, Node, TIMELESS_ELSEWHERE, set_search_path};
use super::words;
use crate::failure::Failure;
use crate::group::{GRACE, Group};
use crate::signals::Stop;

/// What psql's sessions start with, over what roles and databases say.
const TIMELESS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
 -c idle_session_timeout=0 -c row_security=off -c default_transaction_read_only=off \
 -c default_transaction_isolation=read\\ committed";

/// How often it is looked whether psql has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Has the server say in English what is read here by its words. A superuser may; nobody else makes a schema or a role.
const IN_ENGLISH: &str = "SELECT pg_catalog.set_config('lc_messages', 'C', false) FROM pg_catalog.pg_roles \
 WHERE rolname = current_user AND rolsuper;\n";

/// What a script begins with: a server process whose psql was killed sees that within seconds, where the system can
/// tell; and holds the lock that the next run waits for until it has ended.
pub fn beginning() -> String {
    format!(
        "\\set ON_ERROR_STOP off\nSET client_connection_check_interval = '2s';\n\\set ON_ERROR_STOP on\n\
         {IN_ENGLISH}SELECT pg_catalog.pg_advisory_lock({SCRIPT});\n"
    )
}

/// A file of pg_dump's, in pieces.
#[derive(Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Settings that all entries need.
    pub head: String,
    pub entries: Vec<String>,
    /// The line of the file that each begins with.
    pub lines: Vec<usize>,
    /// The number of the first entry that is an event trigger.
    pub last: usize,
    /// What is not made again, a sentence each.
    pub left_out: Vec<String>,
    /// Whether each letter stands for a byte: see [`Text`].
    pub is_bytes: bool,
}

/// A file of pg_dump's. One of a database without an encoding (SQL_ASCII) may have bytes that are no UTF-8, in a comment or
/// a function say: then each letter stands for a byte of that number, and is written as that byte again.
pub struct Text {
    pub text: String,
    pub is_bytes: bool,
}

impl Text {
    /// Of a file's content.
    pub fn of(content: Vec<u8>) -> Text {
        match String::from_utf8(content) {
            Ok(text) => Text { text, is_bytes: false },
            Err(error) => Text {
                text: error.as_bytes().iter().copied().map(char::from).collect(),
                is_bytes: true,
            },
        }
    }
}

/// A text of pieces as its file had it.
pub fn content(text: &str, is_bytes: bool) -> Vec<u8> {
    match is_bytes {
        true => text.chars().filter_map(|letter| u8::try_from(letter).ok()).collect(),
        false => text.as_bytes().to_vec(),
    }
}

/// Where the last entry of a file ends.
pub fn end_of(text: &str) -> usize {
    text.rfind("--\n-- PostgreSQL database dump complete\n").unwrap_or(text.len())
}

/// Takes a file apart.
pub fn pieces(file: &Text) -> Pieces {
    let text = file.text.as_str();
    let end = end_of(text);
    let mut starts = words::starts(&text[..end]);
    let head = &text[..starts.first().copied().unwrap_or(end)];
    // psql's own words, which hold for one file; the entries are files of their own.
    let head = head
        .lines()
        .filter(|line| !line.starts_with("\\restrict "))
        .map(|line| format!("{line}\n"))
        .collect();
    let lines = starts.iter().map(|at| text[..*at].matches('\n').count() + 1).collect();
    starts.push(end);
    let mut left_out = Vec::new();
    let entries: Vec<String> = starts
        .windows(2)
        .map(|pair| without_clustering(&text[pair[0]..pair[1]], &mut left_out))
        .collect();
    let is_trigger = |entry: &String| kind(entry) == Some("EVENT TRIGGER");
    let last = entries.iter().position(is_trigger).unwrap_or(entries.len());
    Pieces { head, entries, lines, last, left_out, is_bytes: file.is_bytes }
}

/// An entry of an index or a key without the line by which the next CLUSTER knows it: Citus refuses that, and it is no part
/// of what the table holds.
fn without_clustering(entry: &str, left_out: &mut Vec<String>) -> String {
    if !matches!(kind(entry), Some("INDEX" | "CONSTRAINT")) {
        return entry.to_owned();
    }
    let is_kept = |line: &&str| {
        let is_it = line.starts_with("ALTER TABLE ") && line.contains(" CLUSTER ON ");
        if is_it {
            left_out.push(format!("left out, as Citus does not take it: {line}"));
        }
        !is_it
    };
    entry.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
}

/// What an entry makes, as its first lines say.
pub fn kind(entry: &str) -> Option<&str> {
    let title = entry.lines().nth(1)?;
    let (rest, _) = title.rsplit_once("; Schema: ")?;
    Some(rest.rsplit_once("; Type: ")?.1)
}

/// The settings at an entry's end, which are for the entries after it.
pub fn settings(entry: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in entry.lines().rev() {
        match line {
            "" => {}
            line if is_setting(line) => lines.push(line),
            _ => break,
        }
    }
    lines.iter().rev().map(|line| format!("{line}\n")).collect()
}

/// Whether a line is a setting that holds from there on.
pub fn is_setting(line: &str) -> bool {
    line.starts_with("SET default_") && line.ends_with(';')
}

/// What runs psql.
pub struct Psql<'a> {
    pub bindir: Option<&'a Path>,
    pub stop: &'a Stop,
    /// What functions find by it that have none of their own.
    pub search_path: Option<&'a str>,
}

/// What finds the statement that a line of one of psql's files is in.
type Finder<'a> = &'a dyn Fn(&Path, usize) -> Option<Place>;

impl Psql<'_> {
    /// The roles: those that are there are no error.
    pub fn roles(&self, node: &Node, file: &Path) -> Result<(), Failure> {
        let script = format!("{IN_ENGLISH}\\i {}\n", word(file));
        let said = self.run(node, &script, false, &|_, _| None)?;
        let errors: Vec<&str> = said
            .lines()
            // duplicate_object, which verbose messages name by its code.
            .filter(|line| line.contains("ERROR:") && !line.contains("ERROR:  42710:"))
            .collect();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(RestoreDumpError::Script {
                script: "the roles".to_owned(),
                node: node.called(),
                said: errors.join("; "),
                statement: None,
            }
            .into()),
        }
    }

    /// All that comes before the data, at once.
    pub fn before(&self, node: &Node, file: &Path) -> Result<(), Failure> {
        let script = format!(
            "{}BEGIN;\n{};\n{};\n{};\n\\i {}\nCOMMIT;\n",
            beginning(),
            TIMELESS_ELSEWHERE.join(";\n"),
            AS_WRITTEN.join(";\n"),
            progress::mark("before the data"),
            word(file)
        );
        let find = |at: &Path, line: usize| {
            let text = if at == file { fs::read_to_string(file).ok()? } else { return None };
            statement::at_line(&text, line)
        };
        self.run(node, &script, true, &find).map(drop)
    }

    /// A file of what all entries need.
    pub fn head(&self, folder: &tempfile::TempDir, pieces: &Pieces) -> Result<PathBuf, Failure> {
        let path = self.search_path.map(|path| set_search_path(path) + ";\n");
        let mut head = content(&pieces.head, pieces.is_bytes);
        head.extend(path.unwrap_or_default().into_bytes());
        put(folder, "head", &head)
    }

    /// Entries of what comes after it, but those that are done, and those of event triggers.
    pub fn after(
        &self,
        node: &Node,
        pieces: &Pieces,
        done: &HashSet<String>,
    ) -> Result<(), Failure> {
        let folder = folder()?;
        let head = self.head(&folder, pieces)?;
        let mut script = format!("{}\\i {}\n", beginning(), word(&head));
        let mut left = 0;
        for (number, entry) in pieces.entries.iter().enumerate().take(pieces.last) {
            let name = name_of(number);
            if done.contains(&name) {
                script.push_str(&settings(entry));
                continue;
            }
            left += 1;
            let path = put(&folder, &number.to_string(), &content(entry, pieces.is_bytes))?;
            script.push_str(&format!(
                "BEGIN;\n{};\n{};\n{};\n\\i {}\nCOMMIT;\n",
                TIMELESS_ELSEWHERE.join(";\n"),
                AS_WRITTEN.join(";\n"),
                progress::mark(&name),
                word(&path)
            ));
        }
        debug!("{left} entries of the schema are left on {}", node.called());
        match left {
            0 => Ok(()),
            _ => self.run(node, &script, true, &|at, line| in_entry(pieces, at, line)).map(drop),
        }
    }

    /// Ends the progress and makes event triggers, in one transaction: none is there while there is progress left.
    pub fn end(&self, node: &Node, pieces: &Pieces) -> Result<(), Failure> {
        let folder = folder()?;
        let head = put(&folder, "head", &content(&pieces.head, pieces.is_bytes))?;
        let mut script = format!("{}\\i {}\nBEGIN;\n", beginning(), word(&head));
        script.push_str(&format!(
            "SET LOCAL citus.enable_ddl_propagation = off;\nDROP SCHEMA {} CASCADE;\n\
             SET LOCAL citus.enable_ddl_propagation = on;\n",
            progress::SCHEMA
        ));
        for (number, entry) in pieces.entries.iter().enumerate().skip(pieces.last) {
            let path = put(&folder, &number.to_string(), &content(entry, pieces.is_bytes))?;
            script.push_str(&format!("\\i {}\n", word(&path)));
        }
        script.push_str("COMMIT;\n");
        self.run(node, &script, true, &|at, line| in_entry(pieces, at, line)).map(drop)
    }

    /// Runs a script to its end; gives what it has said on standard error.
    pub fn run(
        &self,
        node: &Node,
        script: &str,
        is_strict: bool,
        find: Finder<'_>,
    ) -> Result<String, Failure> {
        let program = crate::programs::find("psql", self.bindir);
        let broken = |why: String| {
            Failure::from(RestoreDumpError::Program { program: program.display().to_string(), why })
        };
        let io = |error: std::io::Error| broken(error.to_string());
        let mut file = tempfile::NamedTempFile::new().map_err(io)?;
        file.write_all(script.as_bytes()).map_err(io)?;
        let said = tempfile::NamedTempFile::new().map_err(io)?;
        let params = node.reach.with_options(&format!("{TIMELESS} {}", node.making));
        let mut command = Command::new(&program);
        command.args(["-X", "-q", "-w"]);
        match is_strict {
            true => command.args(["-v", "ON_ERROR_STOP=1"]),
            false => command.args(["-v", "VERBOSITY=verbose"]),
        };
        command.arg("-f").arg(file.path()).arg("-d").arg(params.without_secrets());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.reopen().map_err(io)?)
            .env("LC_ALL", "C");
        if let Some(password) = params.get("password") {
            command.env("PGPASSWORD", password);
        }
        let mut group = Group::start(&mut command)
            .map_err(|error| broken(format!("it cannot be run: {error}")))?;
        let status = loop {
            if let Some(status) = group.ended().map_err(io)? {
                break status;
            }
            if let Some(signal) = self.stop.signal() {
                // Its session ends with it, and what it had begun is rolled back.
                group.end(GRACE);
                return Err(Failure::ToldToStop { signal });
            }
            std::thread::sleep(LOOK);
        };
        let text = fs::read(said.path()).map_err(io)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        debug!("psql on {}: {status} {text}", node.called());
        match (status.success(), status.code()) {
            (true, _) => Ok(text),
            // 3: the script has failed; 2: its session.
            (false, Some(2 | 3)) => Err(failed(node, &text, find)),
            (false, _) => Err(broken(format!("{status}: {}", text.trim()))),
        }
    }
}

pub fn folder() -> Result<tempfile::TempDir, Failure> {
    tempfile::tempdir().map_err(|error| file_error(&std::env::temp_dir(), error))
}

/// Writes a file for psql.
pub fn put(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> Result<PathBuf, Failure> {
    let path = folder.path().join(name);
    fs::write(&path, content).map_err(|error| file_error(&path, error))?;
    Ok(path)
}

/// What progress calls an entry.
pub fn name_of(number: usize) -> String {
    format!("after the data {number}")
}

/// The statement of an entry, which is a file by the name of its number.
pub fn in_entry(pieces: &Pieces, file: &Path, line: usize) -> Option<Place> {
    let number: usize = file.file_name()?.to_str()?.parse().ok()?;
    let place = statement::at_line(pieces.entries.get(number)?, line)?;
    Some(Place { line: place.line + pieces.lines.get(number)? - 1, ..place })
}

/// The error of a script: what psql says, and of which statement of the dump. Its own word of where that stands, in a
/// temporary file, says nothing to anybody.
fn failed(node: &Node, said: &str, find: Finder<'_>) -> Failure {
    let place = statement::place_of(said);
    let file = match place {
        Some((file, _)) if file.ends_with("pre-data.sql") => "pre-data.sql",
        _ => "post-data.sql",
    };
    let place = place.and_then(|(file, line)| find(Path::new(file), line));
    let mut lines = Vec::new();
    // What went well before it was told of, too: Citus warns of much that comes right later.
    let is_error = |line: &&str| ["ERROR:", "FATAL:"].iter().any(|word| line.contains(word));
    let before = said.lines().take_while(|line| !is_error(line)).count();
    let before = if before == said.lines().count() { 0 } else { before };
    for line in said.lines().skip(before) {
        let line = match line.find("ERROR:") {
            Some(at) => line[at + "ERROR:".len()..].trim(),
            None => line.trim(),
        };
        // The statement, as far as it was wrong, and an arrow below it: it is told by itself.
        let is_excerpt = place.is_some() && line.starts_with("LINE ");
        if !line.is_empty() && line != "^" && !is_excerpt {
            lines.push(line);
        }
    }
    let (node, said) = (node.called(), lines.join(" "));
    let (script, statement) = match place {
        Some(Place { object, line, first }) => {
            let object = object.unwrap_or_else(|| "the dump's schema".to_owned());
            (format!("{object} (schema/{file}, line {line})"), Some(first))
        }
        None => ("the dump's schema".to_owned(), None),
    };
    RestoreDumpError::Script { script, node, said, statement }.into()
}

fn file_error(path: &Path, error: std::io::Error) -> Failure {
    RestoreDumpError::File { path: path.to_owned(), error }.into()
}

/// A path as psql's own commands take it.
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
--
-- PostgreSQL database dump
--

\\restrict abc

SET a = 1;

SET default_tablespace = '';

--
-- Name: t t_pkey; Type: CONSTRAINT; Schema: public; Owner: x
--

ALTER TABLE t ADD PRIMARY KEY (id);


SET default_tablespace = fast;

--
-- Name: a; Type: b; Type: INDEX; Schema: public; Owner: x
--

CREATE INDEX a ON t (b);


--
-- Name: e; Type: EVENT TRIGGER; Schema: -; Owner: x
--

CREATE EVENT TRIGGER e ON ddl_command_end;


--
-- PostgreSQL database dump complete
--

\\unrestrict abc
";

    #[test]
    fn a_file_is_taken_apart_into_its_entries() {
        let pieces = pieces(&Text::of(TEXT.into()));
        assert!(pieces.head.contains("SET a = 1;") && !pieces.head.contains("restrict"));
        assert_eq!(pieces.entries.len(), 3);
        assert_eq!(pieces.last, 2);
        assert_eq!(kind(&pieces.entries[1]), Some("INDEX"));
        assert!(pieces.entries[2].contains("CREATE EVENT TRIGGER"));
        assert!(!pieces.entries[2].contains("restrict"));
        assert_eq!(settings(&pieces.entries[0]), "SET default_tablespace = fast;\n");
        assert_eq!(settings(&pieces.entries[1]), "");
        let whole: String = pieces.entries.concat();
        for line in ["ADD PRIMARY KEY", "CREATE INDEX", "SET default_tablespace = fast"] {
            assert_eq!(whole.matches(line).count(), 1, "{line}");
        }
    }

    #[test]
    fn lines_of_a_text_in_quotes_begin_no_entry() {
        let words = "--\n-- Name: x; Type: INDEX; Schema: public; Owner: x\n--\n\nSELECT 1;";
        let rule = format!("CREATE RULE r AS ON INSERT TO t DO NOTIFY n, $q$'\n{words}$q$;");
        for said in [
            format!("COMMENT ON INDEX a IS 'it''s\n{words}';"),
            format!("COMMENT ON INDEX a IS E'\\'\n{words}';"),
            format!("COMMENT ON INDEX \"a\n{words}\" IS 'x';"),
            rule,
        ] {
            let text = TEXT.replace("CREATE INDEX a ON t (b);", &said);
            let pieces = pieces(&Text::of(text.into()));
            assert_eq!(pieces.entries.len(), 3, "{said}");
            assert!(pieces.entries[1].contains(&said) && pieces.last == 2, "{pieces:?}");
        }
    }

    #[test]
    fn what_a_table_is_clustered_on_is_left_out_and_said() {
        let text = TEXT.replace(
            "CREATE INDEX a ON t (b);",
            "CREATE INDEX a ON t (b);\n\nALTER TABLE s.t CLUSTER ON a;",
        );
        let pieces = pieces(&Text::of(text.into()));
        assert_eq!(pieces.left_out.len(), 1);
        assert!(
            pieces.entries[1].contains("CREATE INDEX a")
                && !pieces.entries[1].contains("CLUSTER ON")
        );
    }

    #[test]
    fn a_file_without_entries_has_none() {
        let text = "--\n-- PostgreSQL database dump\n--\n\nSET a = 1;\n";
        let pieces = pieces(&Text::of(text.into()));
        assert_eq!((pieces.entries.len(), pieces.last), (0, 0));
        assert!(pieces.head.contains("SET a = 1;"));
    }

    #[test]
    fn bytes_that_are_no_text_are_written_as_they_were() {
        let bytes = TEXT.replace("CREATE INDEX a ON", "CREATE INDEX \"a?\" ON").into_bytes();
        let bytes: Vec<u8> =
            bytes.into_iter().map(|byte| if byte == b'?' { 0xe4 } else { byte }).collect();
        let text = Text::of(bytes.clone());
        assert!(text.is_bytes);
        let entry = content(&pieces(&text).entries[1], true);
        assert!(bytes.windows(entry.len()).any(|window| window == entry));
        assert!(entry.contains(&0xe4) && !Text::of(TEXT.into()).is_bytes);
    }

    #[test]
    fn paths_are_quoted_whatever_is_in_them() {
        assert_eq!(word(Path::new(r"/a b/c'd\e")), r"'/a b/c''d\\e'");
    }
}
