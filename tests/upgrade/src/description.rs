//! All that the catalogs say about what belongs to the extension, without the numbers that differ from
//! one `CREATE EXTENSION` to the next.
//!
//! What belongs to it is what `pg_depend` says: its members, and what lives and dies with those (columns,
//! constraints, indexes, rules, row types).  Of each, every column of its row in its catalog is taken, so
//! that nobody has to remember to list a new one.  Numbers of other objects become their names, by the
//! server's own table of such references; expressions, as the server prints them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fence_tests::{Client, words};
use test_cluster::postgres::SimpleQueryMessage;

/// A value for each object and each of its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description(BTreeMap<(String, String), String>);

/// The extension and all that belongs to it, as pairs of catalog and number.  Tables for long values and
/// the triggers of foreign keys have numbers in their names, and follow from the rest.
const OBJECTS: &str = "
    WITH RECURSIVE object(classid, objid) AS (
        SELECT 'pg_extension'::regclass::oid, oid FROM pg_extension WHERE extname = 'citus_fence'
        UNION
        SELECT d.classid, d.objid
          FROM object AS o
          JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
         WHERE d.deptype IN ('e', 'i', 'a')
           AND NOT EXISTS (SELECT FROM pg_class AS c WHERE d.classid = 'pg_class'::regclass
                              AND c.oid = d.objid AND c.relkind = 't')
           AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE d.classid = 'pg_trigger'::regclass
                              AND t.oid = d.objid AND t.tgisinternal))";

/// Columns that say something about this one copy only: its numbers, its files, its statistics, and what
/// a table remembers of columns that it had.  What is said there of columns and keys, definitions say too.
const OF_THIS_COPY: [&str; 17] = [
    "oid",
    "relfilenode",
    "relpages",
    "reltuples",
    "relallvisible",
    "relallfrozen",
    "relfrozenxid",
    "relminmxid",
    "relnatts",
    "reltoastrelid",
    "attnum",
    "atthasmissing",
    "attmissingval",
    "conkey",
    "confkey",
    "indkey",
    "adnum",
];

/// Catalogs whose rows have no number of their own but belong to that of an object: the column that has
/// the object's number, and what tells the rows of one object apart.
const PARTS: [(&str, &str, &str); 6] = [
    ("pg_attribute", "attrelid", "'column ' || t.attname"),
    ("pg_index", "indexrelid", "'as an index'"),
    ("pg_sequence", "seqrelid", "'as a sequence'"),
    ("pg_aggregate", "aggfnoid", "'as an aggregate'"),
    ("pg_enum", "enumtypid", "'label ' || t.enumlabel"),
    ("pg_range", "rngtypid", "'as a range'"),
];

impl Description {
    /// Describes what one node has.
    ///
    /// # Panics
    /// When the server refuses a query, or there is no extension to describe.
    pub fn of(client: &mut Client) -> Description {
        let mut description = Description(BTreeMap::new());
        let catalogs = rows(
            client,
            &format!("{OBJECTS} SELECT DISTINCT classid::regclass::text FROM object ORDER BY 1"),
        );
        for catalog in catalogs.iter().map(|row| row[0].as_str()) {
            let extra = extra_of(catalog);
            description.take(client, catalog, "oid", None, extra);
        }
        for (catalog, number, part) in PARTS {
            let extra = match catalog {
                "pg_attribute" => &[
                    // As one who selects all columns meets them.
                    (
                        "place",
                        "(SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = t.attrelid \
                         AND a.attnum BETWEEN 1 AND t.attnum AND NOT a.attisdropped)::text",
                    ),
                    ("comment", "col_description(t.attrelid, t.attnum)"),
                    (
                        "initial privileges",
                        "(SELECT i.initprivs::text FROM pg_init_privs AS i WHERE i.objoid = t.attrelid \
                         AND i.classoid = 'pg_class'::regclass AND i.objsubid = t.attnum)",
                    ),
                ][..],
                _ => &[],
            };
            description.take(client, catalog, number, Some(part), extra);
        }
        description.take_rows(client);
        assert!(
            description.0.keys().any(|(object, _)| object.starts_with("function ")),
            "nothing is described: {description:?}"
        );
        description
    }

    /// How many attributes of how many objects.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Takes the rows of one catalog that belong to the extension's objects, all their columns.
    fn take(
        &mut self,
        client: &mut Client,
        catalog: &str,
        number: &str,
        part: Option<&str>,
        extra: &[(&str, &str)],
    ) {
        let columns = rows(
            client,
            &format!(
                "SELECT a.attname, a.atttypid::regtype, f.pktable, f.is_array
                   FROM pg_attribute AS a
                   LEFT JOIN pg_get_catalog_foreign_keys() AS f
                          ON f.fktable = a.attrelid AND f.fkcols = ARRAY[a.attname::text]
                         AND f.pkcols = '{{oid}}'
                  WHERE a.attrelid = '{catalog}'::regclass AND a.attnum > 0 AND NOT a.attisdropped"
            ),
        );
        let mut values = String::new();
        let mut add = |name: &str, value: &str| {
            let separator = if values.is_empty() { "" } else { ", " };
            let _ = write!(values, "{separator}('{name}', {value})");
        };
        for column in &columns {
            let [name, kind, referred, is_array] = &column[..] else {
                panic!("{column:?} has other columns than were asked for");
            };
            if OF_THIS_COPY.contains(&name.as_str()) || kind == "pg_node_tree" || name == number {
                continue;
            }
            let value = match (referred.as_str(), is_array.as_str()) {
                // Privileges in any order are the same.
                _ if kind == "aclitem[]" => {
                    format!(
                        "(SELECT string_agg(p::text, ' ' ORDER BY p::text) FROM unnest(t.{name}) AS p)"
                    )
                }
                // PostgreSQL 15.20 stamps the options of every new column with a number of its own.
                _ if name == "attoptions" => String::from(
                    "(SELECT string_agg(p, ' ' ORDER BY p) FROM unnest(t.attoptions) AS p \
                     WHERE p NOT LIKE 'pg_attver=%')",
                ),
                ("", _) => format!("t.{name}::text"),
                (catalog, "t") => format!(
                    "(SELECT string_agg((pg_identify_object('{catalog}'::regclass, e.number, 0)).identity, \
                     ', ' ORDER BY e.place) \
                     FROM unnest(t.{name}::oid[]) WITH ORDINALITY AS e(number, place))"
                ),
                (catalog, _) => {
                    format!(
                        "(pg_identify_object('{catalog}'::regclass, t.{name}::oid, 0)).identity"
                    )
                }
            };
            add(name, &value);
        }
        for (name, value) in extra {
            add(name, value);
        }
        // The catalog of the objects, where the rows are parts of them.
        let class = match (catalog, part) {
            (_, None) => catalog,
            ("pg_aggregate", _) => "pg_proc",
            ("pg_enum" | "pg_range", _) => "pg_type",
            _ => "pg_class",
        };
        let name = part.map_or(String::new(), |part| format!(" || ': ' || {part}"));
        let live = match catalog {
            "pg_attribute" => "AND t.attnum > 0 AND NOT t.attisdropped",
            _ => "",
        };
        let found = rows(
            client,
            &format!(
                "{OBJECTS}
                 SELECT i.type || ' ' || i.identity {name}, v.attribute, coalesce(v.value, 'null')
                   FROM object AS o
                   JOIN {catalog} AS t ON t.{number} = o.objid {live},
                        pg_identify_object(o.classid, o.objid, 0) AS i,
                        LATERAL (VALUES {values}) AS v(attribute, value)
                  WHERE o.classid = '{class}'::regclass"
            ),
        );
        for row in found {
            let [object, attribute, value] = <[String; 3]>::try_from(row).expect("three columns");
            let twice = self.0.insert((object.clone(), attribute.clone()), value);
            assert!(twice.is_none(), "{object}: {attribute} is described twice");
        }
    }

    /// What the members that are tables hold.
    fn take_rows(&mut self, client: &mut Client) {
        let tables = rows(
            client,
            &format!(
                "{OBJECTS} SELECT c.oid::regclass FROM object AS o JOIN pg_class AS c ON c.oid = o.objid
                  WHERE o.classid = 'pg_class'::regclass AND c.relkind = 'r'"
            ),
        );
        for table in tables.iter().map(|row| &row[0]) {
            let held = rows(client, &format!("SELECT t::text FROM {table} AS t ORDER BY 1"));
            self.0.insert((format!("table {table}"), String::from("rows")), format!("{held:?}"));
        }
    }
}

/// What functions of the server say of the objects of a catalog, beside the columns.
fn extra_of(catalog: &str) -> &'static [(&'static str, &'static str)] {
    macro_rules! with_common {
        ($($own:expr),* $(,)?) => {
            &[
                ("comment", "obj_description(o.objid, o.classid::regclass::name)"),
                ("member", "EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = o.classid \
                            AND d.objid = o.objid AND d.deptype = 'e')::text"),
                ("initial privileges", "(SELECT string_agg(p::text, ' ' ORDER BY p::text) \
                            FROM pg_init_privs AS i, unnest(i.initprivs) AS p \
                            WHERE i.classoid = o.classid AND i.objoid = o.objid AND i.objsubid = 0)"),
                $($own),*
            ]
        };
    }
    match catalog {
        "pg_proc" => with_common!(
            ("arguments", "pg_get_function_arguments(t.oid)"),
            ("result", "pg_get_function_result(t.oid)"),
            ("body", "pg_get_function_sqlbody(t.oid)"),
        ),
        "pg_class" => with_common!((
            "definition",
            "CASE WHEN t.relkind IN ('v', 'm') THEN pg_get_viewdef(t.oid) \
             WHEN t.relkind = 'i' THEN pg_get_indexdef(t.oid) END"
        )),
        "pg_constraint" => with_common!(("definition", "pg_get_constraintdef(t.oid)")),
        "pg_attrdef" => with_common!(("definition", "pg_get_expr(t.adbin, t.adrelid)")),
        "pg_rewrite" => with_common!(("definition", "pg_get_ruledef(t.oid)")),
        "pg_trigger" => with_common!(("definition", "pg_get_triggerdef(t.oid)")),
        "pg_policy" => with_common!(
            ("using", "pg_get_expr(t.polqual, t.polrelid)"),
            ("check", "pg_get_expr(t.polwithcheck, t.polrelid)"),
        ),
        _ => with_common!(),
    }
}

/// What differs between two schemas, a line each; none where they are the same.
pub fn differences(expected: &Description, found: &Description) -> Vec<String> {
    let mut lines = Vec::new();
    for (key @ (object, attribute), wanted) in &expected.0 {
        match found.0.get(key) {
            None => lines.push(format!("{object}: {attribute}: missing, is to be {wanted}")),
            Some(value) if value != wanted => {
                lines.push(format!("{object}: {attribute}: {value}, is to be {wanted}"));
            }
            Some(_) => {}
        }
    }
    for (key @ (object, attribute), value) in &found.0 {
        if !expected.0.contains_key(key) {
            lines.push(format!("{object}: {attribute}: {value}, is not to be"));
        }
    }
    lines
}

/// The rows of a query as text.  Names are not cut short by what the session finds without a schema.
fn rows(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client
        .simple_query(&format!("SET search_path = pg_catalog, pg_temp; {sql}"))
        .unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).unwrap_or_default().to_owned())
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}
