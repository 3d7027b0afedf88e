//! What breaks naive dumps: values, types, names and kinds of tables. Each is dumped, loaded by hand into a table of
//! the same definition, and compared.

mod common;

use common::{dump_command, fresh_database, load, manifest, run};
use fence_tests::{Client, Cluster, Engine, Result, on_each_engine};
use serde_json::Value;

/// Table, definition, rows. Whatever a session says of formats, the text has to say the same.
const TABLES: [(&str, &str, &str); 9] = [
    (
        "texts",
        "CREATE TABLE texts (a text, b bytea, c text[], d jsonb)",
        r#"INSERT INTO texts VALUES (NULL, NULL, NULL, NULL), ('', '', '{}', '{}'), ('\.', '\x00ff0a0d5c', '{NULL,x}', '[1]'),
          (E'a\tb\nc\\d\r', '\x', '{{1,2},{3,4}}', '{"a": "\\u00e9"}'), ('Ö€😀', 'x', ARRAY['a,b', '"'], 'null')"#,
    ),
    (
        "numbers",
        "CREATE TABLE numbers (a numeric, b float8, c float4, d date, e timestamptz, f interval)",
        "INSERT INTO numbers VALUES ('NaN', 'NaN', 'Infinity', '-infinity', 'infinity', '-1 mon 2 days'),
          (1e-30, 0.1::float8 + 0.2::float8, 1.1, '0044-03-15 BC', '0044-03-15 12:00:00 BC', '1 year 3 s'),
          (-12345678901234567890.5, '-0', '-Infinity', '2024-02-29', '2024-06-01 00:00:00.000001+02', '-00:00:01')",
    ),
    (
        "\"Töne \"\"x\"\"\"",
        "CREATE TABLE \"Töne \"\"x\"\"\" (\"select\" int, \"Größe %s\" int)",
        "INSERT INTO \"Töne \"\"x\"\"\" VALUES (1, 2), (NULL, 3)",
    ),
    (
        "generated",
        "CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED,
                                 c int GENERATED ALWAYS AS IDENTITY, d int)",
        "INSERT INTO generated (a, d) SELECT n, -n FROM generate_series(1, 10) n; ALTER TABLE generated DROP COLUMN d",
    ),
    ("nothing", "CREATE TABLE nothing (a int)", "SELECT 1"),
    ("row_security",
     "CREATE TABLE row_security (a int); ALTER TABLE row_security ENABLE ROW LEVEL SECURITY;
      ALTER TABLE row_security FORCE ROW LEVEL SECURITY",
     "INSERT INTO row_security VALUES (1), (2)"),
    ("parent", "CREATE TABLE parent (a int)", "INSERT INTO parent SELECT generate_series(1, 5)"),
    ("objects", "CREATE TABLE objects (a regclass, b regtype[])",
     "INSERT INTO objects VALUES ('pg_catalog.pg_class', '{int4,text}'), (NULL, NULL)"),
    ("large", "CREATE TABLE large (a int, b text)",
     "INSERT INTO large SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 3000) n; DELETE FROM large WHERE a % 7 = 0"),
];

/// All rows, told apart by their text.
fn content(client: &mut Client, table: &str) -> (i64, String) {
    let sql = format!(
        "SET extra_float_digits = 3; SELECT 1; SELECT count(*), coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '')
           FROM ONLY {table} t"
    );
    let (set, select) = sql.split_once(" SELECT 1; ").expect("two statements");
    client.batch_execute(set).expect("a setting");
    let row = client.query_one(select, &[]).unwrap_or_else(|error| panic!("{table}: {error}"));
    (row.get(0), row.get(1))
}

fn file<'a>(manifest: &'a Value, table: &str) -> Vec<&'a Value> {
    let files = manifest["files"].as_array().expect("files");
    files.iter().filter(|file| file["table"] == table).collect()
}

fn create(cluster: &Cluster) -> Result<()> {
    let coordinator = cluster.coordinator();
    for (_, ddl, rows) in TABLES {
        coordinator.execute(ddl)?;
        coordinator.execute(rows)?;
    }
    // One whose rows are its own and not those of a table below it; and formats that would change every file.
    coordinator.execute(
        "CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (6);
         CREATE TABLE no_columns (); INSERT INTO no_columns DEFAULT VALUES;
         CREATE VIEW view AS SELECT 1; CREATE SEQUENCE used; SELECT nextval('used');
         ALTER ROLE postgres SET DateStyle = 'German'; ALTER ROLE postgres SET IntervalStyle = 'sql_standard';
         ALTER ROLE postgres SET extra_float_digits = -10; ALTER ROLE postgres SET bytea_output = 'escape';
         ALTER ROLE postgres SET search_path = ''",
    )?;
    // These would end a session that only keeps something.
    cluster.execute_everywhere(
        "ALTER ROLE postgres SET idle_in_transaction_session_timeout = '50ms';
         ALTER ROLE postgres SET idle_session_timeout = '5s'",
    )
}

#[test]
fn every_value_comes_back_in_both_formats_and_in_parts() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&cluster)?;
        let coordinator = cluster.coordinator();
        let folder = tempfile::tempdir().expect("a folder");
        let mut source = cluster.connect(0)?;
        source
            .batch_execute("SET search_path = public; SET idle_session_timeout = 0")
            .expect("settings");
        for (name, words) in [
            ("text", vec!["--part-blocks", "20", "--jobs", "3"]),
            ("binary", vec!["--format", "binary", "--compress", "none"]),
        ] {
            let dir = folder.path().join(name);
            run(&mut dump_command(coordinator.port(), &dir, &words)).expect(0);
            let manifest = manifest(&dir);
            assert!(file(&manifest, "large").len() == 1 || name == "text");
            if name == "text" {
                assert!(file(&manifest, "large").len() > 3, "{manifest}");
                let mut loaded = fresh_database(coordinator, "loaded")?;
                loaded
                    .batch_execute("SET search_path = public; SET idle_session_timeout = 0")
                    .expect("settings");
                for (table, ddl, _) in TABLES {
                    loaded.batch_execute(ddl).expect("a table");
                    let quoted = table.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                    let plain = quoted.unwrap_or(table).replace("\"\"", "\"");
                    if table == "generated" {
                        loaded
                            .batch_execute("ALTER TABLE generated DROP COLUMN d")
                            .expect("as there");
                    }
                    load(coordinator, "loaded", &dir, &plain, table)?;
                    assert_eq!(content(&mut source, table), content(&mut loaded, table), "{table}");
                }
            } else {
                // An OID is no value.
                assert_eq!(file(&manifest, "objects")[0]["format"], "text");
                assert_eq!(file(&manifest, "numbers")[0]["format"], "binary");
            }
            assert_eq!(file(&manifest, "generated")[0]["columns"], serde_json::json!(["a", "c"]));
            assert_eq!(file(&manifest, "parent")[0]["rows"], 5);
            assert_eq!(file(&manifest, "child")[0]["rows"], 1);
            assert_eq!(file(&manifest, "no_columns")[0]["rows"], 1);
            let sequences = manifest["sequences"].as_array().expect("sequences");
            let used = sequences.iter().find(|sequence| sequence["name"] == "used").expect("it");
            assert_eq!((&used["last_value"], &used["groupid"]), (&Value::from(1), &Value::from(0)));
            let schema =
                std::fs::read_to_string(dir.join("schema/pre-data.sql")).expect("the schema");
            assert!(
                schema.contains("CREATE VIEW public.view") && schema.contains("public.no_columns")
            );
        }
        Ok(())
    });
}

#[test]
fn what_is_not_in_it_is_told() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        cluster.coordinator().execute("SELECT lo_from_bytea(0, 'x')")?;
        cluster
            .worker(1)
            .execute("SET citus.enable_ddl_propagation = off; CREATE TABLE own (a int)")?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let ended = run(&mut dump_command(cluster.coordinator().port(), &dir, &[])).expect(3);
        assert!(ended.out.contains("look: not in the dump: 1 large objects on "), "{ended:?}");
        assert!(ended.out.contains("look: not in the dump: table public.own of "), "{ended:?}");
        assert_eq!(manifest(&dir)["not_dumped"].as_array().map(Vec::len), Some(2));
        Ok(())
    });
}
