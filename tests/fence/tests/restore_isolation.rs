//! Restored copies stay among themselves: the recipe, run while production goes on, touches nothing in
//! production.  The control starts the copies without it.

use fence_tests::{
    BLOCK, Cluster, Engine, PATIENCE, Result, Spread, StuckCommit, UNBLOCK, call, on_each_engine,
    wait_until,
};
use test_cluster::{Restore, WalMethod};

fn copies(cluster: &Cluster, round: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut client = cluster.connect(0)?;
    assert!(call(&mut client, BLOCK));
    let mut copies = Vec::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let copy = cluster.copy_target(round, number)?;
        node.base_backup(&copy, WalMethod::Stream)?;
        copies.push(copy);
    }
    assert!(call(&mut client, UNBLOCK));
    Ok(copies)
}

#[test]
fn the_recipe_touches_nothing_in_production_and_a_plain_start_does() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.recover_2pc_interval", "1s")
            .build()?;
        let spread = Spread::create(&cluster)?;
        let for_recipe = copies(&cluster, "recipe")?;
        let for_control = copies(&cluster, "control")?;

        // Production is in the middle of a two-phase commit of which the copies know nothing.
        let stuck = StuckCommit::begin(&cluster, 0, &spread.two_phase(&cluster))?;
        let restored = cluster.restore(&for_recipe)?;
        restored.recover_prepared()?;
        assert!(
            stuck.is_prepared(&cluster)?,
            "the restored copies ended a transaction of production"
        );
        assert_eq!(spread.values(&restored)?, [0, 0]);

        let mut naive = Restore::new(&cluster, &for_control)?;
        naive.start()?;
        match engine {
            // Its daemon does it by itself, once a session has used Citus.
            Engine::Citus => naive.nodes()[0].execute("SELECT count(*) FROM spread")?,
            Engine::Embedded => {
                naive.nodes()[0].execute("SELECT recover_prepared_transactions()")?
            }
        }
        wait_until("the damage that a copy does when it is just started", PATIENCE, || {
            (!stuck.is_prepared(&cluster).ok()?).then_some(())
        })?;
        drop(naive);
        let _ = stuck.go_on()?;
        assert_eq!(spread.values(&cluster)?, [0, 0], "an acknowledged write survived after all");
        Ok(())
    });
}
