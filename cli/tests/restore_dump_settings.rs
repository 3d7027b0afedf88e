//! What a database's sessions begin with: `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET`. As with `pg_restore`,
//! `--create` brings them along, and a database that is there keeps its own.

mod common;

use std::io::Write as _;

use common::restored::restore_command;
use common::{command, dump_command, manifest, run, second_cluster};
use fence_tests::{Client, Cluster, Engine, Result, on_each_engine};

/// What each of them decides is in the table, or in a view.
const STATEMENTS: [&str; 8] = [
    "ALTER DATABASE second SET TimeZone = 'Asia/Tokyo'",
    "ALTER DATABASE second SET search_path = \"$user\", \"Sch ema\", public, ''",
    "ALTER DATABASE second SET app.own = 'a ''b'' = \\c'",
    "ALTER ROLE reader IN DATABASE second SET default_transaction_read_only = on",
    "ALTER ROLE reader IN DATABASE second SET DateStyle = 'German'",
    "SET TimeZone = 'Asia/Tokyo'; \
     CREATE TABLE public.days (at timestamptz, day date CHECK (day = at::date)); \
     INSERT INTO public.days VALUES ('2024-01-31 23:00+00', '2024-02-01')",
    "SET TimeZone = 'Asia/Tokyo'; CREATE MATERIALIZED VIEW public.seen AS SELECT at::date AS day FROM public.days",
    "CREATE TABLE public.plain (id int)",
];

/// All of them, as one node has them.
fn settings(cluster: &Cluster, node: usize) -> Result<String> {
    cluster.node(node).query_value(
        "SELECT string_agg(format('%s: %s', coalesce(r.rolname, 'all'), u), '; ' ORDER BY r.rolname, u)
           FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = 'second'
          CROSS JOIN unnest(s.setconfig) u LEFT JOIN pg_roles r ON r.oid = s.setrole",
    )
}

fn roles(cluster: &Cluster) -> Result<()> {
    let sql = "SET citus.enable_ddl_propagation = off; CREATE ROLE reader";
    cluster.execute_everywhere(sql)
}

#[test]
fn a_database_that_is_made_has_its_settings_before_anything_looks_at_them() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        roles(&source)?;
        let mut client: Client = second_cluster(&source, true)?;
        for statement in STATEMENTS {
            for part in statement.split("; ") {
                client.batch_execute(part).unwrap_or_else(|error| panic!("{part}: {error:?}"));
            }
        }
        // Not what the coordinator has.
        source.worker(1).execute(
            "SET citus.enable_ddl_propagation = off; ALTER DATABASE second RESET ALL; \
             ALTER DATABASE second SET work_mem = '5MB'",
        )?;
        let was = [settings(&source, 0)?, settings(&source, 1)?];
        assert!(was[0].contains("Tokyo") && !was[1].contains("Tokyo"), "{was:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let port = source.coordinator().port().to_string();
        let words = ["dump", "-h", test_cluster::HOST, "-p", &port, "-U", test_cluster::SUPERUSER];
        let bindir = test_cluster::Installation::current()?.bindir().to_owned();
        run(command(&words).args(["-d", "second", "--bindir"]).arg(bindir).arg(&dir)).expect(0);
        assert_eq!(manifest(&dir)["settings"][0]["value"], "Asia/Tokyo");
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        // A role that is not there is named, and nothing else is the worse for it.
        let ended = run(&mut restore_command(port, &dir, &["--create"])).expect(3);
        for word in ["DateStyle for role reader was not made", "\"reader\" does not exist"] {
            assert!(ended.out.contains(word), "{word}: {ended:?}");
        }
        for node in target.nodes() {
            node.execute("DROP DATABASE second WITH (FORCE)")?;
        }
        roles(&target)?;
        run(&mut restore_command(port, &dir, &["--create"])).expect(0);
        let is = [settings(&target, 0)?, settings(&target, 1)?, settings(&target, 2)?];
        // A worker that is new has what the first had.
        assert_eq!(is, [was[0].clone(), was[1].clone(), was[1].clone()]);
        let mut client = target.coordinator().connect_params().database("second").connect()?;
        let seen: String =
            client.query_one("SELECT min(day)::text FROM public.seen", &[]).expect("it").get(0);
        assert_eq!(seen, "2024-02-01");
        Ok(())
    });
}

#[test]
fn a_database_that_is_there_keeps_its_own_and_what_looks_at_them_sees_these() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "ALTER DATABASE postgres SET work_mem = '5MB'",
            "CREATE TABLE days (at timestamptz, day date); INSERT INTO days VALUES ('2024-01-31 23:00+00')",
            "CREATE MATERIALIZED VIEW seen AS SELECT at::date AS day FROM days",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = target.coordinator();
        coordinator.execute("ALTER DATABASE postgres SET TimeZone = 'Asia/Tokyo'")?;
        run(&mut restore_command(coordinator.port(), &dir, &[])).expect(0);
        // As pg_restore fills it.
        assert_eq!(coordinator.query_value("SELECT day FROM seen")?, "2024-02-01");
        assert_ne!(coordinator.query_value("SHOW work_mem")?, "5MB");
        Ok(())
    });
}

/// Rows that go through the coordinator, and definitions that Citus writes anew for other nodes.
const FORMATTED: [&str; 7] = [
    "CREATE TYPE pair AS (a int, b text)",
    // With such a column Citus passes rows on as text.
    "CREATE TABLE formatted (id int PRIMARY KEY, p pair, d date, i interval, f float8, t text[], m money)",
    "SELECT create_reference_table('formatted')",
    "INSERT INTO formatted VALUES (1, '(1,x)', '2024-02-01', '-1 days +02:03:00', 0.30000000000000004, \
     ARRAY['a', NULL, 'NULL'], '1234.56')",
    "CREATE TABLE bounded (id int, d date CHECK (d > '2020-02-01')) PARTITION BY RANGE (d)",
    "CREATE TABLE bounded_1 PARTITION OF bounded FOR VALUES FROM ('2024-02-01') TO ('2024-03-04')",
    "SELECT create_distributed_table('bounded', 'id', shard_count => 2)",
];

/// All of it as every node has it: rows and, on Citus, what tables and shards are defined by.
fn formatted(cluster: &Cluster) -> Result<Vec<String>> {
    let mut found = Vec::new();
    // The embedded catalog carries nothing to others.
    let nodes = if cluster.engine() == Engine::Citus { cluster.nodes().len() } else { 1 };
    for node in &cluster.nodes()[..nodes] {
        let mut client = node.connect()?;
        client
            .batch_execute(
                "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; \
                 SET citus.override_table_visibility = off",
            )
            .expect("settings");
        let rows = "SELECT string_agg(x::text, ' ') FROM formatted x";
        let bounds = "SELECT string_agg(DISTINCT pg_get_expr(relpartbound, oid), ' ') FROM pg_class
                       WHERE relname LIKE 'bounded_1%'";
        let checks = "SELECT string_agg(DISTINCT pg_get_constraintdef(oid), ' ') FROM pg_constraint
                       WHERE conrelid IN (SELECT oid FROM pg_class WHERE relname LIKE 'bounded%') AND contype = 'c'";
        for sql in [rows, bounds, checks] {
            found.push(client.query_one(sql, &[]).expect("an answer").get(0));
        }
    }
    Ok(found)
}

#[test]
fn rows_and_definitions_are_as_written_whatever_formats_the_target_begins_with() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let is_fit = |sql: &&str| engine == Engine::Citus || !sql.starts_with("SELECT create_");
        for statement in FORMATTED.into_iter().filter(is_fit) {
            source.coordinator().execute(statement)?;
        }
        let was = formatted(&source)?;
        assert!(
            was[0].contains("2024-02-01") && was[0].contains("{a,NULL,\"\"NULL\"\"}"),
            "{was:?}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        // What the coordinator writes, the worker reads in another way; and neither knows a NULL in an array.
        for setting in
            ["DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "extra_float_digits = -3"]
        {
            target.coordinator().execute(&format!(
                "SET citus.enable_ddl_propagation = off; ALTER DATABASE postgres SET {setting}"
            ))?;
        }
        target.execute_everywhere(
            "SET citus.enable_ddl_propagation = off; ALTER DATABASE postgres SET array_nulls = off",
        )?;
        run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(0);
        assert_eq!(formatted(&target)?, was);
        Ok(())
    });
}

#[test]
fn a_target_whose_tables_are_columnar_takes_a_restore() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: columnar tables, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    for statement in [
        "CREATE TABLE plain (id int); INSERT INTO plain VALUES (1)",
        "CREATE TABLE spread (id int); SELECT create_distributed_table('spread', 'id', shard_count => 2)",
    ] {
        statement.split("; ").try_for_each(|sql| source.coordinator().execute(sql))?;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
    drop(source);
    let target = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    let coordinator = target.coordinator();
    coordinator.execute("CREATE EXTENSION IF NOT EXISTS citus_columnar")?;
    // What a restore notes is inserted with ON CONFLICT, which these tables do not know.
    coordinator.execute("ALTER DATABASE postgres SET default_table_access_method = 'columnar'")?;
    run(&mut restore_command(coordinator.port(), &dir, &[])).expect(0);
    let columnar =
        "SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'columnar'";
    for node in target.nodes() {
        assert_eq!(node.query_value(columnar)?, "0");
    }
    Ok(())
}

#[test]
fn what_a_server_says_is_understood_whatever_its_language() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "CREATE FUNCTION language_of(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN
               IF current_setting('lc_messages') <> 'C' THEN RAISE 'nobody reads that'; END IF;
               RETURN id;
             END $$",
            "CREATE TABLE said (id int); INSERT INTO said VALUES (1)",
            "SET lc_messages = 'C'; CREATE INDEX ON said ((language_of(id)))",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = target.coordinator();
        // Not C, and there on every machine.
        coordinator.execute("ALTER DATABASE postgres SET lc_messages = 'POSIX'")?;
        // The index is made. ANALYZE calls its function again, in a session whose answers have codes.
        let ended = run(&mut restore_command(coordinator.port(), &dir, &[])).expect(3);
        assert_eq!(ended.out.matches("look: ").count(), 1, "{ended:?}");
        assert!(ended.out.contains("there are no new statistics"), "{ended:?}");
        Ok(())
    });
}
