//! Databases of other encodings than this program's, of none, and of odd names.

mod common;

use std::path::Path;
use std::process::Command;

use common::restored::restore_command;
use common::{command, run};
use fence_tests::{Client, Cluster, Engine, Result, on_each_engine};

/// A database, its encoding, and how its text of a number `n` is written where nothing is converted.
const DATABASES: [(&str, &str, &str); 4] = [
    ("latin", "LATIN1", r"E'\344\366 ' || n"),
    ("none", "SQL_ASCII", r"E'\344\366\377 ' || n"),
    ("japanese", "EUC_JP", r"E'\244\242 ' || n"),
    ("My \"own=one'", "UTF8", r"E'\303\266 ' || n"),
];

fn tables(engine: Engine) -> &'static [(&'static str, Option<&'static str>)] {
    match engine {
        Engine::Citus => &[
            ("plain", None),
            ("by_number", Some("'id'")),
            ("by_text", Some("'t'")),
            // Whose rows go through the coordinator.
            ("alone", Some("NULL")),
        ],
        Engine::Embedded => &[("plain", None)],
    }
}

/// Makes the database a cluster of its own, with rows.
fn create(cluster: &Cluster, name: &str, encoding: &str, text: &str) -> Result<Client> {
    let engine = cluster.engine();
    let quoted = name.replace('"', "\"\"");
    let fence = "CREATE EXTENSION citus_fence";
    for node in cluster.nodes() {
        node.execute(&format!(
            "CREATE DATABASE \"{quoted}\" TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ))?;
        let mut client = node.connect_params().database(name).connect()?;
        let catalog = format!("CREATE EXTENSION {}", engine.catalog_extension());
        client.batch_execute(&catalog).expect("the catalog");
        if engine == Engine::Embedded {
            client.batch_execute(fence).expect("the extension");
        }
    }
    let mut client = cluster.coordinator().connect_params().database(name).connect()?;
    let (own, worker) = (cluster.coordinator().port(), cluster.worker(1).port());
    let nodes = format!(
        "SELECT citus_set_coordinator_host('127.0.0.1', {own}); SELECT citus_add_node('127.0.0.1', {worker})"
    );
    client.batch_execute(&nodes).expect("a cluster");
    if engine == Engine::Citus {
        client.batch_execute(fence).expect("the extension");
    }
    // A name that can be written in each of them, where there is any. Citus itself mixes them up where a client's is
    // another than the database's.
    let other = if encoding == "SQL_ASCII" { "o" } else { "\u{a7}" };
    client.batch_execute("SET citus.shard_count = 4").expect("a setting");
    for (table, key) in tables(engine) {
        let make =
            format!("CREATE TABLE {table} (id int, t text, b bytea, \"{other}\" int DEFAULT 3)");
        client.batch_execute("SET client_encoding = 'UTF8'").expect("as this client writes");
        client.batch_execute(&make).expect("a table");
        if let Some(key) = key {
            let make = format!(
                "SELECT create_distributed_table('{table}', {key}, colocate_with := 'none')"
            );
            client.batch_execute(&make).expect("a distributed table");
        }
        let rows =
            format!("INSERT INTO {table} SELECT n, {text}, '\\x00ff' FROM generate_series(1, 9) n");
        client.batch_execute(&format!("SET client_encoding = '{encoding}'")).expect("a setting");
        client.batch_execute(&rows).expect("rows");
    }
    Ok(client)
}

/// The bytes of all rows, as the server has them.
fn bytes(client: &mut Client, table: &str) -> (i64, String) {
    let sql = format!(
        "SELECT count(*), string_agg(id || textsend(t)::text || b::text, ' ' ORDER BY id) FROM {table}"
    );
    client.batch_execute("SET client_encoding = 'SQL_ASCII'").expect("no conversion");
    let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{table}: {error:?}"));
    (row.get(0), row.get(1))
}

fn dump_of(name: &str, port: u16, dir: &Path, format: &str) -> Command {
    let words =
        ["dump", "-h", test_cluster::HOST, "-p", &port.to_string(), "-U", test_cluster::SUPERUSER];
    let mut dump = command(&words);
    let bindir = test_cluster::Installation::current().expect("PostgreSQL").bindir().to_owned();
    dump.args(["-d", name, "--format", format, "--bindir"]).arg(bindir).arg(dir);
    dump
}

#[test]
fn bytes_are_what_they_were_in_any_encoding() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let folder = tempfile::tempdir().expect("a folder");
        for (number, (name, encoding, text)) in DATABASES.into_iter().enumerate() {
            // A name with `=` is a connection string to -d, as in psql.
            let quoted = format!("dbname='{}'", name.replace('\'', "\\'"));
            let mut was = create(&source, name, encoding, text)?;
            for format in ["text", "binary"] {
                let dir = folder.path().join(format!("{number}{format}"));
                run(&mut dump_of(&quoted, source.coordinator().port(), &dir, format)).expect(0);
                let port = target.coordinator().port();
                run(&mut restore_command(port, &dir, &["--create"])).expect(0);
                let mut is = target.coordinator().connect_params().database(name).connect()?;
                for (table, _) in tables(engine) {
                    let rows = bytes(&mut was, table);
                    assert_eq!(rows.0, 9);
                    assert_eq!(rows, bytes(&mut is, table), "{encoding} {format} {table}");
                }
                drop(is);
                for node in target.nodes() {
                    let quoted = name.replace('"', "\"\"");
                    node.execute(&format!("DROP DATABASE \"{quoted}\" WITH (FORCE)"))?;
                }
            }
        }
        Ok(())
    });
}

/// A schema has bytes, too: in comments, functions, defaults, indexes. As names they are refused, for no manifest can have them.
#[test]
fn a_schema_without_an_encoding_is_what_it_was() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let (name, encoding, text) = DATABASES[1];
        let mut client = create(&source, name, encoding, text)?;
        client.batch_execute("SET client_encoding = 'SQL_ASCII'").expect("no conversion");
        // What a client of Latin-1 sends, from within the server: this one sends UTF-8 alone.
        let sent = |sql: &str| {
            let sql = sql.replace('\'', "''").replace('?', "\\344");
            format!("DO $$BEGIN EXECUTE E'{sql}'; END$$")
        };
        for sql in [
            "CREATE FUNCTION noted() RETURNS text LANGUAGE sql AS 'SELECT ''?''::text'",
            "COMMENT ON TABLE plain IS 'B?r'",
            "ALTER TABLE plain ALTER t SET DEFAULT 'B?r'",
            "CREATE INDEX partly ON plain (id) WHERE t <> 'B?r'",
        ] {
            client.batch_execute(&sent(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        let hex = "SELECT concat_ws(' ', encode(textsend(prosrc), 'hex'),
              encode(textsend(obj_description('plain'::regclass)), 'hex'),
              encode(textsend(pg_get_indexdef('partly'::regclass)), 'hex'),
              (SELECT encode(textsend(pg_get_expr(adbin, adrelid)), 'hex') FROM pg_attrdef
                WHERE adrelid = 'plain'::regclass AND adnum = 2)) FROM pg_proc WHERE proname = 'noted'";
        let was: String = client.query_one(hex, &[]).expect("the schema").get(0);
        assert!(
            was.split(' ').count() == 4 && was.split(' ').all(|one| one.contains("e4")),
            "{was}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_of(name, source.coordinator().port(), &dir, "text")).expect(0);
        run(&mut restore_command(target.coordinator().port(), &dir, &["--create"])).expect(0);
        let mut restored = target.coordinator().connect_params().database(name).connect()?;
        restored.batch_execute("SET client_encoding = 'SQL_ASCII'").expect("no conversion");
        let is: String = restored.query_one(hex, &[]).expect("the schema").get(0);
        assert_eq!(is, was);

        client.batch_execute(&sent("ALTER TABLE plain RENAME t TO \"B?r\"")).expect("a name");
        let dir = folder.path().join("other");
        let ended = run(&mut dump_of(name, source.coordinator().port(), &dir, "text")).expect(1);
        ended.complains_of(&[
            "column ",
            " of public.plain has a name that is no UTF-8",
            "Rename it",
        ]);
        assert!(!dir.exists());
        Ok(())
    });
}
