//! A dump of which a part is restored: its manifest and its schema without the rest, so that whatever works on a dump
//! works on that.
//!
//! ```text
//! names in the manifest and in the schema's files ─> patterns ─> relations and schemas that come
//!   entries of the schema: those of what comes are kept, the others become empty lines (lines keep their numbers)
//!   between both (keys, partitions): left out, and said
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::entry::{self, Of};
use super::error::RestoreDumpError;
use super::schema::{self, Text};
use super::select::{Chosen, Selection};
use super::words;
use super::{Schema, Source};
use crate::dump::{Dump, Name, Table};
use crate::failure::Failure;

/// How many names of partitions are told.
const NAMED: usize = 5;

/// What was chosen, beside what comes.
#[derive(Default)]
pub struct Choice {
    /// What progress calls it; empty where all comes.
    pub spelled: String,
    /// Whether what comes may need something that does not.
    pub is_part: bool,
    /// All tables of the dump.
    pub all: Vec<Table>,
    /// What is left out, a sentence each.
    pub left_out: Vec<String>,
    /// Keys of what does not come, that point to what does.
    pub pointing: Vec<Pointing>,
    /// Where the schema's files are, if not in the dump.
    folder: Option<tempfile::TempDir>,
}

impl Choice {
    /// Whether a table, by its name as SQL takes it, is one that is restored. Where all is, so are all that are there.
    pub fn means(&self, dump: &Dump, table: &str) -> bool {
        let is_it = |parts: &[String]| {
            dump.tables.iter().any(|one| parts == [one.schema.as_str(), one.name.as_str()])
        };
        !self.is_part || words::name_parts(table).is_some_and(|parts| is_it(&parts))
    }
}

/// A foreign key of a table that is not restored.
pub struct Pointing {
    pub table: Name,
    pub to: Name,
    pub name: String,
    pub statement: String,
}

/// A file of the schema, and what its entries belong to.
struct Parsed {
    file: &'static str,
    text: Text,
    /// The place of each entry and its end.
    entries: Vec<(usize, usize, Of)>,
    /// Where the last one ends.
    end: usize,
}

/// Leaves out of a dump what is not to be restored.
pub fn choose(source: Source, selection: &Selection, dir: &Path) -> Result<Source, Failure> {
    let Source { mut dump, mut schema, id, .. } = source;
    let spelled = selection.spelled();
    let has_schema = schema.before.is_some();
    let missing = |what: &str, todo: &'static str| {
        let dir = dir.display().to_string();
        Failure::Directory { dir, what: what.to_owned(), todo }
    };
    if selection.schema_only && !has_schema {
        return Err(missing("the dump has no schema", "Restore it without --schema-only."));
    }
    let has_rows = dump.selection.as_ref().is_none_or(|of| !of.schema_only);
    if selection.data_only && !has_rows {
        return Err(missing("the dump has no rows", "Restore it without --data-only."));
    }
    let mut choice = Choice { spelled, all: dump.tables.clone(), ..Choice::default() };
    if selection.has_patterns() {
        choose_by_name(selection, &mut dump, &mut schema, &mut choice)?;
    }
    if selection.schema_only {
        dump.files.clear();
        dump.sequences.clear();
        dump.materialized_views.clear();
        dump.not_dumped.clear();
    }
    if selection.data_only {
        dump.schema.clear();
        dump.tenants.clear();
        dump.functions.clear();
        dump.materialized_views.clear();
        schema = Schema { roles: schema.roles, ..Schema::empty() };
        choice.pointing.clear();
    }
    public_may_be_there(&mut schema, &mut choice)?;
    let id = match choice.spelled.as_str() {
        "" => id,
        spelled => format!("{id} {spelled}"),
    };
    Ok(Source { dump, schema, id, choice })
}

/// pg_dump leaves out the schema that every database has from the first, but not where it is asked for that schema
/// (`-n public`): then no database but one without it could take the dump.
fn public_may_be_there(schema: &mut Schema, choice: &mut Choice) -> Result<(), Failure> {
    const MAKES: &str = "\nCREATE SCHEMA public;\n";
    let Some(path) = &schema.before else { return Ok(()) };
    let content =
        fs::read(path).map_err(|error| RestoreDumpError::File { path: path.clone(), error })?;
    let file = Text::of(content);
    let mut starts = words::starts(&file.text[..schema::end_of(&file.text)]);
    starts.push(schema::end_of(&file.text));
    let makes = starts.windows(2).find_map(|pair| {
        let entry = &file.text[pair[0]..pair[1]];
        let at = entry.find(MAKES).filter(|_| schema::kind(entry) == Some("SCHEMA"))?;
        Some(pair[0] + at)
    });
    let Some(at) = makes else { return Ok(()) };
    let mut text = file.text;
    text.replace_range(at..at + MAKES.len(), "\nCREATE SCHEMA IF NOT EXISTS public;\n");
    let folder = match choice.folder.take() {
        Some(folder) => folder,
        None => schema::folder()?,
    };
    let path = schema::put(&folder, "pre-data.sql", &schema::content(&text, file.is_bytes))?;
    schema.before = Some(path);
    choice.folder = Some(folder);
    Ok(())
}

fn choose_by_name(
    selection: &Selection,
    dump: &mut Dump,
    schema: &mut Schema,
    choice: &mut Choice,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    let paths = [("pre-data.sql", &schema.before), ("post-data.sql", &schema.after_path)];
    for (file, path) in paths {
        if let Some(path) = path {
            let content = fs::read(path)
                .map_err(|error| RestoreDumpError::File { path: path.clone(), error })?;
            files.push(parse(file, Text::of(content))?);
        }
    }
    let known = Known::of(dump, &files);
    let mut chosen = selection.choose(&known.relations, &known.schemas)?;
    known.with_sequences(&mut chosen);
    let fates = Fates { known: &known, chosen: &chosen, includes: selection.includes() };

    choice.is_part = true;
    choice.left_out = fates.partitions(&files);
    let of_rows = choice.left_out.len();
    let mut alone: BTreeSet<&Name> = BTreeSet::new();
    let mut kept = Vec::new();
    for parsed in &files {
        let mut text =
            parsed.text.text[..parsed.entries.first().map_or(parsed.end, |one| one.0)].to_owned();
        for (from, to, of) in &parsed.entries {
            let entry = &parsed.text.text[*from..*to];
            let fate = fates.fate(of).ok_or_else(|| unclear(parsed, *from))?;
            match (fate, of) {
                (Fate::Kept, _) => text.push_str(entry),
                (Fate::Gone, _) => text.push_str(&emptied(entry)),
                (Fate::LeftOut { other }, of) => {
                    text.push_str(&emptied(entry));
                    choice.left_out.push(format!(
                        "left out, as {} is not restored with it: {}",
                        shown(other),
                        statement(entry, parsed.text.is_bytes)
                    ));
                    if let Of::Attach { child, .. } = of {
                        alone.insert(child);
                    }
                }
                (Fate::Pointing, Of::Key { name, table, to }) => {
                    text.push_str(&emptied(entry));
                    choice.pointing.push(Pointing {
                        table: table.clone(),
                        to: to.clone(),
                        name: name.clone(),
                        statement: statement(entry, parsed.text.is_bytes),
                    });
                }
                (Fate::Pointing, _) => text.push_str(&emptied(entry)),
            }
        }
        text.push_str(&parsed.text.text[parsed.end..]);
        kept.push(Text { text, is_bytes: parsed.text.is_bytes });
    }

    if selection.data_only {
        choice.left_out.truncate(of_rows);
    }
    for table in &mut dump.tables {
        // Without its parent it is a table like others.
        let name = Name { schema: table.schema.clone(), name: table.name.clone() };
        table.is_partition &= !alone.contains(&name);
    }
    dump.tables.retain(|table| chosen.has(&table.schema, &table.name));
    dump.files.retain(|file| chosen.has(&file.schema, &file.table));
    dump.sequences.retain(|one| chosen.has(&one.schema, &one.name));
    dump.materialized_views.retain(|view| chosen.relations.contains(view));
    dump.tenants.retain(|tenant| chosen.schemas.contains(&tenant.schema));
    dump.functions.retain(|function| chosen.schemas.contains(&function.schema));
    // As in a dump of these.
    dump.not_dumped.clear();
    if !kept.is_empty() {
        choice.folder = Some(schema.replace(kept)?);
    }
    Ok(())
}

impl Schema {
    /// That of a dump of data only.
    fn empty() -> Schema {
        let after = schema::pieces(&Text::of(Vec::new()));
        Schema { roles: None, before: None, after_path: None, after, text: String::new() }
    }

    /// Puts these in the place of the files before and after the data, which are in this folder then.
    fn replace(&mut self, kept: Vec<Text>) -> Result<tempfile::TempDir, Failure> {
        let broken = |path: &Path, error| RestoreDumpError::File { path: path.to_owned(), error };
        let folder = tempfile::tempdir().map_err(|error| broken(&std::env::temp_dir(), error))?;
        self.text.clear();
        for (name, file) in ["pre-data.sql", "post-data.sql"].into_iter().zip(kept) {
            let path = folder.path().join(name);
            fs::write(&path, schema::content(&file.text, file.is_bytes))
                .map_err(|error| broken(&path, error))?;
            self.text.push_str(&file.text);
            match name {
                "pre-data.sql" => self.before = Some(path),
                _ => (self.after, self.after_path) = (schema::pieces(&file), Some(path)),
            }
        }
        Ok(folder)
    }
}

fn parse(file: &'static str, text: Text) -> Result<Parsed, Failure> {
    let end = schema::end_of(&text.text);
    let mut parsed = Parsed { file, text, entries: Vec::new(), end };
    let mut starts = words::starts(&parsed.text.text[..end]);
    starts.push(end);
    for pair in starts.windows(2) {
        let of = entry::of(&parsed.text.text[pair[0]..pair[1]], parsed.text.is_bytes);
        let of = of.ok_or_else(|| unclear(&parsed, pair[0]))?;
        parsed.entries.push((pair[0], pair[1], of));
    }
    Ok(parsed)
}

fn unclear(parsed: &Parsed, at: usize) -> RestoreDumpError {
    let (before, entry) = parsed.text.text.split_at(at);
    let title = entry.lines().nth(1).unwrap_or_default();
    RestoreDumpError::Unclear {
        file: parsed.file,
        line: before.matches('\n').count() + 2,
        title: title.trim_start_matches("-- ").to_owned(),
    }
}

/// A name as SQL takes it.
fn shown(name: &Name) -> String {
    super::distribute::named(&name.schema, &name.name)
}

/// The first statement of an entry, in one line.
fn statement(entry: &str, is_bytes: bool) -> String {
    let statements = words::statements(entry, is_bytes);
    let text = statements.first().map_or(entry, |one| &entry[one.from..one.to]);
    text.lines().map(str::trim_start).collect::<Vec<_>>().join(" ")
}

/// As many lines without what is in them, but the settings at its end, which are for the entries after it.
fn emptied(entry: &str) -> String {
    let settings = schema::settings(entry);
    let lines = entry.matches('\n').count().saturating_sub(settings.matches('\n').count());
    "\n".repeat(lines) + &settings
}

/// What there is in a dump.
#[derive(Default)]
struct Known {
    relations: BTreeSet<Name>,
    schemas: BTreeSet<String>,
    types: BTreeSet<Name>,
    /// The relation of each index, and of extended statistics.
    indexes: HashMap<Name, Name>,
    statistics: HashMap<Name, Name>,
    /// The tables of sequences that belong to one.
    identities: BTreeMap<Name, Name>,
    owned: BTreeMap<Name, Name>,
}

impl Known {
    fn of(dump: &Dump, files: &[Parsed]) -> Known {
        let mut known = Known::default();
        let name =
            |schema: &String, name: &String| Name { schema: schema.clone(), name: name.clone() };
        known.relations.extend(dump.tables.iter().map(|one| name(&one.schema, &one.name)));
        known.relations.extend(dump.sequences.iter().map(|one| name(&one.schema, &one.name)));
        known.relations.extend(dump.materialized_views.iter().cloned());
        known.schemas.extend(dump.tenants.iter().map(|one| one.schema.clone()));
        for (_, _, of) in files.iter().flat_map(|parsed| &parsed.entries) {
            match of.clone() {
                Of::Makes(name) => {
                    known.relations.insert(name);
                }
                Of::Schema(schema) | Of::PublishedSchema(schema) => {
                    known.schemas.insert(schema);
                }
                Of::InSchema(name) => {
                    known.schemas.insert(name.schema.clone());
                    known.types.insert(name);
                }
                Of::Index { index, table } => drop(known.indexes.insert(index, table)),
                Of::Statistics { statistics, table } => {
                    known.statistics.insert(statistics, table);
                }
                Of::Identity { sequence, table } => {
                    known.relations.insert(sequence.clone());
                    known.identities.insert(sequence, table);
                }
                Of::Owned { sequence, table } => drop(known.owned.insert(sequence, table)),
                Of::Database
                | Of::Part(_)
                | Of::Granted(_)
                | Of::Column(_)
                | Of::SaidOfIndex(_)
                | Of::SaidOfStatistics(_)
                | Of::AttachIndex { .. }
                | Of::Attach { .. }
                | Of::Key { .. }
                | Of::Published(_) => {}
            }
        }
        known.schemas.extend(known.relations.iter().map(|name| name.schema.clone()));
        known
    }

    /// Sequences go with their tables, and those of identity columns with nothing else.
    fn with_sequences(&self, chosen: &mut Chosen) {
        for (sequence, table) in &self.identities {
            match chosen.relations.contains(table) {
                true => chosen.relations.insert(sequence.clone()),
                false => chosen.relations.remove(sequence),
            };
        }
        for (sequence, table) in &self.owned {
            if chosen.relations.contains(table) {
                chosen.relations.insert(sequence.clone());
            }
        }
    }
}

/// What becomes of an entry.
enum Fate<'a> {
    Kept,
    Gone,
    /// It is of something that comes, and of something else that does not.
    LeftOut {
        other: &'a Name,
    },
    /// A key of what does not come.
    Pointing,
}

struct Fates<'a> {
    known: &'a Known,
    chosen: &'a Chosen,
    includes: bool,
}

impl Fates<'_> {
    /// What becomes of an entry; none where it is said of something that nobody knows.
    fn fate<'a>(&self, of: &'a Of) -> Option<Fate<'a>> {
        let comes = |name: &Name| self.chosen.relations.contains(name);
        let whole = |schema: &String| self.chosen.schemas.contains(schema);
        let kept = |is_kept: bool| if is_kept { Fate::Kept } else { Fate::Gone };
        Some(match of {
            Of::Database => kept(!self.includes),
            Of::Schema(schema) => kept(whole(schema)),
            Of::InSchema(name) => kept(whole(&name.schema)),
            Of::PublishedSchema(schema) => kept(!self.includes && whole(schema)),
            Of::Published(table) => kept(!self.includes && comes(table)),
            Of::Makes(name) => kept(comes(name)),
            Of::Part(name) if self.known.relations.contains(name) => kept(comes(name)),
            Of::Granted(name) if self.known.relations.contains(name) => kept(comes(name)),
            Of::Granted(_) => kept(!self.includes),
            Of::Column(name) if self.known.relations.contains(name) => kept(comes(name)),
            Of::Column(name) if self.known.types.contains(name) => kept(whole(&name.schema)),
            Of::Part(_) | Of::Column(_) => return None,
            Of::Index { table, .. } | Of::Statistics { table, .. } | Of::Identity { table, .. } => {
                kept(comes(table))
            }
            Of::SaidOfIndex(index) => kept(comes(self.known.indexes.get(index)?)),
            Of::SaidOfStatistics(name) => kept(comes(self.known.statistics.get(name)?)),
            Of::AttachIndex { parent, child } => {
                let (parent, child) =
                    (self.known.indexes.get(parent)?, self.known.indexes.get(child)?);
                kept(comes(parent) && comes(child))
            }
            Of::Owned { sequence, table } => kept(comes(sequence) && comes(table)),
            Of::Attach { parent, child } => match (comes(parent), comes(child)) {
                (true, true) => Fate::Kept,
                (false, true) => Fate::LeftOut { other: parent },
                (_, false) => Fate::Gone,
            },
            Of::Key { table, to, .. } => match (comes(table), comes(to)) {
                (true, true) => Fate::Kept,
                (true, false) => Fate::LeftOut { other: to },
                (false, true) => Fate::Pointing,
                (false, false) => Fate::Gone,
            },
        })
    }

    /// Partitions that do not come with their parents: their rows do not come, either.
    fn partitions(&self, files: &[Parsed]) -> Vec<String> {
        let mut of: BTreeMap<&Name, Vec<String>> = BTreeMap::new();
        for (_, _, of_entry) in files.iter().flat_map(|parsed| &parsed.entries) {
            if let Of::Attach { parent, child } = of_entry
                && self.chosen.relations.contains(parent)
                && !self.chosen.relations.contains(child)
            {
                of.entry(parent).or_default().push(shown(child));
            }
        }
        of.into_iter()
            .map(|(parent, children)| {
                let mut names = children[..children.len().min(NAMED)].join(", ");
                if children.len() > NAMED {
                    names.push_str(&format!(" and {} more", children.len() - NAMED));
                }
                format!(
                    "partitions of {} are not restored with it, nor their rows: {names}",
                    shown(parent)
                )
            })
            .collect()
    }
}
