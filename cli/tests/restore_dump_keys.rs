//! Distribution columns of every kind of type, onto another number of workers: every value is found by its key from
//! every node. Equal counts say nothing of that.

mod common;

use std::io::Write as _;

use common::restored::restore_command;
use common::{dump_command, manifest, run};
use fence_tests::{Cluster, Engine, Result};

/// How many values each has.
const VALUES: i64 = 20;

/// A type, the value of a number `n`, and whether its rows go straight to their shards.
const TYPES: [(&str, &str, bool); 28] = [
    ("smallint", "n::smallint", true),
    ("int", "n::int * 7919 - 3", true),
    ("bigint", "n::bigint * 1e15::bigint", true),
    ("text", "'Tö' || n || E'\\t\\\\'", true),
    ("text COLLATE \"C\"", "'x' || n", true),
    ("varchar(20)", "'v' || n", true),
    ("char(8)", "'c' || n", true),
    ("uuid", "md5(n::text)::uuid", true),
    ("date", "date '0044-03-15 BC' + n::int * 4000", true),
    ("timestamp", "timestamp '2024-02-29 12:00' + n * interval '1 us'", true),
    ("timestamptz", "timestamptz '2024-02-29 12:00+02' - n * interval '1 month'", true),
    (
        "numeric",
        "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' WHEN 3 THEN '3.00' ELSE n / 7.0 END::numeric",
        true,
    ),
    ("bytea", "decode(md5(n::text), 'hex') || '\\x00'::bytea", true),
    ("boolean", "n % 2 = 0", true),
    ("real", "n / 3.0::real", false),
    (
        "double precision",
        "CASE n WHEN 1 THEN '-0' WHEN 2 THEN 'NaN' ELSE n / 3.0 END::float8",
        false,
    ),
    ("interval", "n * interval '1 day 3 s'", false),
    ("time", "time '00:00' + n * interval '1 min'", false),
    ("inet", "('10.0.0.' || n)::inet", false),
    ("jsonb", "jsonb_build_object('a', n)", false),
    ("name", "('n' || n)::name", false),
    ("oid", "n::int::oid", false),
    ("int[]", "ARRAY[n::int, NULL]", false),
    ("int4range", "int4range(n::int, n::int + 5)", false),
    ("kind", "('k' || n % 12)::kind", false),
    ("kinds", "ROW(('k' || n % 12)::kind, n)::kinds", false),
    ("small", "n::int", false),
    ("folded", "CASE WHEN n % 2 = 0 THEN 'ab' ELSE 'AB' END || n", false),
];

fn rows(cluster: &Cluster, table: &str) -> Result<String> {
    cluster.coordinator().query_value(&format!("SELECT count(DISTINCT n) FROM {table}"))
}

#[test]
fn every_value_of_every_type_is_found_by_its_key_from_every_node() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: keys of every type, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = source.coordinator();
    let labels: Vec<String> = (0..12).map(|n| format!("'k{n}'")).collect();
    coordinator.execute(&format!("CREATE TYPE kind AS ENUM ({})", labels.join(", ")))?;
    coordinator.execute("CREATE TYPE kinds AS (k kind, n bigint)")?;
    coordinator.execute("CREATE DOMAIN small AS int CHECK (VALUE < 1000)")?;
    coordinator.execute(
        "CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )?;
    coordinator.execute("CREATE DOMAIN folded AS text COLLATE either_case")?;
    let (mut tables, mut refused) = (Vec::new(), Vec::new());
    for (number, (of, value, direct)) in TYPES.iter().enumerate() {
        let table = format!("t{number}");
        coordinator.execute(&format!("CREATE TABLE {table} (k {of}, n bigint)"))?;
        // Citus does not take all of them.
        let made = coordinator.execute(&format!(
            "SELECT create_distributed_table('{table}', 'k', shard_count := 6, colocate_with := 'none')"
        ));
        if let Err(error) = made {
            println!("{of}: {error}");
            refused.push(*of);
            coordinator.execute(&format!("DROP TABLE {table}"))?;
            continue;
        }
        coordinator.execute(&format!(
            "INSERT INTO {table} SELECT {value}, n FROM generate_series(1, {VALUES}) n"
        ))?;
        tables.push((table, *of, *value, *direct));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (text, binary) = (folder.path().join("text"), folder.path().join("binary"));
    run(&mut dump_command(coordinator.port(), &text, &[])).expect(0);
    run(&mut dump_command(coordinator.port(), &binary, &["--format", "binary"])).expect(0);
    // How many rows a key finds in the source is what it has to find.
    let found = |cluster: &Cluster, node: usize, table: &str, value: &str| -> Result<Vec<i64>> {
        let mut client = cluster.connect(node)?;
        client.batch_execute("SET citus.enable_repartition_joins = on").expect("a setting");
        let mut counts = Vec::new();
        for n in 1..=VALUES {
            let number = client.query_one(
                &format!("SELECT ({value})::text FROM (SELECT {n}::bigint AS n) x"),
                &[],
            );
            let text: String = number.expect("a value").get(0);
            let literal = text.replace('\\', "\\\\").replace('\'', "''");
            let of: String = client
                .query_one(&format!("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = 'k'"), &[])
                .expect("its type")
                .get(0);
            let of = if of == "small" { "int".to_owned() } else { of };
            let sql = format!("SELECT count(*) FROM {table} WHERE k = E'{literal}'::{of}");
            let row =
                client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            counts.push(row.get(0));
        }
        Ok(counts)
    };
    let mut was = Vec::new();
    for (table, of, value, _) in &tables {
        let counts = found(&source, 0, table, value)?;
        // By a domain's value Citus finds nothing in the source either.
        assert!(*of == "small" || counts.iter().all(|count| *count > 0), "{of}: {counts:?}");
        was.push(counts);
    }
    drop(source);

    for dir in [&text, &binary] {
        let target = Cluster::builder(Engine::Citus).workers(3).fsync(false).build()?;
        let spent = format!("CREATE TYPE spent AS ENUM ({})", labels.join(", "));
        target.coordinator().execute(&spent)?;
        target.coordinator().execute("DROP TYPE spent")?;
        let ended =
            run(&mut restore_command(target.coordinator().port(), dir, &["--json", "-j", "3"]))
                .expect(0);
        let said: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        let straight: Vec<_> = tables.iter().filter(|(_, _, _, direct)| *direct).collect();
        let files = manifest(dir);
        let files = files["files"].as_array().expect("files");
        let of =
            |file: &&serde_json::Value| straight.iter().any(|(table, ..)| file["table"] == **table);
        assert_eq!(said["direct"], files.iter().filter(of).count());
        for ((table, of, value, _), was) in tables.iter().zip(&was) {
            assert_eq!(rows(&target, table)?, VALUES.to_string(), "{of}");
            for node in 0..target.nodes().len() {
                assert_eq!(&found(&target, node, table, value)?, was, "{of} from node {node}");
            }
        }
    }
    println!("not distributed by Citus: {refused:?}");
    assert!(tables.len() > 20, "{refused:?}");
    Ok(())
}
