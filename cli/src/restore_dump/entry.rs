//! What each entry of pg_dump's files belongs to: a relation, a schema, or the database.
//!
//! An entry has a line that says its kind and its schema, and a statement in which every name is qualified and quoted. The
//! statement says what it belongs to; the line has to agree, for its names are not quoted and may have anything in them.
//! What does not agree, or is of a kind that nobody knows here, belongs to nothing that can be told.

use super::words::{Reader, Statement, Word, decoded, statements};
use crate::dump::Name;

/// What an entry belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// An extension, a cast, a server.
    Database,
    /// The schema itself, and what is said of it.
    Schema(String),
    /// A type, a function: what is in a schema and no relation.
    InSchema(Name),
    /// It makes this relation.
    Makes(Name),
    /// It is a part of this relation, or said of it.
    Part(Name),
    /// Rights to a relation, which may be an extension's.
    Granted(Name),
    /// Said of a column, of a relation or of a type.
    Column(Name),
    /// An index or constraint, and its relation.
    Index {
        index: Name,
        table: Name,
    },
    /// Said of an index.
    SaidOfIndex(Name),
    /// The index of a partition becomes one of its parent's.
    AttachIndex {
        parent: Name,
        child: Name,
    },
    /// A table becomes a partition.
    Attach {
        parent: Name,
        child: Name,
    },
    /// A foreign key.
    Key {
        name: String,
        table: Name,
        to: Name,
    },
    /// The sequence of an identity column.
    Identity {
        sequence: Name,
        table: Name,
    },
    /// A sequence becomes a column's own.
    Owned {
        sequence: Name,
        table: Name,
    },
    /// Extended statistics.
    Statistics {
        statistics: Name,
        table: Name,
    },
    /// Said of them.
    SaidOfStatistics(Name),
    /// A publication gets a table, or all of a schema.
    Published(Name),
    PublishedSchema(String),
}

/// Kinds that are in no schema.
const OF_DATABASE: [&str; 16] = [
    "EXTENSION",
    "CAST",
    "TRANSFORM",
    "EVENT TRIGGER",
    "PUBLICATION",
    "SUBSCRIPTION",
    "SUBSCRIPTION TABLE",
    "SERVER",
    "FOREIGN DATA WRAPPER",
    "USER MAPPING",
    "PROCEDURAL LANGUAGE",
    "ACCESS METHOD",
    "DATABASE",
    "DATABASE PROPERTIES",
    "LARGE OBJECT",
    "BLOB",
];

/// Kinds that are in a schema, and no relations; as pg_dump calls them, and as SQL does.
const IN_SCHEMA: [(&str, &str); 15] = [
    ("FUNCTION", "function"),
    ("PROCEDURE", "procedure"),
    ("AGGREGATE", "aggregate"),
    ("TYPE", "type"),
    ("SHELL TYPE", "type"),
    ("DOMAIN", "domain"),
    ("OPERATOR CLASS", "operator class"),
    ("OPERATOR FAMILY", "operator family"),
    ("OPERATOR", "operator"),
    ("COLLATION", "collation"),
    ("CONVERSION", "conversion"),
    ("TEXT SEARCH PARSER", "text search parser"),
    ("TEXT SEARCH DICTIONARY", "text search dictionary"),
    ("TEXT SEARCH TEMPLATE", "text search template"),
    ("TEXT SEARCH CONFIGURATION", "text search configuration"),
];

/// All other kinds.
const KINDS: [&str; 26] = [
    "SCHEMA",
    "TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "COMMENT",
    "SECURITY LABEL",
    "ACL",
    "DEFAULT ACL",
    "MATERIALIZED VIEW DATA",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
];

/// What an entry belongs to; none where that cannot be told.
pub fn of(entry: &str, is_bytes: bool) -> Option<Of> {
    let header = decoded(entry.lines().nth(1)?, is_bytes, true)?;
    let statements = statements(entry, is_bytes);
    let is_said = |one: &&Statement| {
        let mut words = Reader::of(&one.words);
        !(words.takes("set") || words.takes("reset"))
    };
    let Some(first) = statements.iter().find(is_said) else {
        // Every database has it.
        let is_public = header.starts_with("-- Name: public; Type: SCHEMA; Schema: -; Owner: ");
        return is_public.then(|| Of::Schema("public".to_owned()));
    };
    let mut first = Reader::of(&first.words);
    let has = |kind: &str| header.contains(&format!("; Type: {kind}; Schema: "));
    let mut found = Vec::new();
    for (kind, words) in IN_SCHEMA.into_iter().filter(|(kind, _)| has(kind)) {
        first.at = 0;
        found.push((kind, first.makes_in_schema(words)));
    }
    for kind in KINDS.into_iter().filter(|kind| has(kind)) {
        first.at = 0;
        found.push((kind, first.meaning(kind)));
    }
    let database = OF_DATABASE.into_iter().filter(|kind| has(kind));
    found.extend(database.map(|kind| (kind, Some(Of::Database))));
    let agrees = |kind: &str, of: &Of| {
        let schema = of.header_schema(kind).replace(['\n', '\r'], " ");
        header.contains(&format!("; Type: {kind}; Schema: {schema}; Owner: "))
    };
    let mut agreed = found.into_iter().filter_map(|(kind, of)| of.filter(|of| agrees(kind, of)));
    let of = agreed.next()?;
    agreed.next().is_none().then_some(of)
}

impl Of {
    /// The schema that the entry's line has to have.
    fn header_schema(&self, kind: &str) -> &str {
        match self {
            Of::Database => "-",
            Of::Schema(schema) if kind == "DEFAULT ACL" => schema,
            Of::Schema(_) => "-",
            Of::PublishedSchema(schema) => schema,
            Of::InSchema(name)
            | Of::Makes(name)
            | Of::Part(name)
            | Of::Granted(name)
            | Of::Column(name)
            | Of::SaidOfIndex(name)
            | Of::SaidOfStatistics(name)
            | Of::Published(name)
            | Of::Index { index: name, .. }
            | Of::AttachIndex { child: name, .. }
            | Of::Attach { child: name, .. }
            | Of::Key { table: name, .. }
            | Of::Identity { sequence: name, .. }
            | Of::Owned { sequence: name, .. }
            | Of::Statistics { statistics: name, .. } => &name.schema,
        }
    }
}

impl Reader<'_> {
    /// A name in a schema, which may be an operator's signs.
    fn thing(&mut self) -> Option<Of> {
        let schema = self.part()?;
        if !self.next_is('.') {
            return None;
        }
        self.at += 1;
        let name = self.part().unwrap_or_default();
        Some(Of::InSchema(Name { schema, name }))
    }

    /// `CREATE` of something in a schema that is no relation.
    fn makes_in_schema(&mut self, words: &str) -> Option<Of> {
        self.needs("create")?;
        let _ = self.takes("or replace") || self.takes("default");
        self.needs(words)?;
        self.thing()
    }

    /// `ALTER TABLE` and whose.
    fn altered(&mut self) -> Option<Name> {
        self.needs("alter")?;
        self.takes("foreign");
        self.needs("table")?;
        self.takes("only");
        self.name()
    }

    /// What a statement of a kind belongs to.
    fn meaning(&mut self, kind: &str) -> Option<Of> {
        match kind {
            "SCHEMA" => {
                if !self.takes("create schema") {
                    // Of one that every database has, the owner alone.
                    self.needs("alter schema")?;
                }
                Some(Of::Schema(self.part()?))
            }
            "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => {
                self.needs("create")?;
                let _ = self.takes("or replace");
                let _ = self.takes("unlogged") || self.takes("recursive");
                self.needs(&kind.to_lowercase())?;
                self.name().map(Of::Makes)
            }
            "SEQUENCE" if self.takes("create") => {
                self.takes("unlogged");
                self.needs("sequence")?;
                self.name().map(Of::Makes)
            }
            "SEQUENCE" => {
                let table = self.altered()?;
                self.needs("alter column")?;
                self.part()?;
                self.needs("add generated")?;
                self.seeks("as identity")?;
                if !self.next_is('(') {
                    return None;
                }
                self.at += 1;
                self.needs("sequence name")?;
                Some(Of::Identity { sequence: self.name()?, table })
            }
            "SEQUENCE OWNED BY" => {
                self.needs("alter sequence")?;
                let sequence = self.name()?;
                self.needs("owned by")?;
                Some(Of::Owned { sequence, table: self.column()? })
            }
            "DEFAULT" | "ROW SECURITY" => self.altered().map(Of::Part),
            "CONSTRAINT" => {
                let table = self.altered()?;
                self.needs("add constraint")?;
                let index = Name { schema: table.schema.clone(), name: self.part()? };
                Some(Of::Index { index, table })
            }
            "CHECK CONSTRAINT" if self.takes("alter domain") => self.thing(),
            "CHECK CONSTRAINT" => self.altered().map(Of::Part),
            "FK CONSTRAINT" => {
                let table = self.altered()?;
                self.needs("add constraint")?;
                let name = self.part()?;
                self.needs("foreign key")?;
                self.seeks("references")?;
                Some(Of::Key { name, table, to: self.name()? })
            }
            "INDEX" => {
                self.needs("create")?;
                self.takes("unique");
                self.needs("index")?;
                let name = self.part()?;
                self.needs("on")?;
                self.takes("only");
                let table = self.name()?;
                Some(Of::Index { index: Name { schema: table.schema.clone(), name }, table })
            }
            "INDEX ATTACH" => {
                self.needs("alter index")?;
                let parent = self.name()?;
                self.needs("attach partition")?;
                Some(Of::AttachIndex { parent, child: self.name()? })
            }
            "TABLE ATTACH" => {
                let parent = self.altered()?;
                self.needs("attach partition")?;
                Some(Of::Attach { parent, child: self.name()? })
            }
            "TRIGGER" if self.takes("create") => {
                let _ = self.takes("or replace");
                self.takes("constraint");
                self.needs("trigger")?;
                self.part()?;
                self.seeks("on")?;
                self.name().map(Of::Part)
            }
            "TRIGGER" => self.altered().map(Of::Part),
            "RULE" => self.rule(),
            "POLICY" => {
                self.needs("create policy")?;
                self.part()?;
                self.needs("on")?;
                self.name().map(Of::Part)
            }
            "STATISTICS" => {
                self.needs("create statistics")?;
                let statistics = self.name()?;
                self.seeks("from")?;
                Some(Of::Statistics { statistics, table: self.name()? })
            }
            "COMMENT" => {
                self.needs("comment on")?;
                self.object()
            }
            "SECURITY LABEL" => {
                self.needs("security label")?;
                self.seeks("on")?;
                self.object()
            }
            "ACL" => {
                if !self.takes("grant") && !self.takes("revoke") {
                    return None;
                }
                self.seeks("on")?;
                Some(match self.object()? {
                    Of::Part(name) => Of::Granted(name),
                    of => of,
                })
            }
            "DEFAULT ACL" => {
                self.needs("alter default privileges for role")?;
                self.part()?;
                match self.takes("in schema") {
                    true => Some(Of::Schema(self.part()?)),
                    false => Some(Of::Database),
                }
            }
            "MATERIALIZED VIEW DATA" => {
                self.needs("refresh materialized view")?;
                self.name().map(Of::Part)
            }
            "PUBLICATION TABLE" => {
                self.needs("alter publication")?;
                self.part()?;
                self.needs("add table")?;
                self.takes("only");
                self.name().map(Of::Published)
            }
            "PUBLICATION TABLES IN SCHEMA" => {
                self.needs("alter publication")?;
                self.part()?;
                self.needs("add tables in schema")?;
                Some(Of::PublishedSchema(self.part()?))
            }
            _ => None,
        }
    }

    fn rule(&mut self) -> Option<Of> {
        if self.words.first() == Some(&Word::Plain("alter".to_owned())) {
            return self.altered().map(Of::Part);
        }
        self.needs("create")?;
        let _ = self.takes("or replace");
        // A view that is made in two steps, as it is one of a circle.
        if self.takes("view") {
            return self.name().map(Of::Part);
        }
        self.needs("rule")?;
        self.part()?;
        self.needs("as on")?;
        self.part()?;
        self.needs("to")?;
        self.name().map(Of::Part)
    }

    /// What a comment, a label or a grant is of.
    fn object(&mut self) -> Option<Of> {
        let relations = ["table", "view", "sequence", "materialized view", "foreign table"];
        if relations.into_iter().any(|words| self.takes(words)) {
            return self.name().map(Of::Part);
        }
        if self.takes("column") {
            return self.column().map(Of::Column);
        }
        if self.takes("index") {
            return self.name().map(Of::SaidOfIndex);
        }
        if self.takes("statistics") {
            return self.name().map(Of::SaidOfStatistics);
        }
        if ["constraint", "trigger", "rule", "policy"].into_iter().any(|word| self.takes(word)) {
            self.part()?;
            self.needs("on")?;
            return match self.takes("domain") {
                true => self.thing(),
                false => self.name().map(Of::Part),
            };
        }
        if self.takes("schema") {
            return self.part().map(Of::Schema);
        }
        if IN_SCHEMA.iter().any(|(_, words)| self.takes(words)) {
            return self.thing();
        }
        let of_database = [
            "extension",
            "cast",
            "language",
            "procedural language",
            "event trigger",
            "database",
            "server",
            "foreign server",
            "foreign data wrapper",
            "publication",
            "subscription",
            "access method",
            "transform",
            "large object",
            "parameter",
        ];
        of_database.into_iter().any(|words| self.takes(words)).then_some(Of::Database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str, kind: &str, schema: &str, sql: &str) -> String {
        format!("--\n-- Name: {tag}; Type: {kind}; Schema: {schema}; Owner: x\n--\n\n{sql}\n\n")
    }

    /// Kind, schema, tag, statement, and what it is of.
    const ENTRIES: &str = r#"
SCHEMA|-|s|CREATE SCHEMA "s";|schema s
SCHEMA|-|public|ALTER SCHEMA public OWNER TO y;|schema public
SCHEMA|-|public|-- *not* creating schema, since initdb creates it|schema public
ACL|-|SCHEMA s|GRANT USAGE ON SCHEMA s TO a;|schema s
EXTENSION|-|e|CREATE EXTENSION e WITH SCHEMA s;|database
TABLE|s|t|CREATE UNLOGGED TABLE s.t (\n    a int\n);\n\nALTER TABLE s.t OWNER TO x;|makes s/t
FOREIGN TABLE|s|f|CREATE FOREIGN TABLE s.f (a int) SERVER x;|makes s/f
MATERIALIZED VIEW|s|m|CREATE MATERIALIZED VIEW s.m AS SELECT 1;|makes s/m
SEQUENCE|s|q|ALTER TABLE o.t ALTER COLUMN "A.b" ADD GENERATED BY DEFAULT AS IDENTITY (\n    SEQUENCE NAME s.q\n    START WITH 1\n);|identity s/q o/t
SEQUENCE OWNED BY|s|q|ALTER SEQUENCE s.q OWNED BY o.t.a;|owned s/q o/t
DEFAULT|s|t a|ALTER TABLE ONLY s.t ALTER COLUMN a SET DEFAULT nextval('s.q'::regclass);|part s/t
INDEX|s|i|CREATE UNIQUE INDEX i ON ONLY s.t USING btree (lower(' ON s.u')) WHERE (a > 1);|index s/i s/t
CONSTRAINT|s|t k|ALTER TABLE ONLY s.t\n    ADD CONSTRAINT k PRIMARY KEY (a);|index s/k s/t
CHECK CONSTRAINT|s|d c|ALTER DOMAIN s.d\n    ADD CONSTRAINT c CHECK ((VALUE > 0)) NOT VALID;|in schema s/d
CHECK CONSTRAINT|s|f c|ALTER FOREIGN TABLE s.f\n    ADD CONSTRAINT c CHECK ((a > 0)) NOT VALID;|part s/f
FK CONSTRAINT|s|t c|ALTER TABLE ONLY s.t\n    ADD CONSTRAINT c FOREIGN KEY ("references") REFERENCES o.u(a);|key c s/t o/u
INDEX ATTACH|s|j|ALTER INDEX o.i ATTACH PARTITION s.j;|attach index o/i s/j
TABLE ATTACH|s|c|ALTER TABLE ONLY o.p ATTACH PARTITION s.c FOR VALUES IN ('x');|attach o/p s/c
TRIGGER|s|t on|CREATE TRIGGER "on" BEFORE UPDATE OF "on" ON s.t FOR EACH ROW WHEN ((new.c <> ' ON x')) EXECUTE FUNCTION s.f();|part s/t
TRIGGER|s|t r|\nALTER TABLE s.t DISABLE TRIGGER r;|part s/t
RULE|s|t r|CREATE RULE r AS\n    ON UPDATE TO s.t DO ( SELECT 1;\n SELECT 2;\n);|part s/t
RULE|s|v _RETURN|CREATE OR REPLACE VIEW s.v AS\n SELECT 1 AS a;|part s/v
POLICY|s|t p|CREATE POLICY p ON s.t USING ((a > 1));|part s/t
ROW SECURITY|s|t|ALTER TABLE s.t ENABLE ROW LEVEL SECURITY;|part s/t
STATISTICS|s|x|CREATE STATISTICS s.x (mcv) ON a, (EXTRACT(epoch FROM b)) FROM o.t;|statistics s/x o/t
COMMENT|s|COLUMN t.a|COMMENT ON COLUMN s.t.a IS 'it''s; b';|column s/t
COMMENT|s|INDEX i|COMMENT ON INDEX s.i IS 'x';|of index s/i
COMMENT|s|RULE r ON t|COMMENT ON RULE r ON s.t IS 'x';|part s/t
COMMENT|s|OPERATOR ### (integer, integer)|COMMENT ON OPERATOR s.### (integer, integer) IS 'x';|in schema s/
COMMENT|s|CONSTRAINT c ON DOMAIN d|COMMENT ON CONSTRAINT c ON DOMAIN s.d IS 'x';|in schema s/d
ACL|s|TABLE t|SET SESSION AUTHORIZATION y;\nGRANT SELECT(a) ON TABLE s.t TO z;\nRESET SESSION AUTHORIZATION;|granted s/t
ACL|s|FUNCTION f(a integer)|REVOKE ALL ON FUNCTION s.f(a integer) FROM PUBLIC;|in schema s/f
DEFAULT ACL|s|DEFAULT PRIVILEGES FOR TABLES|ALTER DEFAULT PRIVILEGES FOR ROLE x IN SCHEMA s GRANT SELECT ON TABLES  TO y;|schema s
DEFAULT ACL|-|DEFAULT PRIVILEGES FOR TABLES|ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES  TO y;|database
FUNCTION|s|f(integer)|CREATE FUNCTION s.f(a integer) RETURNS int\n    LANGUAGE sql\n    BEGIN ATOMIC\n SELECT 1;\nEND;|in schema s/f
TEXT SEARCH CONFIGURATION|s|c|CREATE TEXT SEARCH CONFIGURATION s.c (\n    PARSER = pg_catalog."default" );|in schema s/c
PUBLICATION TABLE|s|p t|ALTER PUBLICATION p ADD TABLE ONLY s.t (a);|published s/t
TABLE|t.u; v|a"b; Type: INDEX; Schema: s; Owner: y|CREATE TABLE "t.u; v"."a""b; Type: INDEX; Schema: s; Owner: y" (\n);|makes t.u; v/a"b; Type: INDEX; Schema: s; Owner: y"#;

    fn spelled(of: &Of) -> String {
        let one = |word: &str, name: &Name| format!("{word} {}/{}", name.schema, name.name);
        let two = |word: &str, name: &Name, other: &Name| {
            format!("{} {}/{}", one(word, name), other.schema, other.name)
        };
        match of {
            Of::Database => "database".to_owned(),
            Of::Schema(schema) => format!("schema {schema}"),
            Of::PublishedSchema(schema) => format!("published schema {schema}"),
            Of::InSchema(name) => one("in schema", name),
            Of::Makes(name) => one("makes", name),
            Of::Part(name) => one("part", name),
            Of::Granted(name) => one("granted", name),
            Of::Column(name) => one("column", name),
            Of::SaidOfIndex(name) => one("of index", name),
            Of::SaidOfStatistics(name) => one("of statistics", name),
            Of::Published(name) => one("published", name),
            Of::Index { index, table } => two("index", index, table),
            Of::AttachIndex { parent, child } => two("attach index", parent, child),
            Of::Attach { parent, child } => two("attach", parent, child),
            Of::Key { name, table, to } => two(&format!("key {name}"), table, to),
            Of::Identity { sequence, table } => two("identity", sequence, table),
            Of::Owned { sequence, table } => two("owned", sequence, table),
            Of::Statistics { statistics, table } => two("statistics", statistics, table),
        }
    }

    #[test]
    fn every_entry_is_of_what_its_statement_names() {
        for line in ENTRIES.lines().skip(1) {
            let parts: Vec<&str> = line.split('|').collect();
            let [kind, schema, tag, sql, expected] = parts[..] else { panic!("{line}") };
            let found = super::of(&entry(tag, kind, schema, &sql.replace("\\n", "\n")), false);
            assert_eq!(found.as_ref().map(spelled).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_does_not_agree_or_is_not_known_belongs_to_nothing() {
        for (tag, kind, schema, sql) in [
            ("t", "TABLE", "other", "CREATE TABLE s.t (a int);"),
            ("t", "TABLE", "s", "CREATE TABLE t (a int);"),
            ("t", "SOMETHING NEW", "s", "CREATE TABLE s.t (a int);"),
            ("t", "TABLE", "s", "CREATE VIEW s.t AS SELECT 1;"),
            ("t", "TABLE", "s", ""),
            // Two ways to take it.
            ("x; Type: CAST; Schema: -; Owner: y", "TABLE", "s", "CREATE TABLE s.t (a int);"),
        ] {
            assert_eq!(super::of(&entry(tag, kind, schema, sql), false), None, "{tag} {sql}");
        }
    }

    #[test]
    fn names_of_a_database_without_an_encoding_are_what_their_bytes_say() {
        let text = entry("tö", "TABLE", "s", "CREATE TABLE s.\"tö\" (\n    a text DEFAULT '?'\n);");
        let letters: String =
            text.bytes().map(|byte| char::from(if byte == b'?' { 0xe4 } else { byte })).collect();
        let found = super::of(&letters, true);
        assert_eq!(found.as_ref().map(spelled).as_deref(), Some("makes s/tö"));
    }
}
