//! Functions that find others by a search_path which they do not set themselves: a restore has none, as pg_restore, says
//! which function it was and where, and is given one.

mod common;

use common::restored::restore_command;
use common::{dump_command, run};
use fence_tests::{Cluster, Result, on_each_engine};

/// Every place from which a restore calls functions, in the order in which it comes to them.
const TABLES: [&str; 12] = [
    "CREATE SCHEMA tools",
    "CREATE FUNCTION tools.least_of(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0'",
    "ALTER DATABASE postgres SET search_path = public, tools",
    "SET search_path = public, tools; CREATE FUNCTION valid(a int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \
     'BEGIN RETURN a >= least_of(a); END'",
    "CREATE FUNCTION shown(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
     'BEGIN RETURN a + tools.least_of(a); END'",
    "SET search_path = public, tools; CREATE FUNCTION seen(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
     'BEGIN RETURN a + least_of(a); END'",
    "SET search_path = public, tools; CREATE DOMAIN whole AS int CHECK (valid(VALUE))",
    "SET search_path = public, tools; CREATE TABLE checked (a int CHECK (valid(a)), w whole, g int GENERATED ALWAYS AS (seen(a)) STORED)",
    "SET search_path = public, tools; INSERT INTO checked (a, w) SELECT n, n FROM generate_series(1, 10) n",
    "CREATE TABLE \"in dexed\" (a int); INSERT INTO \"in dexed\" SELECT generate_series(1, 10)",
    "SET search_path = public, tools; CREATE INDEX \"by seen\" ON \"in dexed\" ((seen(a)))",
    "SET search_path = public, tools; CREATE MATERIALIZED VIEW kept AS SELECT a, seen(a) AS s FROM \"in dexed\"",
];

fn is_whole(target: &Cluster) -> Result<()> {
    for (sql, expected) in [
        ("SELECT count(*) || ' ' || sum(a + w + g) FROM checked", "10 165"),
        ("SELECT sum(s) FROM kept", "55"),
        ("SELECT count(*) FROM pg_indexes WHERE indexname = 'by seen'", "1"),
    ] {
        assert_eq!(target.coordinator().query_value(sql)?, expected, "{sql}");
    }
    Ok(())
}

#[test]
fn a_function_that_finds_nothing_is_named_and_can_be_given_a_search_path() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        TABLES.iter().try_for_each(|sql| source.coordinator().execute(sql))?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);

        // One after the other, as somebody would who mends what is said.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = target.coordinator();
        let port = coordinator.port();
        let ended = run(&mut restore_command(port, &dir, &[])).expect(1);
        ended.complains_of(&[
            "table public.checked: copy failed on ",
            "function least_of(integer) does not exist",
            "It happened in: PL/pgSQL function public.valid(integer)",
            "ALTER FUNCTION",
            "--search-path",
            "--resume",
        ]);
        coordinator.execute("ALTER FUNCTION valid SET search_path = tools")?;
        run(&mut restore_command(port, &dir, &["--resume"]))
            .expect(1)
            .complains_of(&["table public.checked", "function public.seen(integer)"]);
        // A second of its kind in an index; the table is as it is.
        coordinator.execute("ALTER FUNCTION seen SET search_path = tools")?;
        run(&mut restore_command(port, &dir, &["--resume"])).expect(0);
        is_whole(&target)?;
        drop(target);

        // All of them at once.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        let wrong = run(&mut restore_command(port, &dir, &["--search-path", "a,,b"])).expect(1);
        wrong.complains_of(&["invalid value for parameter \"search_path\""]);
        run(&mut restore_command(port, &dir, &["--search-path", "public, tools"])).expect(0);
        is_whole(&target)?;
        Ok(())
    });
}

#[test]
fn a_statement_that_fails_is_told_with_its_object_and_its_place() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let without = TABLES.iter().filter(|sql| !sql.contains("checked"));
        without.into_iter().try_for_each(|sql| source.coordinator().execute(sql))?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let line_of = |file: &str, what: &str| {
            let text = std::fs::read_to_string(dir.join("schema").join(file)).expect("the schema");
            1 + text.lines().position(|line| line.starts_with(what)).expect("the statement")
        };

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = target.coordinator();
        let port = coordinator.port();
        let index = "CREATE INDEX \"by seen\"";
        let place = format!(
            "INDEX public.by seen (schema/post-data.sql, line {})",
            line_of("post-data.sql", index)
        );
        run(&mut restore_command(port, &dir, &[])).expect(1).complains_of(&[
            &place,
            "function least_of(integer) does not exist",
            "PL/pgSQL function public.seen(integer)",
            &format!("The statement begins: {index} ON public.\"in dexed\""),
            "--search-path",
            "--resume",
        ]);
        let resume = ["--resume", "--search-path", "public, tools"];
        run(&mut restore_command(port, &dir, &resume)).expect(0);
        drop(target);

        // Before the data.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = target.coordinator();
        coordinator.execute("CREATE SCHEMA tools")?;
        let place = format!(
            "SCHEMA tools (schema/pre-data.sql, line {})",
            line_of("pre-data.sql", "CREATE SCHEMA tools")
        );
        let port = coordinator.port();
        let ended = run(&mut restore_command(port, &dir, &["--into-non-empty"])).expect(1);
        ended.complains_of(&[
            &place,
            "schema \"tools\" already exists",
            "The statement begins: CREATE SCHEMA tools;",
        ]);
        Ok(())
    });
}

/// The server knows nothing of what a function reads, and so nothing of an order.
#[test]
fn a_view_that_reads_another_through_a_function_is_filled_after_it() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "CREATE TABLE plain (a int)",
            "INSERT INTO plain VALUES (2), (3)",
            "CREATE MATERIALIZED VIEW z_read AS SELECT sum(a) AS s FROM plain",
            "CREATE FUNCTION of_z() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT s FROM public.z_read); END'",
            "CREATE MATERIALIZED VIEW m_reads AS SELECT of_z() AS s",
            "CREATE FUNCTION of_m() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT s FROM public.m_reads); END'",
            "CREATE MATERIALIZED VIEW a_reads AS SELECT of_m() AS s",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        source.coordinator().execute("REFRESH MATERIALIZED VIEW z_read WITH NO DATA")?;
        let never = folder.path().join("never");
        run(&mut dump_command(source.coordinator().port(), &never, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(0);
        assert_eq!(target.coordinator().query_value("SELECT s FROM a_reads")?, "5");
        drop(target);
        // What nobody fills is told, and does not go on for ever.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let ended = run(&mut restore_command(target.coordinator().port(), &never, &[])).expect(1);
        ended.complains_of(&["a_reads", "has not been populated", "--resume"]);
        Ok(())
    });
}

#[test]
fn what_citus_warns_of_is_no_part_of_an_error() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "SET citus.enable_ddl_propagation = off; CREATE ROLE only_there",
            "CREATE TABLE plain (a int)",
            "CREATE VIEW shown AS SELECT a FROM plain",
            "SET citus.enable_ddl_propagation = off; GRANT SELECT ON plain TO only_there",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let ended = run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(1);
        let line = ended.err.lines().find(|line| line.contains("error:")).expect("an error");
        assert!(line.ends_with(": role \"only_there\" does not exist"), "{line}");
        Ok(())
    });
}
