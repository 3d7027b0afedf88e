//! Faults at every step of a split. Whatever happens, the cluster comes to one of two ends: as it was before, or with
//! the split done; and the second can always be had by calling again.

use std::time::Duration;

use test_cluster::{Engine, PATIENCE, Replica, Result, prepared_transactions, wait_until};

use crate::bed::{Bed, SOURCE};
use crate::fault::{Fault, Victim, is_driven};
use crate::how::{Call, How};
use crate::kind::Kind;
use crate::load::Load;
use crate::stand::{NO_WAY_BACK, STEPS, Stand};

/// How long what lasts is given to do harm.
const LASTS: Duration = Duration::from_secs(3);
/// Within this time after a fault is over there is one of the ends, by itself.
const SETTLES: Duration = Duration::from_secs(60);
/// Calls again that may be refused, as while a driver is still about to end.
const CALLS: usize = 5;
/// Turns that prove that writers go on.
const TURNS: u64 = 2;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The step that is about to be written down when it strikes: the one before it is done.
    pub before: &'static str,
    /// Or as soon as it is written down, in the midst of it.
    pub midst: bool,
    /// What happens.
    pub fault: Fault,
}

/// How it ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The replica streams on, the writers go on, nothing is left.
    AsBefore,
    /// The new node has its shards.
    Done,
    /// Neither: a call is awaited, and finishes it.
    Waiting,
}

/// A row per step, each with another fault, so that every fault and every victim has one.
pub fn usual() -> Vec<Case> {
    let rows = [
        ("checked", false, Fault::EndCaller),
        ("near", false, Fault::Crash(Victim::Source)),
        ("prepared", true, Fault::KillDriver),
        ("caught_up", false, Fault::Cut(Victim::Clone)),
        ("caught_up", true, Fault::Immediate(Victim::Other)),
        ("promoting", false, Fault::Crash(Victim::Coordinator)),
        ("promoted", false, Fault::Crash(Victim::Clone)),
        ("committing", false, Fault::Crash(Victim::Source)),
        ("committing", true, Fault::Freeze(Victim::Other)),
        ("released", false, Fault::Silence(Victim::Source)),
        ("cleaned", false, Fault::EndDriver),
    ];
    rows.map(|(before, midst, fault)| Case { before, midst, fault }).into()
}

/// Every fault before and in every step.
pub fn whole() -> Vec<Case> {
    let mut all = Vec::new();
    for before in &STEPS[1..] {
        for midst in [false, true] {
            all.extend(Fault::all().into_iter().map(|fault| Case { before, midst, fault }));
        }
    }
    all
}

impl Case {
    /// Runs it on a cluster of its own; how it ended by itself.
    ///
    /// # Panics
    /// When anything is not as it has to be.
    pub fn run(self, engine: Engine) -> Result<End> {
        let mut bed = Bed::make(engine, self.fault.needs_links())?;
        let replica = bed.replica()?;
        let kinds = [Kind::Insert, Kind::AllShards, Kind::Slow];
        let nodes: Vec<usize> = (0..bed.cluster.nodes().len()).collect();
        let load = Load::start(&bed.cluster, &bed.tables, &nodes, &kinds, true)?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        load.wait_for_each(TURNS, PATIENCE)?;

        let call = self.strike(&bed, &replica, id)?;
        let end = self.settle(&bed, &replica, id, &call)?;
        println!("{}: {self:?} ended by itself as {end:?}", engine.name());
        // Only who has ended the driver himself has to call again.
        assert!(end != End::Waiting || self.fault == Fault::EndDriver, "{self:?}: came to no end");
        if self.is_past_return() {
            assert_ne!(end, End::AsBefore, "{self:?}: a promoted clone went back");
        }
        if end == End::AsBefore {
            load.wait_for_each(TURNS, PATIENCE)?;
            assert!(replica.server().query_value("SELECT pg_is_in_recovery()")? == "t", "{self:?}");
            bed.cluster.wait_in_step(&replica, PATIENCE)?;
        }
        if end != End::Done {
            call_again(&bed, id)?;
            assert!(is_done(&bed, id)?, "{self:?}: a call that succeeded has not done it");
        }
        let node = bed.cluster.adopt(replica);
        load.wait_for_each(TURNS, PATIENCE)?;
        let at_new = Load::start(&bed.cluster, &bed.tables, &[node], &kinds, true)?;
        at_new.wait_for_each(TURNS, PATIENCE)?;
        let mut book = load.stop();
        book.add(at_new.stop());
        bed.recover()?;
        let audit = bed.audit(&book)?;
        assert!(audit.is_clean(), "{self:?}, {end:?}: {audit}");
        assert!(
            book.writers.iter().all(|writer| !writer.hung),
            "{self:?}: a writer came to no end"
        );
        Ok(end)
    }

    /// Whether the clone may be promoted by then.
    fn is_past_return(self) -> bool {
        let place = |step: &str| STEPS.iter().position(|known| *known == step);
        if self.midst {
            place(self.before) >= place(NO_WAY_BACK)
        } else {
            place(self.before) > place(NO_WAY_BACK)
        }
    }

    /// Calls, and strikes when it is time.
    fn strike(self, bed: &Bed, replica: &Replica, id: i32) -> Result<Call> {
        let mut stand = Stand::before(&bed.cluster, self.before)?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        let lasting = if self.midst {
            stand.let_go()?;
            wait_until("the step to be written down", PATIENCE, || {
                has_come_to(bed, id, self.before).then_some(())
            })?;
            self.fault.strike(&bed.cluster, replica)?
        } else {
            let lasting = self.fault.strike(&bed.cluster, replica)?;
            // It goes on while the fault lasts. Nobody is to be reached at a coordinator that stands still.
            if self.fault == Fault::Freeze(Victim::Coordinator) {
                drop(stand);
            } else {
                stand.let_go()?;
            }
            lasting
        };
        if lasting.lasts() {
            // Whatever it comes to meanwhile.
            let _ = wait_until("the call's end", LASTS, || call.has_ended().then_some(()));
        }
        lasting.heal()?;
        Ok(call)
    }

    /// Waits for one of the ends.
    fn settle(self, bed: &Bed, replica: &Replica, id: i32, call: &Call) -> Result<End> {
        let ended = wait_until("one of the two ends", SETTLES, || {
            // An operator's or the daemon's part: in-doubt transactions of writers hold locks.
            let _ = bed.cluster.recover_prepared();
            if is_done(bed, id).ok()? {
                return Some(End::Done);
            }
            let idle = call.has_ended() && !is_driven(&bed.cluster).ok()?;
            (idle && is_as_before(bed, replica, id).ok()?).then_some(End::AsBefore)
        });
        Ok(ended.unwrap_or(End::Waiting))
    }
}

/// The step that a split has come to; none when its row is gone.
pub fn step(bed: &Bed, id: i32) -> Result<Option<String>> {
    let query = format!("SELECT step::text FROM citus_fence.clone WHERE clone_nodeid = {id}");
    Ok(bed.cluster.coordinator().query(&query)?.into_iter().flatten().flatten().next())
}

/// Whether it has come to that step, or further.
pub fn has_come_to(bed: &Bed, id: i32, wanted: &str) -> bool {
    let place = |step: &str| STEPS.iter().position(|known| *known == step);
    matches!(step(bed, id), Ok(Some(step)) if place(&step) >= place(wanted))
}

/// The last step is written down, or the row is gone and the node is there.
pub fn is_done(bed: &Bed, id: i32) -> Result<bool> {
    match step(bed, id)?.as_deref() {
        Some("cleaned") => Ok(true),
        Some(_) => Ok(false),
        None => {
            let query = format!(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE nodeid = {id} AND isactive)"
            );
            Ok(bed.cluster.coordinator().query_value(&query)? == "t")
        }
    }
}

/// The registry says so, the replica streams and is reserved no more, and no switch is prepared: Citus' own names begin with
/// `citus_` and a group.
pub fn is_as_before(bed: &Bed, replica: &Replica, id: i32) -> Result<bool> {
    const GATE: &str = "SELECT state FROM citus_fence.stat_gate";
    let streaming = format!(
        "SELECT count(*) = 1 FROM pg_stat_replication
          WHERE application_name = '{}' AND state = 'streaming'",
        replica.server().name()
    );
    let is_ours = |gid: &str| {
        !gid.strip_prefix("citus_")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Ok(step(bed, id)?.as_deref() == Some(STEPS[0])
        && replica.server().query_value(GATE)? == "standby"
        && bed.cluster.node(SOURCE).query_value(&streaming)? == "t"
        && replica.server().query_value("SELECT pg_is_in_recovery()")? == "t"
        && !prepared_transactions(&bed.cluster)?.iter().any(|left| is_ours(&left.gid)))
}

/// Calls until it succeeds.
fn call_again(bed: &Bed, id: i32) -> Result<()> {
    let mut errors = Vec::new();
    for _ in 0..CALLS {
        let called = How::Ours.split(&bed.cluster, id).end();
        match called.outcome {
            Ok(()) => return Ok(()),
            Err(error) => errors.push(error),
        }
        // What is left of the last driver goes by itself.
        let _ =
            wait_until("no driver", PATIENCE, || (!is_driven(&bed.cluster).ok()?).then_some(()));
    }
    panic!("{CALLS} more calls failed: {errors:#?}");
}
