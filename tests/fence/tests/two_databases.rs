//! Two databases of the same servers, each a cluster: whether a server writes is the same for both, and which of them was
//! switched is noted in the one that was asked.

use fence_tests::{Client, Cluster, Engine, Heard, Result, on_each_engine, refusal, words};

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";
const NOTES: &str = "SELECT count(*) FROM citus_fence.cluster_read_only";

/// In quotes wherever SQL names it.
const SECOND: &str = "Se\"cond";

/// A cluster in another database of the coordinator and the first of the workers; a session with its coordinator.
fn second(cluster: &Cluster, workers: usize) -> Result<Client> {
    let catalog = cluster.engine().catalog_extension();
    for node in &cluster.nodes()[..=workers] {
        node.execute("CREATE DATABASE \"Se\"\"cond\"")?;
        let mut there = node.connect_params().database(SECOND).connect()?;
        there.batch_execute(&format!("CREATE EXTENSION {catalog}")).expect("a catalog");
        if cluster.engine() == Engine::Embedded {
            there.batch_execute("CREATE EXTENSION citus_fence").expect("the extension");
        }
    }
    let mut client = cluster.coordinator().connect_params().database(SECOND).connect()?;
    for node in 0..=workers {
        let function = if node == 0 { "citus_set_coordinator_host" } else { "citus_add_node" };
        let join = format!("SELECT {function}('127.0.0.1', {})", cluster.node(node).port());
        client.batch_execute(&join).unwrap_or_else(|error| panic!("{join}: {}", words(&error)));
    }
    if cluster.engine() == Engine::Citus {
        client.batch_execute("CREATE EXTENSION citus_fence").expect("the extension");
    }
    Ok(client)
}

/// What the status says, node for node: state, and what is wrong.
fn status(client: &mut Client) -> Vec<(String, Option<String>)> {
    let sql = "SELECT state, error FROM citus_cluster_read_only_status() ORDER BY groupid";
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{}", words(&error)));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn notes(client: &mut Client) -> i64 {
    client.query_one(NOTES, &[]).expect(NOTES).get(0)
}

#[test]
fn what_one_database_has_closed_the_other_knows_and_opens() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let name = cluster.database();
        let mut first = cluster.connect(0)?;
        let mut other = second(&cluster, 1)?;
        let well = |state: &str| (state.to_owned(), None);
        assert_eq!(status(&mut other), vec![well("read-write"); 2]);

        first.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert_eq!(status(&mut first), vec![well("read-only"); 2]);
        for (state, error) in status(&mut other) {
            assert_eq!(state, "read-only");
            let error = error.expect("why it is read only");
            assert!(error.contains(&format!("database \"{name}\"")), "{error}");
            assert!(error.contains(READ_WRITE), "{error}");
        }
        // It is closed, and not by itself.
        let error = refusal(&mut other, READ_ONLY);
        assert_eq!(error.code().code(), "25006", "{error:?}");
        assert!(error.message().contains(&format!("database \"{name}\"")), "{error:?}");
        assert!(error.hint().unwrap_or_default().contains(READ_WRITE), "{error:?}");
        assert_eq!(status(&mut first), vec![well("read-only"); 2]);

        // Opened from the second, it is not noted as read-only any more, and whoever opens it is told.
        let mut heard = Heard::in_database(&cluster, 0, SECOND)?;
        heard.client.batch_execute(READ_WRITE).expect(READ_WRITE);
        let said = heard.take();
        let told = said.iter().find(|text| text.contains(&format!("database \"{name}\"")));
        assert!(told.is_some_and(|text| text.contains("takes writes again, too")), "{said:?}");
        assert_eq!(status(&mut first), vec![well("read-write"); 2]);
        assert_eq!(notes(&mut first), 0);
        // And the way back.
        other.batch_execute(READ_ONLY).expect(READ_ONLY);
        let (_, error) = status(&mut first).remove(0);
        assert!(error.is_some_and(|error| error.contains("database \"Se\"cond\"")));
        first.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert_eq!((notes(&mut first), notes(&mut other)), (0, 0));
        Ok(())
    });
}

/// The second cluster has not all nodes of the first: what it opens is not all, and the first is noted as it was.
#[test]
fn a_cluster_that_is_opened_in_part_keeps_its_note() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let name = cluster.database();
        let mut first = cluster.connect(0)?;
        drop(second(&cluster, 1)?);
        first.batch_execute(READ_ONLY).expect(READ_ONLY);
        let mut heard = Heard::in_database(&cluster, 0, SECOND)?;
        heard.client.batch_execute(READ_WRITE).expect(READ_WRITE);
        let said = heard.take();
        let told = said.iter().find(|text| text.contains(&format!("database \"{name}\"")));
        assert!(told.is_some_and(|text| text.contains("in part")), "{said:?}");
        let states = status(&mut first);
        assert_eq!(notes(&mut first), 1);
        assert_eq!(states[2], ("read-only".to_owned(), None));
        for (state, error) in &states[..2] {
            assert_eq!(state, "read-write");
            assert!(
                error.as_ref().is_some_and(|error| error.contains("another database")),
                "{error:?}"
            );
        }
        first.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert_eq!(notes(&mut first), 0);
        Ok(())
    });
}

/// A table of that name which is none of the extension's is looked into by nobody: what reads it acts as a superuser.
#[test]
fn a_table_of_somebody_elses_is_not_read() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.coordinator().execute("CREATE DATABASE trap")?;
        let mut trap = cluster.coordinator().connect_params().database("trap").connect()?;
        trap.batch_execute(
            "CREATE SCHEMA citus_fence; \
             CREATE FUNCTION citus_fence.spring() RETURNS boolean LANGUAGE plpgsql AS $$ \
               BEGIN RAISE LOG 'sprung'; RETURN true; END $$; \
             CREATE VIEW citus_fence.cluster_read_only AS SELECT citus_fence.spring() AS only_row, \
               now() AS asked_at, 'x'::name AS asked_by",
        )
        .expect("a trap");
        let mut client = cluster.connect(0)?;
        client.batch_execute("SELECT alter_system_read_only()").expect("a read-only node");
        let told = status(&mut client);
        assert_eq!(told[0], ("read-only".to_owned(), None), "{told:?}");
        let mut heard = Heard::on(&cluster, 0)?;
        heard.client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(!heard.take().iter().any(|text| text.contains("trap")));
        assert!(!cluster.coordinator().log().contains("LOG:  sprung"));
        // It is one.
        trap.batch_execute("SELECT * FROM citus_fence.cluster_read_only").expect("a view");
        assert!(cluster.coordinator().log().contains("LOG:  sprung"));
        Ok(())
    });
}
