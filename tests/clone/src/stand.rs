//! Has a split stand still right before a step: it writes each step into its registry, `citus_fence.clone`, before it
//! does it, and a trigger there waits for a lock that the test holds.

use test_cluster::postgres::Client;
use test_cluster::{Cluster, ConnectParams, Result, wait_until};

use crate::bed::SPLIT_PATIENCE;
use crate::how::Call;

/// The steps that a split writes down, in their order. The first is there with the registration.
pub const STEPS: [&str; 10] = [
    "registered",
    "checked",
    "near",
    "prepared",
    "caught_up",
    "promoting",
    "promoted",
    "committing",
    "released",
    "cleaned",
];

/// Once this is written down there is only the way forward: nobody knows whether the clone has heard it.
pub const NO_WAY_BACK: &str = "promoting";

/// The lock: a number that nobody else has.
const LOCK: (i32, i32) = (20_260_101, 1);

/// A place to stand, as long as this lives. Not for half a minute: a split gives up a note in its registry that takes
/// longer, and goes back where it still can.
pub struct Stand {
    holder: Client,
    params: ConnectParams,
    step: &'static str,
}

impl Stand {
    /// Makes the place, before the split comes there.
    pub fn before(cluster: &Cluster, step: &'static str) -> Result<Stand> {
        let (class, number) = LOCK;
        let coordinator = cluster.coordinator();
        coordinator.execute(&format!(
            "SET citus.enable_ddl_propagation = off;
             CREATE OR REPLACE FUNCTION public.stand_still() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN PERFORM pg_catalog.pg_advisory_xact_lock({class}, {number}); RETURN NEW; END $$;
             DROP TRIGGER IF EXISTS stand_still ON citus_fence.clone;
             CREATE TRIGGER stand_still BEFORE UPDATE ON citus_fence.clone FOR EACH ROW
                 WHEN (NEW.step::text = '{step}') EXECUTE FUNCTION public.stand_still()"
        ))?;
        let params = coordinator.connect_params();
        let mut holder = params.connect()?;
        holder
            .batch_execute(&format!("SELECT pg_catalog.pg_advisory_lock({class}, {number})"))
            .expect("a lock that nobody has");
        Ok(Stand { holder, params, step })
    }

    /// Waits until the split stands there.
    pub fn wait(&mut self, call: &Call) -> Result<()> {
        let (class, number) = LOCK;
        let look = format!(
            "SELECT count(*) FROM pg_catalog.pg_locks
              WHERE locktype = 'advisory' AND classid = {class} AND objid = {number} AND NOT granted"
        );
        wait_until(&format!("the split to come to {}", self.step), SPLIT_PATIENCE, || {
            let waiting: i64 = self.holder.query_one(&look, &[]).ok()?.get(0);
            assert!(waiting > 0 || !call.has_ended(), "the call ended before {}", self.step);
            (waiting > 0).then_some(())
        })
    }

    /// Waits until the split stands there no more, because it was given up.
    pub fn wait_until_left(&mut self) -> Result<()> {
        let (class, number) = LOCK;
        let look = format!(
            "SELECT count(*) FROM pg_catalog.pg_locks
              WHERE locktype = 'advisory' AND classid = {class} AND objid = {number} AND NOT granted"
        );
        wait_until(&format!("the split to leave {}", self.step), SPLIT_PATIENCE, || {
            let waiting: i64 = self.holder.query_one(&look, &[]).ok()?.get(0);
            (waiting == 0).then_some(())
        })
    }

    /// Lets the split go on.
    pub fn let_go(self) -> Result<()> {
        let Stand { holder, params, .. } = self;
        drop(holder);
        // The next one that comes here is not to stop.
        let mut client = params.connect()?;
        client
            .batch_execute("DROP TRIGGER IF EXISTS stand_still ON citus_fence.clone")
            .map_err(|error| test_cluster::Error::Environment(test_cluster::describe(&error)))
    }
}
