//! Types of extensions: in tables, as keys, and with the rows that an extension keeps in tables of its own.

mod common;

use std::io::Write as _;

use common::restored::restore_command;
use common::{dump_command, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};

/// An extension, a type of it, a value of a number `n`, and whether Citus takes it for a key.
const TYPES: [(&str, &str, &str, bool); 6] = [
    ("hll", "hll", "hll_add(hll_empty(), hll_hash_bigint(n))", false),
    ("postgis", "geometry(Point, 4326)", "ST_SetSRID(ST_MakePoint(n, -n), 4326)", false),
    ("hstore", "hstore", "hstore('a', n::text) || hstore('b', NULL)", true),
    ("citext", "citext", "('Ä' || n)::citext", true),
    ("cube", "cube", "cube(n, n + 1)", false),
    ("ltree", "ltree", "text2ltree('top.n' || n)", false),
];

fn is_available(cluster: &Cluster, extension: &str) -> Result<bool> {
    let sql = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{extension}'");
    Ok(cluster.coordinator().query_value(&sql)? == "1")
}

#[test]
fn types_of_extensions_come_back_in_both_formats() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let coordinator = source.coordinator();
        let mut made = Vec::new();
        for (extension, of, value, is_key) in TYPES {
            if !is_available(&source, extension)? {
                // Past the capture of the test runner.
                let _ = writeln!(std::io::stderr(), "skipped: {extension} is not installed here");
                continue;
            }
            let extension_sql = format!("CREATE EXTENSION {extension}");
            match engine {
                Engine::Citus => coordinator.execute(&extension_sql)?,
                Engine::Embedded => source.execute_everywhere(&extension_sql)?,
            }
            let rows = format!("SELECT n AS id, {value} AS v FROM generate_series(1, 30) n");
            coordinator.execute(&format!("CREATE TABLE {extension}_local (id int, v {of})"))?;
            coordinator.execute(&format!("INSERT INTO {extension}_local {rows}"))?;
            let mut tables = vec![format!("{extension}_local")];
            if engine == Engine::Citus {
                for (table, key) in [("spread", "id"), ("keyed", "v")] {
                    if key == "v" && !is_key {
                        continue;
                    }
                    let table = format!("{extension}_{table}");
                    coordinator.execute(&format!("CREATE TABLE {table} (id int, v {of})"))?;
                    coordinator.execute(&format!(
                        "SELECT create_distributed_table('{table}', '{key}', shard_count := 4, colocate_with := 'none')"
                    ))?;
                    coordinator.execute(&format!("INSERT INTO {table} {rows}"))?;
                    tables.push(table);
                }
            }
            made.push((tables, value));
        }
        assert!(made.len() > 2, "none is installed, so this shows nothing");
        let folder = tempfile::tempdir().expect("a folder");
        let dirs = ["text", "binary"].map(|format| {
            let dir = folder.path().join(format);
            run(&mut dump_command(coordinator.port(), &dir, &["--format", format])).expect(0);
            dir
        });
        drop(source);
        for dir in dirs {
            let target = Cluster::builder(engine).workers(3).fsync(false).build()?;
            run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(0);
            for (tables, value) in &made {
                for table in tables {
                    let same = format!(
                        "SELECT count(*) FROM {table} JOIN (SELECT n, {value} AS w FROM generate_series(1, 30) n) x ON n = id WHERE v = w"
                    );
                    assert_eq!(target.coordinator().query_value(&same)?, "30", "{table}");
                    let rows = format!("SELECT count(*) FROM {table}");
                    for node in if table.ends_with("_local") { 0..1 } else { 0..4 } {
                        assert_eq!(target.node(node).query_value(&rows)?, "30", "{table}");
                    }
                }
            }
        }
        Ok(())
    });
}

/// An extension that keeps rows of users beside its own, in a table that may be known to Citus, as PostGIS' systems of
/// coordinates often are. Written into this PostgreSQL's folder, and removed again.
struct Keeping([std::path::PathBuf; 2]);

const KEEPING: &str = "citus_fence_test_keeping";

impl Keeping {
    fn install() -> Option<Keeping> {
        let share = test_cluster::Installation::current().ok()?.sharedir().join("extension");
        let files = [format!("{KEEPING}.control"), format!("{KEEPING}--1.sql")];
        let this = Keeping(files.map(|file| share.join(file)));
        let script = "CREATE TABLE @extschema@.kept (id int, v text);
             INSERT INTO @extschema@.kept VALUES (1, 'own'), (2, 'own');
             SELECT pg_catalog.pg_extension_config_dump('@extschema@.kept', 'WHERE id > 100');";
        std::fs::write(&this.0[0], "default_version = '1'\n").ok()?;
        std::fs::write(&this.0[1], script).ok()?;
        Some(this)
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn rows_in_an_extensions_table_come_once_wherever_they_are_or_are_told() -> Result<()> {
    let Some(_installed) = Keeping::install() else {
        let _ = writeln!(std::io::stderr(), "skipped: no extension can be installed here");
        return Ok(());
    };
    on_each_engine(|engine| {
        let folder = tempfile::tempdir().expect("a folder");
        let extension = format!("CREATE EXTENSION {KEEPING}");
        let rows = "SELECT string_agg(id || v, ' ' ORDER BY id) FROM kept";
        for is_reference in [true, false] {
            let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
            match engine {
                Engine::Citus => source.coordinator().execute(&extension)?,
                Engine::Embedded => source.execute_everywhere(&extension)?,
            }
            source.coordinator().execute("INSERT INTO kept VALUES (101, 'mine')")?;
            let dir = folder.path().join(is_reference.to_string());
            if is_reference {
                if engine == Engine::Embedded {
                    continue;
                }
                source.coordinator().execute("SELECT create_reference_table('kept')")?;
                run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
            } else {
                let theirs = "SET citus.enable_ddl_propagation = off; INSERT INTO kept VALUES (102, 'theirs')";
                source.worker(1).execute(theirs)?;
                let ended =
                    run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(3);
                assert!(
                    ended.out.contains("1 rows of the extension's table public.kept on"),
                    "{ended:?}"
                );
            }
            drop(source);
            let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
            let code = if is_reference { 0 } else { 3 };
            run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(code);
            assert_eq!(target.coordinator().query_value(rows)?, "1own 2own 101mine");
        }
        Ok(())
    });
    Ok(())
}
