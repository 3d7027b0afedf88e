//! Which tables and schemas are restored, by pg_dump's patterns, as `dump` takes them.
//!
//! No server is asked: the patterns are put to the names that are in the dump. So a name without a schema means tables
//! of that name in all of its schemas. What the server's regular expressions have and these here have not is refused.

use std::collections::BTreeSet;

use clap::Args;
use regex::{Regex, RegexBuilder};

use super::error::RestoreDumpError;
use crate::dump::{Name, translate};

/// What is selected.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Selection, with pg_dump's patterns")]
pub struct Selection {
    /// Restore only tables that match, and nothing else of their schemas. May be repeated
    #[arg(short = 't', long = "table", value_name = "PATTERN")]
    pub tables: Vec<String>,
    /// Do not restore tables that match. May be repeated
    #[arg(short = 'T', long = "exclude-table", value_name = "PATTERN")]
    pub exclude_tables: Vec<String>,
    /// Restore only schemas that match. May be repeated
    #[arg(short = 'n', long = "schema", value_name = "PATTERN", conflicts_with = "tables")]
    pub schemas: Vec<String>,
    /// Do not restore schemas that match. May be repeated
    #[arg(short = 'N', long = "exclude-schema", value_name = "PATTERN")]
    pub exclude_schemas: Vec<String>,
    /// Restore the schema and no rows
    #[arg(short = 's', long)]
    pub schema_only: bool,
    /// Restore rows, into tables that are there and empty, and no schema
    #[arg(short = 'a', long, conflicts_with_all = ["schema_only", "create", "roles"])]
    pub data_only: bool,
}

/// What of a dump that is.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    pub relations: BTreeSet<Name>,
    /// Schemas that come as a whole.
    pub schemas: BTreeSet<String>,
}

impl Chosen {
    pub fn has(&self, schema: &str, name: &str) -> bool {
        self.relations.contains(&Name { schema: schema.to_owned(), name: name.to_owned() })
    }
}

impl Selection {
    /// Whether only what is named comes; else all but what is named.
    pub fn includes(&self) -> bool {
        !self.tables.is_empty() || !self.schemas.is_empty()
    }

    /// Whether any name says what comes.
    pub fn has_patterns(&self) -> bool {
        self.options().any(|(_, patterns)| !patterns.is_empty())
    }

    fn options(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        [
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
        ]
        .into_iter()
    }

    /// All of it in one line, the same for the same selection; empty where all is restored.
    pub fn spelled(&self) -> String {
        let mut words = Vec::new();
        for (option, patterns) in self.options() {
            let patterns: BTreeSet<&String> = patterns.iter().collect();
            words.extend(patterns.into_iter().map(|pattern| format!("{option}={pattern}")));
        }
        words.extend(self.schema_only.then(|| "--schema-only".to_owned()));
        words.extend(self.data_only.then(|| "--data-only".to_owned()));
        words.join(" ")
    }

    /// What that is, of all relations and schemas of a dump. A pattern that matches none of them is an error.
    pub fn choose(
        &self,
        relations: &BTreeSet<Name>,
        schemas: &BTreeSet<String>,
    ) -> Result<Chosen, RestoreDumpError> {
        let tables = |option: &'static str, patterns: &[String]| {
            let patterns = compiled(patterns)?;
            let has = |one: &Pattern| relations.iter().any(|name| one.matches(name));
            let matched = |name: &Name| patterns.iter().any(|one| one.matches(name));
            matching(option, &patterns, has)?;
            Ok::<BTreeSet<Name>, RestoreDumpError>(
                relations.iter().filter(|name| matched(name)).cloned().collect(),
            )
        };
        let whole = |option: &'static str, patterns: &[String]| {
            let patterns = compiled(patterns)?;
            if let Some(one) = patterns.iter().find(|one| one.schema.is_some()) {
                return Err(one.refused("it has too many parts"));
            }
            let has = |one: &Pattern| schemas.iter().any(|schema| one.name.is_match(schema));
            let matched = |schema: &str| patterns.iter().any(|one| one.name.is_match(schema));
            matching(option, &patterns, has)?;
            Ok(schemas.iter().filter(|schema| matched(schema)).cloned().collect::<BTreeSet<_>>())
        };
        let (named, left) =
            (tables("--table", &self.tables)?, tables("--exclude-table", &self.exclude_tables)?);
        let (inside, outside) =
            (whole("--schema", &self.schemas)?, whole("--exclude-schema", &self.exclude_schemas)?);
        let takes = |schema: &String| {
            (self.schemas.is_empty() || inside.contains(schema)) && !outside.contains(schema)
        };
        let mut chosen = Chosen::default();
        // As in pg_dump, tables that are named come whatever their schema.
        if self.tables.is_empty() {
            chosen.schemas = schemas.iter().filter(|schema| takes(schema)).cloned().collect();
        }
        let takes = |name: &&Name| match self.tables.is_empty() {
            true => takes(&name.schema),
            false => named.contains(name),
        };
        chosen.relations =
            relations.iter().filter(takes).filter(|name| !left.contains(name)).cloned().collect();
        Ok(chosen)
    }
}

/// A pattern.
struct Pattern {
    text: String,
    schema: Option<Regex>,
    name: Regex,
}

impl Pattern {
    fn matches(&self, name: &Name) -> bool {
        self.name.is_match(&name.name)
            && self.schema.as_ref().is_none_or(|schema| schema.is_match(&name.schema))
    }

    fn refused(&self, why: &str) -> RestoreDumpError {
        RestoreDumpError::Pattern { pattern: self.text.clone(), why: why.to_owned() }
    }
}

fn matching(
    option: &'static str,
    patterns: &[Pattern],
    has: impl Fn(&Pattern) -> bool,
) -> Result<(), RestoreDumpError> {
    match patterns.iter().find(|one| !has(one)) {
        Some(one) => Err(RestoreDumpError::NoMatch { option, pattern: one.text.clone() }),
        None => Ok(()),
    }
}

fn compiled(patterns: &[String]) -> Result<Vec<Pattern>, RestoreDumpError> {
    patterns.iter().map(|pattern| compile(pattern)).collect()
}

fn compile(pattern: &str) -> Result<Pattern, RestoreDumpError> {
    let refused = |why: String| RestoreDumpError::Pattern { pattern: pattern.to_owned(), why };
    let mut parts = translate(pattern);
    let name = parts.pop().unwrap_or_default();
    let schema = parts.pop();
    if !parts.is_empty() {
        return Err(refused("it has too many parts".to_owned()));
    }
    let regex = |part: &str| {
        let ours = ours(part).map_err(&refused)?;
        RegexBuilder::new(&ours)
            .dot_matches_new_line(true)
            .build()
            .map_err(|_| refused("it is no regular expression that is known here".to_owned()))
    };
    let schema = schema.map(|part| regex(&part)).transpose()?;
    Ok(Pattern { text: pattern.to_owned(), schema, name: regex(&name)? })
}

/// Classes of letters that both kinds of regular expressions know.
const CLASSES: [&str; 12] = [
    "alpha", "digit", "alnum", "upper", "lower", "space", "blank", "cntrl", "graph", "print",
    "punct", "xdigit",
];

/// A regular expression of the server's as one that this program takes; else why there is none.
fn ours(theirs: &str) -> Result<String, String> {
    let mut own = String::new();
    let mut letters = theirs.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => own.push_str(&escape(letters.next())?),
            // What is no number of times is a letter.
            '{' if !letters.peek().is_some_and(char::is_ascii_digit) => own.push_str("\\{"),
            '[' => {
                own.push('[');
                for special in ['^', ']'] {
                    if letters.next_if_eq(&special).is_some() {
                        own.push_str(if special == '^' { "^" } else { "\\]" });
                    }
                }
                bracket(&mut letters, &mut own)?;
            }
            letter => own.push(letter),
        }
    }
    Ok(own)
}

/// The rest of a bracket.
fn bracket(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    own: &mut String,
) -> Result<(), String> {
    while let Some(letter) = letters.next() {
        match letter {
            ']' => {
                own.push(']');
                return Ok(());
            }
            '\\' => own.push_str(&escape(letters.next())?),
            '[' if letters.next_if_eq(&':').is_some() => {
                let mut class = String::new();
                while let Some(letter) = letters.next_if(|letter| *letter != ':') {
                    class.push(letter);
                }
                let is_closed = letters.next() == Some(':') && letters.next() == Some(']');
                if !is_closed || !CLASSES.contains(&class.as_str()) {
                    return Err(format!("[:{class}:] is not known here"));
                }
                own.push_str(&format!("[:{class}:]"));
            }
            '[' if matches!(letters.peek(), Some('.' | '=')) => {
                return Err("[. and [= are not known here".to_owned());
            }
            '-' if letters.peek() == Some(&'-') => {
                return Err("-- in brackets is not known here".to_owned());
            }
            '[' | '&' | '~' | '^' => own.extend(['\\', letter]),
            letter => own.push(letter),
        }
    }
    Err("a bracket is not closed".to_owned())
}

/// What stands behind a backslash.
fn escape(letter: Option<char>) -> Result<String, String> {
    match letter {
        Some(letter @ ('d' | 's' | 'w')) => Ok(format!("\\{letter}")),
        Some(letter) if letter.is_ascii_alphanumeric() => {
            Err(format!("\\{letter} is not known here"))
        }
        Some(letter @ ('<' | '>')) => Ok(letter.to_string()),
        Some(letter) if letter.is_ascii_punctuation() => Ok(format!("\\{letter}")),
        Some(letter) => Ok(letter.to_string()),
        None => Err("it ends with a backslash".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Name> {
        let name = |text: &&str| {
            let (schema, name) = text.split_once('/').expect("a schema");
            Name { schema: schema.to_owned(), name: name.to_owned() }
        };
        names.iter().map(name).collect()
    }

    fn chosen(words: &[&str]) -> Result<Vec<String>, RestoreDumpError> {
        let all = [
            "public/orders",
            "public/Orders",
            "public/order_1",
            "public/orderx1",
            "shop/orders",
            "shop/log_1",
            "shop/log_2",
            "Shop/a.b",
            "a$b/c*d",
            "hidden/orders",
            "hidden/[a]",
            "hidden/x\ny",
        ];
        let mut selection = Selection::default();
        for pair in words.chunks(2) {
            let list = match pair[0] {
                "-t" => &mut selection.tables,
                "-T" => &mut selection.exclude_tables,
                "-n" => &mut selection.schemas,
                _ => &mut selection.exclude_schemas,
            };
            list.push(pair[1].to_owned());
        }
        let relations = names(&all);
        let schemas = relations.iter().map(|name| name.schema.clone()).collect();
        let found = selection.choose(&relations, &schemas)?;
        Ok(found.relations.iter().map(|name| format!("{}/{}", name.schema, name.name)).collect())
    }

    #[test]
    fn patterns_match_what_they_match_on_the_server() {
        for (words, expected) in [
            (&["-t", "ORDERS"][..], "hidden/orders public/orders shop/orders"),
            (&["-t", "shop.orders"], "shop/orders"),
            (&["-t", "\"Orders\""], "public/Orders"),
            (&["-t", "order?1"], "public/order_1 public/orderx1"),
            (&["-t", "\"Shop\".\"a.b\""], "Shop/a.b"),
            (&["-t", "a$b.*"], "a$b/c*d"),
            (&["-t", "\"c*d\""], "a$b/c*d"),
            (&["-t", "log_(1|2)"], "shop/log_1 shop/log_2"),
            (&["-t", "log_[^1]"], "shop/log_2"),
            (&["-t", "log_[[:digit:]]", "-T", "*2"], "shop/log_1"),
            (&["-t", "log_\\d{1}"], "shop/log_1 shop/log_2"),
            (&["-t", "\"[a]\""], "hidden/[a]"),
            (&["-t", "x?y"], "hidden/x\ny"),
            (&["-n", "sh*", "-T", "log_*"], "shop/orders"),
            (&["-N", "[ps]*", "-N", "hidden", "-T", "\"a.b\""], "a$b/c*d"),
            (&["-t", "s*.*", "-T", "*.orders", "-N", "shop"], "shop/log_1 shop/log_2"),
        ] {
            assert_eq!(chosen(words).expect("it is known").join(" "), expected, "{words:?}");
        }
    }

    #[test]
    fn what_matches_nothing_or_cannot_be_told_here_is_refused() {
        for (words, said) in [
            (&["-t", "nothing"][..], "nothing matches --table nothing"),
            (&["-t", "orders", "-T", "x"], "nothing matches --exclude-table x"),
            (&["-n", "SHOPS"], "nothing matches --schema SHOPS"),
            (&["-N", "shop.orders"], "too many parts"),
            (&["-t", "a.b.c"], "too many parts"),
            (&["-t", "(a)\\1"], "\\1 is not known here"),
            (&["-t", "\\bx"], "\\b is not known here"),
            (&["-t", "[[=a=]]"], "not known here"),
            (&["-t", "[a"], "not closed"),
            (&["-t", "(a"], "no regular expression"),
        ] {
            let error = chosen(words).expect_err("it is refused").to_string();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }

    #[test]
    fn the_same_selection_is_spelled_in_the_same_way() {
        let one = Selection {
            tables: vec!["b".into(), "a".into(), "b".into()],
            data_only: true,
            ..Selection::default()
        };
        assert_eq!(one.spelled(), "--table=a --table=b --data-only");
        assert_eq!(Selection::default().spelled(), "");
    }
}
