//! An upgrade while a block is active, or while nodes are read-only.

use fence_tests::{
    BLOCK, Client, Cluster, Engine, PATIENCE, UNBLOCK, call, in_background, on_each_engine,
    prove_usable, refusal, state, wait_until,
};
use test_cluster::{Result, whole_matrix};
use upgrade_tests::{current, recreate, released, versions};

const UPDATE: &str = "ALTER EXTENSION citus_fence UPDATE";

fn old_cluster(engine: Engine) -> Result<(Cluster, String)> {
    let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
    let oldest = released().swap_remove(0);
    recreate(&cluster, &oldest)?;
    Ok((cluster, oldest))
}

fn waits_for_a_lock(client: &mut Client) -> bool {
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                 WHERE query LIKE 'ALTER EXTENSION%' AND wait_event_type = 'Lock')";
    client.query_one(waits, &[]).expect("an answer").get(0)
}

/// A plain block holds what is distributed: on Citus the upgrade is, on the embedded catalog it is each
/// node's own.  A block of all writers holds it everywhere.
#[test]
fn an_upgrade_under_a_block_goes_through_or_waits() {
    on_each_engine(|engine| {
        let (cluster, oldest) = old_cluster(engine)?;
        let mut client = cluster.connect(0)?;
        let modes: &[&str] = if whole_matrix() { &["2pc", "all"] } else { &["2pc"] };
        for mode in modes {
            client
                .batch_execute(&format!("SET citus_fence.block_mode = '{mode}'"))
                .expect("a mode");
            assert!(call(&mut client, BLOCK));
            let update = in_background(&cluster, 0, &[UPDATE.to_owned()]);
            if engine == Engine::Citus || *mode == "all" {
                wait_until("the upgrade to wait for a lock", PATIENCE, || {
                    waits_for_a_lock(&mut client).then_some(())
                })?;
                assert!(!update.is_finished(), "it passed the block");
                assert_eq!(versions(&cluster)?, [oldest.as_str(), oldest.as_str()]);
                assert_eq!(state(&mut client), "active");
                assert!(call(&mut client, UNBLOCK));
                update.join().expect("no panic").expect("the upgrade, after the block");
            } else {
                update.join().expect("no panic").expect("the upgrade, under the block");
                assert_eq!(state(&mut client), "active");
                assert!(call(&mut client, UNBLOCK), "today's functions end the block of before");
            }
            assert_eq!(versions(&cluster)?[0], current());
            if engine == Engine::Embedded {
                // Nobody takes the upgrade to the other node, and that is told.
                let refused = refusal(&mut client, BLOCK);
                assert_eq!(refused.code().code(), "55000", "{refused}");
                assert!(refused.message().contains(&oldest), "{refused}");
                cluster.node(1).execute(UPDATE)?;
            }
            prove_usable(&cluster)?;
            recreate(&cluster, &oldest)?;
        }
        Ok(())
    });
}

#[test]
fn an_upgrade_of_a_read_only_node_is_refused_and_changes_nothing() {
    on_each_engine(|engine| {
        let (cluster, oldest) = old_cluster(engine)?;
        // Citus takes the upgrade from the coordinator to a worker that refuses it.
        let nodes: &[usize] = match engine {
            Engine::Citus if whole_matrix() => &[0, 1],
            Engine::Citus => &[1],
            Engine::Embedded => &[0],
        };
        for node in nodes {
            cluster.node(*node).query("SELECT alter_system_read_only()")?;
            let refused = refusal(&mut cluster.connect(0)?, UPDATE);
            assert_eq!(refused.code().code(), "25006", "{refused}");
            let hint = refused.hint().unwrap_or_default();
            assert!(hint.contains("SELECT alter_system_read_write()"), "{hint}");
            assert_eq!(versions(&cluster)?, [oldest.as_str(), oldest.as_str()]);

            cluster.node(*node).query("SELECT alter_system_read_write()")?;
            cluster.coordinator().execute(UPDATE)?;
            assert_eq!(versions(&cluster)?[0], current());
            recreate(&cluster, &oldest)?;
        }
        Ok(())
    });
}
