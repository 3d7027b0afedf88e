//! Indexes and keys of local tables are made side by side; what goes wrong with one is told as ever, and what was
//! interrupted goes on.

mod common;

use std::path::PathBuf;

use common::restored::restore_command;
use common::{dump_command, run, start};
use fence_tests::{Cluster, Engine, PATIENCE, Result, on_each_engine};
use test_cluster::wait_until;

/// Two tables, a key, and three indexes, of which none ends before all three were begun, where `tests.meet` is set; and
/// one that fails where `tests.fail` is.
const TABLES: [&str; 9] = [
    "CREATE FUNCTION meet(number int, v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
     DECLARE met int; until timestamptz := clock_timestamp() + interval '1s' * coalesce(current_setting('tests.meet', true), '0')::int;
     BEGIN
       PERFORM pg_advisory_lock_shared(777, number);
       LOOP
         SELECT count(*) INTO met FROM generate_series(1, 3) n
          WHERE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = 777 AND objid = n)
             OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'meets ' || n AND relkind = 'i');
         EXIT WHEN met = 3 OR coalesce(current_setting('tests.meet', true), '') = '';
         IF clock_timestamp() > until THEN RAISE 'index % was alone', number; END IF;
       END LOOP;
       RETURN v;
     END $$",
    "CREATE FUNCTION fail(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
     BEGIN
       IF current_setting('tests.fail', true) <> '' THEN RAISE 'told to fail'; END IF;
       RETURN v;
     END $$",
    "CREATE SCHEMA \"o'd d\"",
    "CREATE TABLE \"o'd d\".\"a ON b\" (id int PRIMARY KEY, w text); INSERT INTO \"o'd d\".\"a ON b\" VALUES (1, 'more bytes')",
    "CREATE TABLE other (id int); INSERT INTO other VALUES (1)",
    "CREATE INDEX \"meets 1\" ON \"o'd d\".\"a ON b\" ((meet(1, id)))",
    "CREATE INDEX \"meets 2\" ON \"o'd d\".\"a ON b\" ((meet(2, id)))",
    "CREATE INDEX \"meets 3\" ON other ((meet(3, id)))",
    "CREATE INDEX fails ON other ((fail(id)))",
];

/// A dump of them, and a cluster to restore it to.
struct Made {
    target: Cluster,
    dir: PathBuf,
    _folder: tempfile::TempDir,
}

impl Made {
    fn of(engine: Engine) -> Result<Made> {
        let build = || Cluster::builder(engine).workers(1).fsync(false).build();
        let source = build()?;
        TABLES.iter().try_for_each(|sql| source.coordinator().execute(sql))?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        Ok(Made { target: build()?, dir, _folder: folder })
    }

    fn set(&self, setting: &str) -> Result<()> {
        self.target.coordinator().execute(&format!("ALTER DATABASE postgres {setting}"))
    }

    fn restore(&self, words: &[&str]) -> std::process::Command {
        restore_command(self.target.coordinator().port(), &self.dir, words)
    }

    /// Valid indexes of both tables.
    fn indexes(&self) -> Result<String> {
        self.target.coordinator().query_value(
            "SELECT coalesce(string_agg(i.relname, ', ' ORDER BY i.relname), '')
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
              WHERE c.relname IN ('a ON b', 'other') AND x.indisvalid",
        )
    }

    /// All of them, and nothing of a restore's traces.
    fn is_whole(&self) -> Result<()> {
        assert_eq!(self.indexes()?, "a ON b_pkey, fails, meets 1, meets 2, meets 3");
        let left = "SELECT coalesce(to_regclass('citus_fence_restore.progress')::text, 'nothing')";
        assert_eq!(self.target.coordinator().query_value(left)?, "nothing");
        Ok(())
    }
}

#[test]
fn indexes_of_one_table_and_of_several_are_made_side_by_side() {
    on_each_engine(|engine| {
        let made = Made::of(engine)?;
        made.set("SET tests.meet = '30'")?;
        run(&mut made.restore(&["--jobs", "3"])).expect(0);
        made.is_whole()?;
        // The control: one after the other they do not meet.
        let made = Made::of(engine)?;
        made.set("SET tests.meet = '1'")?;
        let alone = run(&mut made.restore(&["--jobs", "1"])).expect(1);
        alone.complains_of(&["was alone", "(schema/post-data.sql, line ", "--resume"]);
        Ok(())
    });
}

#[test]
fn one_that_fails_is_told_with_its_statement_and_the_others_are_there() {
    on_each_engine(|engine| {
        let made = Made::of(engine)?;
        made.set("SET tests.fail = 'yes'")?;
        run(&mut made.restore(&["--jobs", "3"])).expect(1).complains_of(&[
            "told to fail",
            "INDEX public.fails (schema/post-data.sql, line ",
            "--resume",
        ]);
        assert_eq!(made.indexes()?, "a ON b_pkey, meets 1, meets 2, meets 3", "{engine}");
        made.set("RESET tests.fail")?;
        run(&mut made.restore(&["--jobs", "3", "--resume"])).expect(0);
        made.is_whole()
    });
}

#[test]
fn killed_while_several_are_made_it_goes_on() {
    on_each_engine(|engine| {
        let made = Made::of(engine)?;
        // Two at a time never are three.
        made.set("SET tests.meet = '600'")?;
        let mut running = start(&mut made.restore(&["--jobs", "2"]));
        wait_until("two indexes to be begun", PATIENCE, || {
            let begun = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 777";
            let begun = made.target.coordinator().query(begun).ok()?;
            (begun.len() == 2).then_some(())
        })?;
        running.child().kill().expect("killed");
        running.child().wait().expect("collected");
        made.set("RESET tests.meet")?;
        run(&mut made.restore(&["--jobs", "2", "--resume"])).expect(0);
        made.is_whole()
    });
}
