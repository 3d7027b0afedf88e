//! Partitions whose rows are others in another database: by the hash of an enum, which is of numbers that every database
//! gives by itself, and of whatever an enum is in.

mod common;

use std::collections::BTreeMap;

use common::restored::{append, copy, restore_command};
use common::{dump_command, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};

const LABELS: usize = 24;

/// Tables, the type of their key, and the key of a label, which is `%`.
const TABLES: [(&str, &str, &str); 5] = [
    ("by_enum", "kind", "%::kind"),
    ("by_array", "kind[]", "ARRAY[%, 'v1']::kind[]"),
    ("by_pair", "kinds", "ROW(%, 7)::kinds"),
    ("by_domain", "strict", "%::kind"),
    ("by_text", "text", "%::text"),
];

fn labels() -> Vec<String> {
    (0..LABELS).map(|n| format!("v{n}")).collect()
}

/// The parts of every table: one of them has parts of its own.
fn tables() -> Vec<String> {
    let mut statements = vec![
        format!("CREATE TYPE kind AS ENUM ('{}')", labels().join("', '")),
        "CREATE TYPE kinds AS (k kind, n int)".to_owned(),
        "CREATE DOMAIN strict AS kind CHECK (VALUE <> 'v999')".replace("'v999'", "'v0'"),
    ];
    for (table, of, _) in TABLES {
        statements.push(format!(
            "CREATE TABLE {table} (k {of}, n int, twice int GENERATED ALWAYS AS (n * 2) STORED) PARTITION BY HASH (k)"
        ));
        for part in 0..4 {
            let below = if part == 3 { "PARTITION BY HASH (k)" } else { "" };
            statements.push(format!(
                "CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS 4, REMAINDER {part}) {below}"
            ));
        }
        for part in 0..2 {
            statements.push(format!(
                "CREATE TABLE {table}_3_{part} PARTITION OF {table}_3 FOR VALUES WITH (MODULUS 8, REMAINDER {})",
                part * 4 + 3
            ));
        }
    }
    statements
}

fn fill(cluster: &Cluster) -> Result<()> {
    for (table, _, key) in TABLES {
        cluster.coordinator().execute(&format!(
            "INSERT INTO {table} (k, n) SELECT {}, n FROM unnest(enum_range(NULL::kind)) kind, generate_series(1, 5) n
              WHERE kind <> 'v0'",
            key.replace('%', "kind")
        ))?;
    }
    Ok(())
}

/// How many rows each part has, and how many of the labels are found by their key.
fn found(cluster: &Cluster, table: &str, key: &str) -> Result<(Vec<String>, usize)> {
    let coordinator = cluster.coordinator();
    let mut counts = Vec::new();
    for part in ["0", "1", "2", "3_0", "3_1"] {
        counts.push(coordinator.query_value(&format!("SELECT count(*) FROM {table}_{part}"))?);
    }
    let mut rows = 0;
    for label in labels().iter().skip(1) {
        // As the planner finds them: in one part alone.
        let key = key.replace('%', &format!("'{label}'"));
        // A domain over an enum has no operator of its own.
        let column = if table == "by_domain" { "k::kind" } else { "k" };
        let count =
            format!("SELECT count(*) FROM {table} WHERE {column} = {key} AND twice = n * 2");
        rows += coordinator.query_value(&count)?.parse::<usize>().expect("a number");
    }
    Ok((counts, rows))
}

/// The next numbers of types are others than in the source.
fn spend_numbers(target: &Cluster) -> Result<()> {
    let spent = format!("CREATE TYPE spent AS ENUM ('{}')", labels().join("', '"));
    for _ in 0..2 {
        target.coordinator().execute(&spent)?;
        target.coordinator().execute("DROP TYPE spent")?;
    }
    Ok(())
}

#[test]
fn rows_find_their_partition_where_it_is_another_one() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        tables().iter().try_for_each(|sql| source.coordinator().execute(sql))?;
        fill(&source)?;
        let mut was = BTreeMap::new();
        for (table, _, key) in TABLES {
            let found = found(&source, table, key)?;
            assert_eq!(found.1, (LABELS - 1) * 5, "{table}");
            was.insert(table, found);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (dir, lost) = (folder.path().join("dump"), folder.path().join("lost"));
        let (data, schema) = (folder.path().join("data"), folder.path().join("schema"));
        let port = source.coordinator().port();
        run(&mut dump_command(port, &dir, &["--part-blocks", "1"])).expect(0);
        run(&mut dump_command(port, &data, &["-a", "--format", "binary"])).expect(0);
        run(&mut dump_command(port, &schema, &["-s"])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        spend_numbers(&target)?;
        run(&mut restore_command(port, &dir, &["--jobs", "3"])).expect(0);
        let mut moved = 0;
        for (table, _, key) in TABLES {
            let is = found(&target, table, key)?;
            assert_eq!(is.1, was[table].1, "{table}");
            moved += usize::from(is.0 != was[table].0);
            if table == "by_text" {
                assert_eq!(is, was[table]);
            }
        }
        assert_eq!(moved, 4, "the rows are in the same partitions, so this shows nothing");
        drop(target);

        // Rows alone, into partitions that are there; and one row that is lost after that.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        spend_numbers(&target)?;
        run(&mut restore_command(port, &schema, &[])).expect(0);
        run(&mut restore_command(port, &data, &[])).expect(0);
        assert_eq!(found(&target, "by_enum", "%::kind")?.1, was["by_enum"].1);
        drop(target);
        copy(&dir, &lost);
        append(&lost, "DELETE FROM public.by_enum WHERE k = 'v7' AND n = 3");
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        spend_numbers(&target)?;
        let words = ["public.by_enum has 114 rows in all of its partitions, and 115 were dumped"];
        for more in [&[][..], &["--resume"]] {
            run(&mut restore_command(port, &lost, more)).expect(1).complains_of(&words);
        }
        Ok(())
    });
}

/// Where Citus has the partitions, each of its nodes gives these numbers by itself.
#[test]
fn partitions_of_distributed_tables_find_their_rows_too() -> Result<()> {
    use std::io::Write as _;
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: distributed partitions, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = source.coordinator();
    coordinator.execute(&format!("CREATE TYPE kind AS ENUM ('{}')", labels().join("', '")))?;
    for (table, column, options) in [
        ("spread", "'id'", "shard_count := 4"),
        ("single", "NULL", "colocate_with := 'none'"),
        ("twice", "'id'", "shard_count := 4, colocate_with := 'none'"),
    ] {
        coordinator
            .execute(&format!("CREATE TABLE {table} (id int, k kind) PARTITION BY HASH (k)"))?;
        for part in 0..3 {
            coordinator.execute(&format!(
                "CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS 3, REMAINDER {part})"
            ))?;
        }
        let copies = if table == "twice" { 2 } else { 1 };
        coordinator.execute(&format!(
            "SET citus.shard_replication_factor = {copies}; SELECT create_distributed_table('{table}', {column}, {options})"
        ))?;
        coordinator.execute(&format!(
            "INSERT INTO {table} SELECT n, k FROM unnest(enum_range(NULL::kind)) k, generate_series(1, 9) n"
        ))?;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(coordinator.port(), &dir, &[])).expect(0);
    let all = |cluster: &Cluster, table: &str| -> Result<Vec<String>> {
        let mut found = Vec::new();
        for node in cluster.nodes() {
            found.push(node.query_value(&format!(
                "SELECT count(*) || ' ' || md5(string_agg(x::text, ' ' ORDER BY id, k::text)) FROM {table} x"
            ))?);
        }
        found.dedup();
        assert_eq!(found.len(), 1, "{table}: {found:?}");
        Ok(found)
    };
    let tables = ["spread", "single", "twice"];
    let was: Vec<_> = tables.iter().map(|table| all(&source, table)).collect::<Result<_>>()?;
    drop(source);
    let target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    spend_numbers(&target)?;
    let ended = run(&mut restore_command(target.coordinator().port(), &dir, &["-v"])).expect(0);
    assert!(ended.err.contains("violates partition constraint"), "this shows nothing: {ended:?}");
    let is: Vec<_> = tables.iter().map(|table| all(&target, table)).collect::<Result<_>>()?;
    assert_eq!(was, is);
    for label in labels() {
        for table in tables {
            let count = format!("SELECT count(*) FROM {table} WHERE k = '{label}'");
            assert_eq!(target.coordinator().query_value(&count)?, "9", "{table} {label}");
        }
    }
    Ok(())
}
