//! Whatever a schema may have: the real pg_dump says the same of the restored cluster as of the source, on every node.

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;

use common::restored::restore_command;
use common::{dump_command, run};
use fence_tests::{Cluster, Engine, Result};

const STATEMENTS: &str = include_str!("common/odd.sql");

/// Tables that have rows of their own, or of others.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'p', 'm') AND n.nspname !~ '^(pg_|columnar|citus)' AND n.nspname <> 'information_schema' ORDER BY 1";

const GROUPS: &str = "SELECT string_agg(format('%s %s %s %s', table_name, citus_table_type, distribution_column, shard_count),
     E'\\n' ORDER BY table_name::text) FROM citus_tables";

/// The schema as pg_dump has it, without the word that it begins and ends with.
fn schema(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let mut pg_dump = test_cluster::Installation::current()?.command("pg_dump")?;
    let conninfo = cluster.node(node).connect_params().conninfo();
    let output = pg_dump.args(["-s", "-d", &conninfo]).output().expect("pg_dump");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    Ok(text.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect())
}

/// All rows of all tables, as a hash of each.
fn content(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let mut content = BTreeMap::new();
    for row in cluster.coordinator().query(TABLES)? {
        let table = row[0].clone().expect("a name");
        // Column by column: Citus does not show whole rows of all of them.
        let columns = cluster.coordinator().query_value(&format!(
            "SELECT coalesce(string_agg(quote_ident(attname) || '::text', ', ' ORDER BY attnum), '') FROM pg_attribute
              WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped",
            table.replace('\'', "''")
        ))?;
        let row = format!("ARRAY[{columns}]::text[]::text");
        let rows = cluster.coordinator().query_value(&format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg({row}, E'\n' ORDER BY {row} COLLATE \"C\")), '') FROM {table}"
        ))?;
        content.insert(table, rows);
    }
    Ok(content)
}

#[test]
fn pg_dump_says_the_same_of_every_node() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: the schema of every node, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let statements = STATEMENTS.split(";;\n").filter(|one| !one.trim().is_empty());
    let mut made = 0;
    for statement in statements {
        source.coordinator().execute(statement)?;
        made += 1;
    }
    let (was, groups) = (content(&source)?, source.coordinator().query_value(GROUPS)?);
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(source.coordinator().port(), &dir, &["--roles"])).expect(0);
    let target = Cluster::builder(Engine::Citus).workers(3).fsync(false).build()?;
    run(&mut restore_command(target.coordinator().port(), &dir, &["--roles"])).expect(0);
    println!("{made} statements, {} tables", was.len());
    assert!(was.len() > 40);
    for (table, is) in content(&target)? {
        assert_eq!(was.get(&table), Some(&is), "{table}");
    }
    assert_eq!(target.coordinator().query_value(GROUPS)?, groups);
    for node in 0..3 {
        let (was, is) = (schema(&source, node)?, schema(&target, node)?);
        let differs = was.iter().zip(&is).find(|(was, is)| was != is);
        assert_eq!(differs, None, "node {node}");
        assert_eq!(was.len(), is.len(), "node {node}");
    }
    Ok(())
}
