//! Which tables are dumped, by pg_dump's patterns.
//!
//! pg_dump is given the patterns as they are, and the same ones are put to the server for the data, translated as psql
//! and pg_dump do: `*` and `?` are wild, letters outside of double quotes are lower case, a dot parts schema and name,
//! anything else is a regular expression. A name without a schema means what the user's own `search_path` shows.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::error::DumpError;
use super::export::Keeper;
use super::job::literal;
use super::session::NodeSession;
use crate::failure::Failure;
use crate::rows::rows;

/// What is selected.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[command(next_help_heading = "Selection, with pg_dump's patterns")]
pub struct Selection {
    /// Dump only tables that match, and nothing else of their schemas. May be repeated
    #[arg(short = 't', long = "table", value_name = "PATTERN")]
    pub tables: Vec<String>,
    /// Do not dump tables that match. May be repeated
    #[arg(short = 'T', long = "exclude-table", value_name = "PATTERN")]
    pub exclude_tables: Vec<String>,
    /// Dump only schemas that match. May be repeated
    #[arg(short = 'n', long = "schema", value_name = "PATTERN", conflicts_with = "tables")]
    pub schemas: Vec<String>,
    /// Do not dump schemas that match. May be repeated
    #[arg(short = 'N', long = "exclude-schema", value_name = "PATTERN")]
    pub exclude_schemas: Vec<String>,
    /// Dump the schema and no rows
    #[arg(short = 's', long)]
    pub schema_only: bool,
    /// Dump rows and no schema
    #[arg(short = 'a', long, conflicts_with = "schema_only")]
    pub data_only: bool,
    /// Where names without a schema are looked for: what pg_dump's session begins with.
    #[arg(skip)]
    #[serde(skip)]
    pub search_path: String,
}

/// The search_path that a session of this user begins with, whatever it has been set to since.
pub const SEARCH_PATH: &str = "SELECT reset_val FROM pg_settings WHERE name = 'search_path'";

impl Selection {
    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.has_all_tables() && !self.schema_only && !self.data_only
    }

    /// Whether all tables are.
    pub fn has_all_tables(&self) -> bool {
        self.patterns().all(|(_, patterns)| patterns.is_empty())
    }

    fn patterns(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        [
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
        ]
        .into_iter()
    }

    /// What pg_dump is given.
    pub fn words(&self) -> Vec<String> {
        let word = |(option, patterns): (&'static str, &Vec<String>)| -> Vec<String> {
            patterns.iter().map(|pattern| format!("{option}={pattern}")).collect()
        };
        self.patterns().flat_map(word).collect()
    }

    /// Refuses patterns that mean nothing, and those that match nothing.
    pub fn check(&self, present: &mut NodeSession) -> Result<(), Failure> {
        for (option, patterns) in self.patterns() {
            for pattern in patterns {
                let no_match = || DumpError::NoMatch { option, pattern: pattern.clone() };
                let sql = match option {
                    "--schema" | "--exclude-schema" => format!(
                        "SELECT EXISTS (SELECT FROM pg_namespace n WHERE {})",
                        schema_matches(pattern)?
                    ),
                    _ => format!(
                        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {})",
                        table_matches(pattern)?
                    ),
                };
                if self.visibly(present, &sql)?.single_value()? != "t" {
                    return Err(no_match().into());
                }
            }
        }
        Ok(())
    }

    /// Asks with the user's search_path, which this program's sessions do not have.
    fn visibly(&self, session: &mut NodeSession, sql: &str) -> Result<remote::Reply, Failure> {
        let set =
            |path: &str| format!("SELECT set_config('search_path', {}, false)", literal(path));
        session.ask("take the user's search_path", &set(&self.search_path))?;
        let reply = session.ask("look for what is selected", sql)?;
        session.ask("take the own search_path", &set("pg_catalog"))?;
        Ok(reply)
    }

    /// The condition of relations `c` in schemas `n`.
    fn condition(&self) -> Result<String, Failure> {
        let any = |of: &dyn Fn(&str) -> Result<String, Failure>, patterns: &[String]| {
            let each: Result<Vec<String>, Failure> = patterns.iter().map(|one| of(one)).collect();
            each.map(|each| format!("({})", each.join(" OR ")))
        };
        let mut all = vec!["true".to_owned()];
        // As in pg_dump, tables that are named are dumped whatever their schema.
        if !self.tables.is_empty() {
            all.push(any(&table_matches, &self.tables)?);
        } else if !self.schemas.is_empty() {
            all.push(any(&schema_matches, &self.schemas)?);
        }
        if !self.exclude_tables.is_empty() {
            all.push(format!("NOT {}", any(&table_matches, &self.exclude_tables)?));
        }
        if !self.exclude_schemas.is_empty() && self.tables.is_empty() {
            all.push(format!("NOT {}", any(&schema_matches, &self.exclude_schemas)?));
        }
        Ok(all.join(" AND "))
    }

    /// Relations that are selected, as `schema.name`, each part quoted by SQL. A sequence goes with its table.
    pub fn relations(&self, coordinator: &mut Keeper) -> Result<Vec<(String, String)>, Failure> {
        let condition = self.condition()?;
        let sql = format!(
            "WITH chosen AS (SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'p', 'm', 'S', 'f') AND {condition})
             SELECT nspname, relname FROM chosen
             UNION SELECT n.nspname, c.relname FROM chosen
               JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = chosen.oid
                AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
               JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace"
        );
        let reply = self.visibly(&mut coordinator.session, &sql)?;
        let mut found = Vec::new();
        for row in rows(&reply)? {
            found.push((row.get("nspname")?, row.get("relname")?));
        }
        Ok(found)
    }

    /// Schemas that are selected as a whole; none where tables are.
    pub fn schemas(&self, coordinator: &mut Keeper) -> Result<Vec<String>, Failure> {
        if !self.tables.is_empty() {
            return Ok(Vec::new());
        }
        let without_tables = Selection { exclude_tables: Vec::new(), ..self.clone() };
        let condition = without_tables.condition()?;
        let sql = format!("SELECT n.nspname FROM pg_namespace n WHERE {condition}");
        let reply = self.visibly(&mut coordinator.session, &sql)?;
        let mut found = Vec::new();
        for row in rows(&reply)? {
            found.push(row.get("nspname")?);
        }
        Ok(found)
    }
}

/// The condition of a table's pattern.
fn table_matches(pattern: &str) -> Result<String, Failure> {
    let mut parts = translate(pattern);
    let name = parts.pop().unwrap_or_default();
    let schema = parts.pop();
    if !parts.is_empty() {
        return Err(too_long(pattern));
    }
    let name = format!("c.relname::text ~ {} COLLATE \"default\"", literal(&name));
    Ok(match schema {
        Some(schema) => {
            format!("({name} AND n.nspname::text ~ {} COLLATE \"default\")", literal(&schema))
        }
        None => format!("({name} AND pg_table_is_visible(c.oid))"),
    })
}

/// The condition of a schema's pattern.
fn schema_matches(pattern: &str) -> Result<String, Failure> {
    let mut parts = translate(pattern);
    let name = parts.pop().unwrap_or_default();
    if !parts.is_empty() {
        return Err(too_long(pattern));
    }
    Ok(format!("n.nspname::text ~ {} COLLATE \"default\"", literal(&name)))
}

fn too_long(pattern: &str) -> Failure {
    DumpError::Pattern { pattern: pattern.to_owned() }.into()
}

/// The regular expressions of a pattern's parts, as psql and pg_dump write them.
pub fn translate(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::from("^(")];
    let mut in_quotes = false;
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        let Some(part) = parts.last_mut() else { break };
        match letter {
            '"' if in_quotes && letters.peek() == Some(&'"') => {
                letters.next();
                part.push('"');
            }
            '"' => in_quotes = !in_quotes,
            letter if in_quotes => {
                if "|*+?()[]{}.^$\\".contains(letter) {
                    part.push('\\');
                }
                part.push(letter);
            }
            '*' => part.push_str(".*"),
            '?' => part.push('.'),
            '.' => parts.push(String::from("^(")),
            // Never the end of a line: names have it, too.
            '$' => part.push_str("\\$"),
            '[' if letters.peek() == Some(&']') => {
                letters.next();
                part.push_str("\\[\\]");
            }
            // As the server folds names: of ASCII alone.
            letter => part.push(letter.to_ascii_lowercase()),
        }
    }
    parts.into_iter().map(|part| part + ")$").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_translated_as_pg_dump_does() {
        for (pattern, expected) in [
            ("Orders", vec!["^(orders)$"]),
            ("\"Orders\"", vec!["^(Orders)$"]),
            ("shop.*", vec!["^(shop)$", "^(.*)$"]),
            ("\"a.b\".\"c\"\"d\"", vec!["^(a\\.b)$", "^(c\"d)$"]),
            ("t?_[0-9]|u", vec!["^(t._[0-9]|u)$"]),
            ("a$b[]", vec!["^(a\\$b\\[\\])$"]),
            ("\"a*\"*", vec!["^(a\\*.*)$"]),
        ] {
            assert_eq!(translate(pattern), expected, "{pattern}");
        }
        assert!(table_matches("a.b.c").is_err() && schema_matches("a.b").is_err());
        assert!(table_matches("b").is_ok_and(|sql| sql.contains("pg_table_is_visible")));
    }

    #[test]
    fn pg_dump_is_given_the_patterns_as_they_are() {
        let selection = Selection {
            tables: vec!["a*".into(), "\"B\"".into()],
            exclude_schemas: vec!["x".into()],
            ..Selection::default()
        };
        assert_eq!(selection.words(), ["--table=a*", "--table=\"B\"", "--exclude-schema=x"]);
        assert!(!selection.has_all_tables() && !selection.is_all());
        assert!(Selection { data_only: true, ..Selection::default() }.has_all_tables());
    }
}
