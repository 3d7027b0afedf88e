//! A hint's SQL does what it says when it is pasted: in whatever schema the extension is, beside functions of the same
//! names in `pg_catalog`; and where the database does not have it, the hint says that.

use fence_tests::{Client, Cluster, Engine, Result, call, on_each_engine, refusal};

/// Is refused by the gate itself.
const WRITE: &str = "CREATE TABLE late (n int)";
/// Is refused by the server, because its transaction has been made read-only.
const DRAW: &str = "SELECT nextval('ticket')";

/// What there is to paste: the last statement of the hint.
fn pasted(hint: &str) -> &str {
    let start = hint.rfind("SELECT ").unwrap_or_else(|| panic!("no statement: {hint}"));
    let end = hint[start..].find(';').unwrap_or_else(|| panic!("no end: {hint}"));
    &hint[start..=start + end]
}

fn hint(client: &mut Client, sql: &str, sqlstate: &str) -> String {
    let error = refusal(client, sql);
    assert_eq!(error.code().code(), sqlstate, "{sql}: {error:?}");
    error.hint().unwrap_or_default().to_owned()
}

/// Pastes what new sessions of that node are told, whichever way they are refused first, and proves that it has helped.
fn opened_by_hints(cluster: &Cluster, node: usize) -> Result<()> {
    let mut told = String::new();
    for orders in [[WRITE, DRAW], [DRAW, WRITE]] {
        let mut refused = cluster.connect(node)?;
        for sql in orders {
            let hint = hint(&mut refused, sql, "25006");
            assert!(told.is_empty() || told == hint, "{sql}: {told}, and then {hint}");
            told = hint;
        }
    }
    let mut client = cluster.connect(0)?;
    client.batch_execute(pasted(&told)).unwrap_or_else(|error| panic!("{told}: {error:?}"));
    cluster.connect(node)?.batch_execute(DRAW).unwrap_or_else(|error| panic!("{told}: {error:?}"));
    Ok(())
}

/// Has the extension on all nodes in a schema that no search path has.
fn move_away(cluster: &Cluster) -> Result<()> {
    let takes_all_along = cluster.engine() == Engine::Citus;
    for node in if takes_all_along { &cluster.nodes()[..1] } else { cluster.nodes() } {
        node.execute("DROP EXTENSION citus_fence")?;
        node.execute("CREATE SCHEMA \"Two words\"")?;
        node.execute("CREATE EXTENSION citus_fence SCHEMA \"Two words\"")?;
    }
    Ok(())
}

#[test]
fn in_another_schema() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.execute_everywhere("CREATE SEQUENCE ticket")?;
        move_away(&cluster)?;
        let mut client = cluster.connect(0)?;
        let begin = "SELECT \"Two words\".citus_block_writes_for_backup()";
        assert!(call(&mut client, begin));
        let told = hint(&mut client, begin, "55006");
        assert!(call(&mut client, pasted(&told)), "{told}");
        for (close, node) in [
            ("SELECT \"Two words\".citus_set_cluster_read_only()", 1),
            ("SELECT \"Two words\".alter_system_read_only()", 0),
        ] {
            client.batch_execute(close).expect(close);
            opened_by_hints(&cluster, node)?;
        }
        Ok(())
    });
}

#[test]
fn beside_another_function_of_that_name() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.execute_everywhere("CREATE SEQUENCE ticket")?;
        // As Citus has some of those of a clone split.
        cluster.coordinator().execute(
            "CREATE FUNCTION pg_catalog.alter_system_read_write() RETURNS void LANGUAGE sql AS ''",
        )?;
        cluster.coordinator().execute("SELECT alter_system_read_only()")?;
        opened_by_hints(&cluster, 0)
    });
}

#[test]
fn a_database_without_the_extension() {
    const MISSING: &str = "does not have the extension citus_fence";
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.execute_everywhere("CREATE SEQUENCE ticket")?;
        let node = cluster.coordinator();
        let elsewhere = || node.connect_params().database("template1").connect();
        elsewhere()?.batch_execute("CREATE SEQUENCE ticket").expect("a sequence");
        node.execute("SELECT alter_system_read_only()")?;
        for sql in [WRITE, DRAW] {
            let told = hint(&mut elsewhere()?, sql, "25006");
            assert!(told.contains(MISSING), "{sql}: {told}");
            let told = hint(&mut cluster.connect(0)?, sql, "25006");
            assert!(!told.contains(MISSING), "{sql}: {told}");
        }
        opened_by_hints(&cluster, 0)
    });
}
