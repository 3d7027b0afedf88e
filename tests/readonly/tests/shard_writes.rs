//! Which statements on distributed tables pass the clients' gate of the node where the client is, and which do
//! not need to.

use readonly_tests::{Engine, assert_untouched, on_each_engine, refusal, single};

/// Citus' plans of these look like reads: what tells them apart is the right that they ask for.
const WRITES: [&str; 7] = [
    "UPDATE spread SET n = 1 WHERE id = 1",
    "SELECT * FROM spread WHERE id = 1 FOR UPDATE",
    "SELECT * FROM spread WHERE id = 1 FOR KEY SHARE",
    "SELECT * FROM reference FOR SHARE",
    "WITH gone AS (DELETE FROM spread WHERE id = 1 RETURNING 1) SELECT count(*) FROM gone",
    "WITH locked AS MATERIALIZED (SELECT * FROM spread WHERE id = 1 FOR UPDATE) SELECT count(*) FROM locked",
    "SELECT count(*) FROM (SELECT * FROM spread WHERE id = 1 FOR UPDATE) AS locked",
];
const READS: [&str; 5] = [
    "SELECT * FROM spread WHERE id = 1",
    "SELECT count(*) FROM spread",
    "SELECT count(*) FROM spread JOIN reference USING (id)",
    "SELECT count(*) FROM spread WHERE id IN (SELECT n FROM spread ORDER BY n LIMIT 3)",
    "WITH few AS MATERIALIZED (SELECT * FROM spread LIMIT 3) SELECT count(*) FROM few",
];

#[test]
fn row_locks_and_modifying_queries_pass_the_clients_gate() {
    on_each_engine(|engine: Engine| {
        // The embedded catalog has no planner: what goes to a shard is a call of a function.
        if engine == Engine::Embedded {
            return Ok(());
        }
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        node.execute(
            "CREATE TABLE spread (id bigint PRIMARY KEY, n bigint);
             CREATE TABLE reference (id bigint PRIMARY KEY);
             SELECT create_distributed_table('spread', 'id');
             SELECT create_reference_table('reference');
             INSERT INTO spread SELECT i, i FROM generate_series(1, 10) i;
             INSERT INTO reference VALUES (1)",
        )?;
        let mut closer = node.connect()?;
        closer.batch_execute("BEGIN; SELECT citus_fence.lock_gate('client')").expect("a gate");
        let mut client = node.connect()?;
        client.batch_execute("SET lock_timeout = '200ms'").expect("a setting");
        for write in WRITES {
            let error = refusal(&mut client, write);
            assert_eq!(error.code().code(), "55P03", "{write}: {error:?}");
        }
        for read in READS {
            client.batch_execute(read).unwrap_or_else(|error| {
                panic!("{read}: {}", test_cluster::describe(&error));
            });
        }
        closer.batch_execute("COMMIT").expect("an open gate");
        for statement in WRITES.iter().chain(&READS) {
            client.batch_execute(statement).expect(statement);
        }
        assert_untouched(node)
    });
}
