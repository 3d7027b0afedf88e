//! Rows of a restored table are written as old ones, so that nothing has to write them once more; and whatever others
//! have put into a table by then stays.

mod common;

use common::restored::restore_command;
use common::{Gate, dump_command, run, start};
use fence_tests::{Cluster, Result, on_each_engine};

/// Rows of a table of some 2 MB.
const ROWS: i64 = 20_000;

fn filled(table: &str) -> String {
    format!("INSERT INTO {table} SELECT n, repeat('x', 100) || n FROM generate_series(1, {ROWS}) n")
}

fn fill(cluster: &Cluster, table: &str) -> Result<()> {
    cluster.coordinator().execute(&filled(table))
}

/// The pages of every table and shard with a name like this, over all nodes, and how many of them have nothing but rows
/// that everybody sees.
fn pages(cluster: &Cluster, like: &str) -> Result<(i64, i64)> {
    let mut all = (0, 0);
    for node in 0..cluster.nodes().len() {
        let sql = format!(
            "SELECT coalesce(sum(relpages), 0)::bigint, coalesce(sum(relallvisible), 0)::bigint FROM pg_class
              WHERE relkind = 'r' AND relname LIKE '{like}'"
        );
        let mut client = cluster.connect(node)?;
        client.batch_execute("SET citus.override_table_visibility = off").expect("all tables");
        let row = client.query_one(&sql, &[]).expect("pages");
        all = (all.0 + row.get::<_, i64>(0), all.1 + row.get::<_, i64>(1));
    }
    Ok(all)
}

#[test]
fn rows_of_a_whole_table_are_old_at_once() {
    on_each_engine(|engine| {
        let build = || {
            Cluster::builder(engine).workers(2).fsync(false).setting("autovacuum", "off").build()
        };
        let source = build()?;
        let tables = [
            "CREATE TABLE alone (id bigint, v text)",
            "CREATE TABLE parts (id bigint, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE parts_all PARTITION OF parts FOR VALUES FROM (0) TO (1000000)",
        ];
        for table in tables {
            source.coordinator().execute(table)?;
        }
        source.create_distributed("CREATE TABLE spread (id bigint, v text)", "spread", "id", 1)?;
        source.coordinator().execute(&source.shard_sql("spread", "1", &filled("%s")))?;
        for table in ["alone", "parts"] {
            fill(&source, table)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let port = source.coordinator().port();
        let (whole, split) = (folder.path().join("whole"), folder.path().join("split"));
        run(&mut dump_command(port, &whole, &[])).expect(0);
        run(&mut dump_command(port, &split, &["--part-blocks", "50"])).expect(0);
        drop(source);

        let target = build()?;
        run(&mut restore_command(target.coordinator().port(), &whole, &[]))
            .expect(0)
            .complains_of(&["comparing the dump", "loading ", "gathering statistics", "counting"]);
        for like in ["alone", "parts_all", "spread\\_%"] {
            let (pages, old) = pages(&target, like)?;
            assert!(pages > 200, "{engine}: {like} has {pages} pages");
            assert_eq!(old, pages, "{engine}: of {like}");
        }
        // The control: what several files are copied into side by side has new rows.
        let target = build()?;
        let quiet = run(&mut restore_command(target.coordinator().port(), &split, &["-q"]));
        assert!(quiet.expect(0).err.is_empty());
        let (pages, old) = pages(&target, "alone")?;
        assert!(pages > 200 && old == 0, "{engine}: {old} of {pages}");
        Ok(())
    });
}

#[test]
fn what_others_have_written_stays_and_is_told_and_nobody_is_waited_for() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for table in ["written", "looked_at"] {
            source.coordinator().execute(&format!("CREATE TABLE {table} (id bigint, v text)"))?;
            fill(&source, table)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let gate = Gate::after("psql");
        let port = target.coordinator().port();
        let mut running = start(&mut restore_command(port, &dir, &["--bindir", gate.bindir()]));
        gate.wait(&mut running)?;
        target.coordinator().execute("INSERT INTO written VALUES (-1, 'of an application')")?;
        let mut reader = target.connect(0)?;
        reader.batch_execute("BEGIN; SELECT count(*) FROM looked_at").expect("a reader");
        gate.open();
        running
            .ended()?
            .expect(1)
            .complains_of(&["public.written has 20001 rows, and 20000 were dumped"]);
        reader.batch_execute("COMMIT").expect("the end");
        let count = |sql: &str| -> Result<i64> {
            Ok(target.connect(0)?.query_one(sql, &[]).expect("a count").get(0))
        };
        assert_eq!(count("SELECT count(*) FROM written WHERE id = -1")?, 1, "{engine}");
        assert_eq!(count("SELECT count(*) FROM looked_at")?, ROWS, "{engine}");
        Ok(())
    });
}
