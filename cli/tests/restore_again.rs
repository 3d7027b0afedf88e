//! The same backup, restored to the same places a second time.

mod common;

use std::fs;

use common::backup::{backup, finish, restore_all};
use common::run;
use fence_tests::{Bank, on_each_engine};
use test_cluster::{Cluster, Places, Result, StopMode};

fn empty(places: &Places, nodes: &[usize]) {
    for node in nodes {
        fs::remove_dir_all(places.nodes()[*node].data_dir()).expect("its end");
    }
}

/// A node that is forgotten goes on from the first time, with what was written there since, and belongs to the same restore.
#[test]
fn a_node_that_was_used_is_not_taken_for_one_that_was_restored_anew() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 30, 1_000)?;
        let dir = backup(&cluster, "again")?;
        let places = cluster.places()?;
        let all = || run(&mut restore_all(&dir, &places, &[]));
        let start = || -> Result<()> {
            places.configure()?;
            places.start()
        };
        let stop = || -> Result<()> {
            places.nodes().iter().try_for_each(|node| node.stop(StopMode::Fast))
        };
        let port = places.nodes()[0].port();
        all().expect(0);
        start()?;
        finish(port, &[]).expect(0);
        // Once more, which is no other restore.
        finish(port, &[]).expect(0);
        places.nodes()[2].execute(
            "SET citus.enable_ddl_propagation = off; CREATE TABLE written_since (n int)",
        )?;
        stop()?;

        empty(&places, &[0, 1]);
        all().expect(0);
        start()?;
        let worker = places.nodes()[2].port().to_string();
        for _ in 0..2 {
            finish(port, &[]).expect(1).complains_of(&[
                "nothing has been decided",
                &worker,
                "node 0, 1",
                "empty the data directories of all",
            ]);
        }
        stop()?;
        empty(&places, &[0, 1, 2]);
        all().expect(0);
        start()?;
        finish(port, &[]).expect(0);
        let audit = bank.audit(&places.into_cluster(), std::iter::empty())?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
}
