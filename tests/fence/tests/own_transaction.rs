//! A call that waits for writers, in a transaction that is one: its COMMIT, or the call itself, would wait for itself.

use std::time::{Duration, Instant};

use fence_tests::{
    Client, Cluster, Engine, Spread, call, on_each_engine, refusal, start, state, words,
};

/// Far less than the blocks that are asked for.
const AT_ONCE: Duration = Duration::from_secs(4);

const CALLS: [&str; 7] = [
    "SELECT citus_block_writes_for_backup(8000)",
    "SELECT citus_backup_block_start(8000)",
    "SELECT citus_backup_block_start(8000, 'all')",
    "SELECT citus_set_cluster_read_only()",
    "SELECT alter_system_read_only(false)",
    "SELECT citus_fence.lock_gate('client')",
    "SELECT public.citus_promote_clone_and_rebalance(1)",
];

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
}

#[test]
fn a_transaction_that_has_written_is_refused() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        run(&mut client, "CREATE TABLE own (n int)");
        let writes = [
            // Only on another node; on two of them, so that it commits in two phases.
            spread.update(&cluster, 0),
            format!("{}; {}", spread.update(&cluster, 0), spread.update(&cluster, 1)),
            // Here; a number alone; undone again.
            "INSERT INTO own VALUES (1)".to_owned(),
            "SELECT txid_current()".to_owned(),
            "SAVEPOINT a; INSERT INTO own VALUES (2); ROLLBACK TO a".to_owned(),
        ];
        for write in &writes {
            for call in CALLS {
                run(&mut client, &format!("BEGIN; {write}"));
                let asked = Instant::now();
                let error = refusal(&mut client, call);
                assert_eq!(error.code().code(), "25001", "{write}; {call}: {error:?}");
                assert!(asked.elapsed() < AT_ONCE, "{write}; {call}: {:?}", asked.elapsed());
                run(&mut client, "ROLLBACK");
                assert_eq!(state(&mut client), "inactive", "{write}; {call}");
            }
        }
        // Outside of a transaction block too, where a statement writes first.
        for call in ["citus_block_writes_for_backup(8000)", "citus_backup_block_start(8000)"] {
            let error = refusal(&mut client, &format!("INSERT INTO own SELECT {call}::int"));
            assert_eq!(error.code().code(), "25001", "{error:?}");
        }
        // One that has locked what the block needs: it would wait for its own caller, and blame him.
        for lock in ["pg_dist_node IN EXCLUSIVE MODE", "pg_dist_transaction IN ROW SHARE MODE"] {
            for call in ["citus_backup_block_start(8000)", "citus_export_cluster_snapshot()"] {
                run(&mut client, &format!("BEGIN; LOCK TABLE pg_catalog.{lock}"));
                let asked = Instant::now();
                let error = refusal(&mut client, &format!("SELECT {call}"));
                assert_eq!(error.code().code(), "25001", "{lock}; {call}: {error:?}");
                assert!(error.message().contains("has locked pg_dist_"), "{lock}: {error:?}");
                assert!(asked.elapsed() < AT_ONCE, "{lock}; {call}: {:?}", asked.elapsed());
                run(&mut client, "ROLLBACK");
            }
        }
        run(&mut client, "BEGIN; LOCK TABLE pg_catalog.pg_dist_node IN ACCESS SHARE MODE");
        let number = start(&mut client, "8000");
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        run(&mut client, "COMMIT");
        // The control: one that has only read begins a block, and may end it.
        run(&mut client, "BEGIN; SELECT * FROM own; SELECT count(*) FROM spread");
        let number = start(&mut client, "8000");
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        run(&mut client, "COMMIT");
        // A writer may end somebody else's block: it waits for nothing.
        let number = start(&mut cluster.connect(0)?, "60000");
        run(&mut client, "BEGIN; INSERT INTO own VALUES (3)");
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        run(&mut client, "COMMIT");
        Ok(())
    });
}

/// Citus' own restore point would wait for the end of the block, and be made outside of it.
#[test]
fn citus_own_restore_point_is_refused_under_a_block() {
    on_each_engine(|engine: Engine| {
        if engine != Engine::Citus {
            // Only Citus has it.
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        run(
            &mut client,
            "SET statement_timeout = '20s'; \
             CREATE FUNCTION nightly() RETURNS pg_lsn LANGUAGE plpgsql AS \
             $$ BEGIN RETURN citus_create_restore_point('inside'); END $$; \
             CREATE SCHEMA other; CREATE FUNCTION other.citus_create_restore_point(text) \
             RETURNS int LANGUAGE sql AS 'SELECT 1'; \
             PREPARE again AS SELECT citus_create_restore_point('again')",
        );
        let calls = ["SELECT citus_create_restore_point('n')", "SELECT nightly()", "EXECUTE again"];
        // The control, which also lets them be planned and remembered.
        for call in calls {
            run(&mut client, call);
        }
        let number = start(&mut client, "60000");
        for call in calls {
            let asked = Instant::now();
            let error = refusal(&mut client, call);
            assert_eq!(error.code().code(), "55006", "{call}: {error:?}");
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains("citus_backup_restore_point"), "{call}: {error:?}");
            assert!(asked.elapsed() < AT_ONCE, "{call}: {:?}", asked.elapsed());
        }
        run(&mut client, "EXPLAIN SELECT citus_create_restore_point('n')");
        // A function of somebody's that merely has the name is none of Citus'.
        run(&mut client, "SELECT other.citus_create_restore_point('n')");
        run(&mut client, "SELECT * FROM citus_backup_restore_point('ours')");
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        for call in calls {
            run(&mut client, call);
        }
        Ok(())
    });
}
