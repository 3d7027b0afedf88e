//! A call that is cancelled, or runs into its statement_timeout, at each step: before the promotion everything is put
//! back and the next call begins anew; after it the split is finished by itself.

use std::time::Duration;

use clone_tests::fault::is_driven;
use clone_tests::matrix::{is_as_before, is_done};
use clone_tests::stand::{NO_WAY_BACK, STEPS};
use clone_tests::{
    Bed, Call, Engine, Fault, How, PATIENCE, Result, Stand, on_each_engine, ours_exists, wait_until,
};
use test_cluster::Replica;

/// Long enough to come to any step.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Cancel,
    Timeout,
}

/// Calls, and has the call end when the split is about to come to `step`; its error.
fn stop(bed: &Bed, replica: &Replica, id: i32, step: &'static str, end: End) -> Result<String> {
    let mut stand = Stand::before(&bed.cluster, step)?;
    let timeout = if end == End::Timeout { TIMEOUT.as_millis() } else { 0 };
    let params = bed.cluster.coordinator().connect_params();
    let statements = [format!("SET statement_timeout = {timeout}"), How::Ours.call(id)];
    let call = Call::in_turn(&params, statements);
    stand.wait(&call)?;
    if end == End::Cancel {
        Fault::CancelCaller.strike(&bed.cluster, replica)?.heal()?;
    }
    wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
    let place = |step: &str| STEPS.iter().position(|known| *known == step);
    if place(step) <= place(NO_WAY_BACK) {
        // Let go before the driver has noticed, it would go on.
        stand.wait_until_left()?;
    }
    stand.let_go()?;
    let error = call.end().outcome.expect_err("a call that was stopped");
    assert!(error.contains("57014") || error.contains("cancel"), "{step}, {end:?}: {error}");
    Ok(error)
}

#[test]
fn a_stopped_call_leaves_everything_as_before_or_done() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let way_back = STEPS.iter().position(|step| *step == NO_WAY_BACK).expect("a step");
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        for step in &STEPS[1..=way_back] {
            let ends: &[End] = match *step {
                "checked" | "promoting" => &[End::Cancel, End::Timeout],
                _ => &[End::Cancel],
            };
            for end in ends {
                let error = stop(&bed, &replica, id, step, *end)?;
                wait_until(&format!("everything as before {step}: {error}"), PATIENCE, || {
                    let idle = !is_driven(&bed.cluster).ok()?;
                    (idle && is_as_before(&bed, &replica, id).ok()?).then_some(())
                })?;
                // Nobody holds a writer.
                let write = "INSERT INTO %s (key, op, part) VALUES (1, 1, 0)";
                for key in 1..=20 {
                    let write = write.replace("(1,", &format!("({key},"));
                    let sql = bed.cluster.shard_sql("writes", key, &write);
                    bed.cluster
                        .coordinator()
                        .execute(&format!("BEGIN; SET LOCAL lock_timeout = '5s'; {sql}; COMMIT"))?;
                }
            }
        }
        let mut next = Some((replica, id));
        for (number, step) in STEPS[way_back + 1..].iter().enumerate() {
            let (replica, id) = match next.take() {
                Some(first) => first,
                None => {
                    let replica = bed.replica()?;
                    let id = How::Ours.register(&bed.cluster, &replica)?;
                    (replica, id)
                }
            };
            let end = if number == 1 { End::Timeout } else { End::Cancel };
            stop(&bed, &replica, id, step, end)?;
            wait_until("the split", PATIENCE, || is_done(&bed, id).ok()?.then_some(()))?;
            wait_until("no driver", PATIENCE, || (!is_driven(&bed.cluster).ok()?).then_some(()))?;
            bed.cluster.adopt(replica);
        }
        Ok(())
    });
}
