//! `citus-fence dump` under load: one moment over all nodes, and readable without this program.

mod common;

use common::{dump_command, fresh_database, load, manifest, run};
use fence_tests::{Bank, Cluster, PATIENCE, on_each_engine, wait_until_free};
use test_cluster::postgres::Client;

/// Dumps that must all be exact.
const ROUNDS: usize = 5;
/// Dumps of nodes one after the other, within which damage must show.
const CONTROL_ROUNDS: usize = 5;
/// What is committed between two nodes of the control: what makes its damage certain.
const BETWEEN: u64 = 20;

/// What is wrong with the books, as far as two plain tables tell: the total, transfers that are half there, and
/// accounts whose balance is not what their entries make of it.
fn books(client: &mut Client, opening: i64) -> (i64, i64, i64) {
    let row = client
        .query_one(
            &format!(
                "SELECT (SELECT sum(balance)::bigint FROM accounts),
                        (SELECT count(*) FROM (SELECT transfer_id FROM entries GROUP BY 1
                                               HAVING count(*) <> 2 OR sum(amount) <> 0) half),
                        (SELECT count(*) FROM accounts a WHERE balance <> {opening} + coalesce(
                            (SELECT sum(amount) FROM entries e WHERE e.account_id = a.id), 0))"
            ),
            &[],
        )
        .expect("the books");
    (row.get(0), row.get(1), row.get(2))
}

const PLAIN: &str = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE entries (account_id bigint NOT NULL, transfer_id text NOT NULL, amount bigint NOT NULL,
                          PRIMARY KEY (account_id, transfer_id))";

#[test]
fn every_dump_is_one_moment_and_nodes_read_one_after_the_other_are_not() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(200, PATIENCE)?;
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = cluster.coordinator();
        for round in 0..ROUNDS {
            writers.wait_for_more(10, PATIENCE)?;
            let dir = folder.path().join(format!("dump{round}"));
            let compress = if round % 2 == 0 { "zstd" } else { "none" };
            let ended = run(&mut dump_command(coordinator.port(), &dir, &["--compress", compress]));
            let ended = ended.expect(0);
            assert!(ended.out.contains("tables of 3 nodes"), "{ended:?}");
            assert_eq!(fence_command::verify_dump(&dir).expect("a dump").damaged, [""; 0]);

            let mut client = fresh_database(coordinator, "loaded")?;
            client.batch_execute(PLAIN).expect("tables");
            load(coordinator, "loaded", &dir, "accounts", "accounts")?;
            load(coordinator, "loaded", &dir, "entries", "entries")?;
            assert_eq!(books(&mut client, 1_000), (bank.expected_total(), 0, 0), "round {round}");
            // Nothing is counted twice, and nothing is counted that is not in the files.
            let rows: i64 =
                client.query_one("SELECT count(*) FROM entries", &[]).expect("rows").get(0);
            let manifest = manifest(&dir);
            let files = manifest["files"].as_array().expect("files").iter();
            let told: i64 =
                files.filter(|f| f["table"] == "entries").filter_map(|f| f["rows"].as_i64()).sum();
            assert_eq!(told, rows);
        }

        // The same without the fence: each node is read at a moment of its own.
        let mut damaged = false;
        for _ in 0..CONTROL_ROUNDS {
            let mut client = fresh_database(coordinator, "loaded")?;
            client.batch_execute(PLAIN).expect("tables");
            let mut halves = Vec::new();
            for node in 0..cluster.nodes().len() {
                writers.wait_for_more(BETWEEN, PATIENCE)?;
                let mut keeper = cluster.connect(node)?;
                keeper
                    .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SET citus.override_table_visibility = off")
                    .expect("a transaction");
                halves.push(
                    keeper
                        .query_one("SELECT pg_export_snapshot()", &[])
                        .map(|row| (keeper, row.get(0)))
                        .expect("one"),
                );
            }
            let snapshots: Vec<String> =
                halves.iter().map(|(_, snapshot)| String::clone(snapshot)).collect();
            let audit = bank.audit_under(&cluster, &snapshots)?;
            damaged |= !audit.is_clean();
        }
        assert!(
            damaged,
            "nodes that are read one after the other show no damage: this test shows nothing"
        );
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        wait_until_free(&cluster, PATIENCE)
    });
}
