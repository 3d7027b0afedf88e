//! Restored copies stay among themselves: the recipe, run while production goes on, touches nothing in
//! production.  The controls start the copies without it, or without the step in question.

use std::time::Duration;

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

/// The node that subscribes and the one that publishes.
const SUBSCRIBER: usize = 0;
const PUBLISHER: usize = 1;

/// A subscription of one node to another, as users have them and as Citus makes them for a move.
struct Feed<'a>(&'a Cluster);

impl<'a> Feed<'a> {
    fn create(cluster: &'a Cluster, subscription: &str) -> Result<Self> {
        for node in [SUBSCRIBER, PUBLISHER] {
            cluster.node(node).execute("CREATE TABLE fed (id int PRIMARY KEY)")?;
        }
        // Citus takes publications to all nodes unless told not to.
        cluster.node(PUBLISHER).execute(
            "SET citus.enable_ddl_propagation = off; CREATE PUBLICATION feed FOR TABLE fed",
        )?;
        let conninfo = cluster.node(PUBLISHER).connect_params().conninfo().replace('\'', "''");
        cluster.node(SUBSCRIBER).execute(&format!(
            "CREATE SUBSCRIPTION {subscription} CONNECTION '{conninfo}' PUBLICATION feed \
             WITH (slot_name = feed)"
        ))?;
        let feed = Self(cluster);
        feed.publish(1)?;
        feed.wait_for(1)?;
        Ok(feed)
    }

    fn publish(&self, id: i32) -> Result<()> {
        self.0.node(PUBLISHER).execute(&format!("INSERT INTO fed VALUES ({id})"))
    }

    fn has(&self, id: i32) -> Result<bool> {
        let sql = format!("SELECT count(*) FROM fed WHERE id = {id}");
        Ok(self.0.node(SUBSCRIBER).query_value(&sql)? == "1")
    }

    fn wait_for(&self, id: i32) -> Result<()> {
        wait_until("a row to arrive at production's subscriber", PATIENCE, || {
            self.has(id).ok()?.then_some(())
        })
    }

    /// Whether somebody has the publisher's slot.
    fn is_taken(&self) -> Result<bool> {
        let taken = "SELECT active FROM pg_replication_slots WHERE slot_name = 'feed'";
        Ok(self.0.node(PUBLISHER).query_value(taken)? == "t")
    }

    /// Production's subscriber stops for a while, as after any lost connection.
    fn pause(&self, subscription: &str) -> Result<()> {
        self.0.node(SUBSCRIBER).execute(&format!("ALTER SUBSCRIPTION {subscription} DISABLE"))?;
        wait_until("production's subscriber to leave", PATIENCE, || {
            (!self.is_taken().ok()?).then_some(())
        })
    }

    fn go_on(&self, subscription: &str) -> Result<()> {
        self.0.node(SUBSCRIBER).execute(&format!("ALTER SUBSCRIPTION {subscription} ENABLE"))
    }
}

/// How long it is watched that a copy does not do what it does within moments in the control.
const WATCHED: Duration = Duration::from_secs(3);

#[test]
fn a_copied_subscription_takes_nothing_from_production() {
    // A user's own, and one whose name says that Citus made it.
    for name in ["own", "citus_shard_move_subscription_10_11"] {
        on_each_engine(|engine: Engine| {
            let cluster =
                Cluster::builder(engine).workers(1).setting("wal_level", "logical").build()?;
            let feed = Feed::create(&cluster, name)?;
            let for_recipe = copies(&cluster, "recipe")?;
            let for_control = copies(&cluster, "control")?;

            feed.pause(name)?;
            let restored = cluster.restore(&for_recipe)?;
            let left = restored.node(SUBSCRIBER).query(
                "SELECT subname, subenabled::text, coalesce(subslotname, 'none') FROM pg_subscription",
            )?;
            let left: Vec<Vec<&str>> =
                left.iter().map(|row| row.iter().flatten().map(String::as_str).collect()).collect();
            match name {
                "own" => assert_eq!(left, [["own", "false", "none"]], "left to the user"),
                _ => assert!(left.is_empty(), "{left:?}"),
            }
            feed.publish(2)?;
            let taken = wait_until("a copy that takes the slot", WATCHED, || {
                feed.is_taken().ok()?.then_some(())
            });
            assert!(taken.is_err(), "a copy took production's replication slot");
            feed.go_on(name)?;
            feed.wait_for(2)?;
            drop(restored);

            // The control: all of the recipe but that step.
            feed.pause(name)?;
            let mut naive = Restore::new(&cluster, &for_control)?;
            naive.isolate()?;
            naive.start()?;
            naive.rewrite_addresses()?;
            naive.recover_prepared()?;
            naive.end_isolation()?;
            feed.publish(3)?;
            wait_until("a row of production to arrive at the copy", PATIENCE, || {
                let arrived = "SELECT count(*) FROM fed WHERE id = 3";
                (naive.nodes()[SUBSCRIBER].query_value(arrived).ok()? == "1").then_some(())
            })?;
            // It tells the publisher that the row has been taken once that is on its disk.
            wait_until("the slot to be moved past the row", PATIENCE, || {
                let moved = "SELECT confirmed_flush_lsn >= pg_current_wal_lsn() \
                             FROM pg_replication_slots WHERE slot_name = 'feed'";
                (cluster.node(PUBLISHER).query_value(moved).ok()? == "t").then_some(())
            })?;
            drop(naive);
            feed.go_on(name)?;
            feed.publish(4)?;
            feed.wait_for(4)?;
            assert!(!feed.has(3)?, "production lost nothing, so the step would not be needed");
            Ok(())
        });
    }
}
