//! Whole attempts at 1,000 nodes in virtual time, and the order of an attempt's steps.

use std::time::Duration;

use super::{Bounds, Failed, Others, Reason, Silence, Step, Story};
use crate::citus::Node;
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::fence::scripted::{ScriptHome, answer, answer_with, host, nodes, well};
use crate::fence::steps::Barrier::{ClientGate, InternalGate, Tables};
use remote::script::{Script, ScriptPq, ScriptWaiter, hangs, ms, node, open_connections, sent};
use remote::{Connecting, Deadline, Target, Waiter};

const NODES: usize = 1000;

/// What holds two-phase commits back.
pub const TABLES: &[Step] = &[Step::Close(Tables), Step::SameNodes, Step::Flush];
/// What holds every write back.
pub const GATES: &[Step] = &[
    Step::Close(ClientGate),
    Step::Close(InternalGate),
    Step::Close(Tables),
    Step::SameNodes,
    Step::Flush,
];

/// An attempt to hold two-phase commits back, from its first connection on.
fn attempt(
    waiter: &mut ScriptWaiter,
    home: &mut ScriptHome,
    party: &mut Party<ScriptPq>,
    nodes: &[Node],
    targets: &[Target],
    bounds: &Bounds,
) -> Result<Story, Failed> {
    run(TABLES, waiter, home, party, nodes, targets, bounds)
}

/// The same with another list of steps.
fn run(
    steps: &[Step],
    waiter: &mut ScriptWaiter,
    home: &mut ScriptHome,
    party: &mut Party<ScriptPq>,
    nodes: &[Node],
    targets: &[Target],
    bounds: &Bounds,
) -> Result<Story, Failed> {
    let connecting = Connecting::start(waiter, targets, bounds.deadline);
    let extension = Some(env!("CARGO_PKG_VERSION"));
    let others = Others { nodes, connecting, extension, is_citus: true, in_doubt: &[] };
    super::attempt(waiter, steps, home, party, others, bounds)
}

fn bounds(waiter: &ScriptWaiter) -> Bounds {
    Bounds {
        deadline: Deadline::after(waiter, ms(30_000)),
        connect_timeout: ms(3000),
        lock_timeout: ms(1000),
        silence: Silence::HoldMs(305_000),
    }
}

fn targets(scripts: impl IntoIterator<Item = Script>) -> Vec<Target> {
    scripts.into_iter().enumerate().map(|(index, script)| node(&host(index), [script])).collect()
}

/// Latencies from 1 to 250 ms, the same each time: a linear congruential generator's.
fn latencies(seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1 + (state >> 33) % 250
    };
    (0..NODES).map(|_| next()).collect()
}

/// Where in the list of what was done the first or last that contains `what` stands.
fn first(done: &[String], what: &str) -> usize {
    done.iter().position(|line| line.contains(what)).expect(what)
}

fn last(done: &[String], what: &str) -> usize {
    done.iter().rposition(|line| line.contains(what)).expect(what)
}

fn count(done: &[String], what: &str) -> usize {
    done.iter().filter(|line| line.contains(what)).count()
}

const LOCK: &str = "IN EXCLUSIVE MODE";
const WARM_UP: &str = "IN ACCESS SHARE MODE";
const FLUSH: &str = "flush_and_identify()";

#[test]
fn time_follows_the_slowest_node_step_by_step() {
    let [connect, begin, lock, flush, rollback] = [1, 2, 3, 4, 5].map(latencies);
    let targets = targets((0..NODES).map(|index| {
        let answers = [&begin, &lock, &flush, &rollback].map(|latency| answer(latency[index]));
        Script::connects(connect[index]).answers(answers)
    }));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    let story =
        attempt(&mut waiter, &mut home, &mut party, &nodes(NODES), &targets, &bounds).unwrap();

    let slowest = |latencies: &[u64]| ms(*latencies.iter().max().unwrap());
    let both = connect.iter().zip(&begin).map(|(connect, begin)| connect + begin);
    assert_eq!(story.beginning, slowest(&both.collect::<Vec<u64>>()));
    assert_eq!(story.locking, slowest(&lock));
    assert_eq!(story.finishing, slowest(&flush));
    assert_eq!(party.parts().count(), NODES);
    assert_eq!(open_connections(), NODES);

    let before = waiter.now();
    assert!(let_go(&mut waiter, &mut party).is_empty());
    assert_eq!(waiter.now() - before, slowest(&rollback));
    assert_eq!(count(&sent(), ": ROLLBACK"), NODES);
    drop(party);
    assert_eq!(open_connections(), 0);
}

#[test]
fn the_steps_come_in_order() {
    let targets = targets((0..5).map(|_| well(10)));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    attempt(&mut waiter, &mut home, &mut party, &nodes(5), &targets, &bounds).unwrap();
    let done = sent();
    assert!(first(&done, "home: begin") < first(&done, WARM_UP), "while the others connect");
    assert!(last(&done, WARM_UP) < first(&done, "home: lock"), "nobody waits for a cold session");
    assert!(first(&done, "home: prove") < first(&done, "home: lock"), "a copy holds nobody back");
    assert!(first(&done, "home: lock") < first(&done, LOCK), "no node comes or goes from here on");
    assert!(last(&done, LOCK) < first(&done, "home: read nodes"));
    assert!(last(&done, "home: read nodes") < first(&done, FLUSH));
    assert!(last(&done, LOCK) < first(&done, "home: flush"));
    assert_eq!(count(&done, LOCK), 5);
    assert_eq!(count(&done, FLUSH), 5);
}

#[test]
fn nothing_is_begun_on_the_others_where_this_node_cannot_begin() {
    let targets = targets((0..5).map(|_| well(10)));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome { cannot_begin: true, ..ScriptHome::default() };
    let failed = attempt(&mut waiter, &mut home, &mut party, &nodes(5), &targets, &bounds);
    assert!(matches!(failed, Err(Failed::ForNow(_))), "{failed:?}");
    assert_eq!(sent(), ["home: begin"]);
    assert_eq!(open_connections(), 0, "what was being connected is closed");
}

/// What came in through a client's gate may be on its way to an internal one, and both to the tables.
#[test]
fn gates_are_closed_from_the_outside_in() {
    let targets = targets((0..5).map(|_| well(10)));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = Bounds { lock_timeout: ms(5000), ..bounds(&waiter) };
    let mut home = ScriptHome::default();
    let list = nodes(5);
    run(GATES, &mut waiter, &mut home, &mut party, &list, &targets, &bounds).unwrap();
    let done = sent();
    const CLIENT: &str = "lock_gate('client')";
    const INTERNAL: &str = "lock_gate('internal')";
    assert!(first(&done, "home: lock ClientGate") < first(&done, CLIENT));
    assert!(last(&done, CLIENT) < first(&done, "home: lock InternalGate"));
    assert!(first(&done, "home: lock InternalGate") < first(&done, INTERNAL));
    assert!(last(&done, INTERNAL) < first(&done, "home: lock Tables"));
    assert!(last(&done, INTERNAL) < first(&done, LOCK));
    assert!(last(&done, LOCK) < first(&done, FLUSH));
    for (what, times) in [(CLIENT, 5), (INTERNAL, 5), (LOCK, 5)] {
        assert_eq!(count(&done, what), times, "{what}");
    }
    // No cycle through the gates lasts longer than this, whatever the setting.
    let warm_up = &done[first(&done, WARM_UP)];
    assert!(warm_up.contains("SET LOCAL lock_timeout = 1000;"), "{warm_up}");
}

#[test]
fn a_dead_node_costs_its_deadline_and_is_named() {
    let dead = 617;
    let targets = targets((0..NODES).map(|index| match index {
        617 => Script::silent(),
        _ => well(5),
    }));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    let failed = attempt(&mut waiter, &mut home, &mut party, &nodes(NODES), &targets, &bounds);
    let Err(Failed::Passing(error)) = failed else { panic!("{failed:?}") };
    assert!(error.to_string().contains(&host(dead)), "{error}");
    assert_eq!(waiter.now(), bounds.connect_timeout);
    assert_eq!(count(&sent(), LOCK), 0);
}

#[test]
fn an_inactive_node_that_is_dead_is_left_out_and_named() {
    let targets = targets([well(5), Script::silent(), well(5)]);
    let mut list = nodes(3);
    list[1].active = false;
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    attempt(&mut waiter, &mut home, &mut party, &list, &targets, &bounds).unwrap();
    assert_eq!(party.parts().count(), 2);
    assert!(party.absent().join("; ").contains(&host(1)), "{:?}", party.absent());
}

/// A node that is well until it is asked for its lock, which never comes.
fn stuck_at_the_lock() -> [Script; 2] {
    let script = Script::connects(1).answers([answer(1), hangs(), answer(1)]).cancellable(2);
    [script, well(1)]
}

#[test]
fn a_lock_that_does_not_come_ends_the_attempt_everywhere() {
    let stuck = 3;
    let target = |index: usize| match index == stuck {
        true => node(&host(index), stuck_at_the_lock()),
        false => node(&host(index), [well(1)]),
    };
    let targets: Vec<Target> = (0..8).map(target).collect();
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    let before = waiter.now();
    let failed = attempt(&mut waiter, &mut home, &mut party, &nodes(8), &targets, &bounds);
    let Err(Failed::ForNow(Reason { what, .. })) = failed else { panic!("{failed:?}") };
    assert!(what.contains(&host(stuck)), "{what}");
    assert!(waiter.now() - before < bounds.lock_timeout + ms(500));
    assert!(last(&sent(), LOCK) < first(&sent(), "home: let go"));

    assert!(let_go(&mut waiter, &mut party).is_empty());
    let done = sent();
    assert!(
        first(&done, "node-3: SELECT pg_catalog.pg_cancel_backend")
            < last(&done, "node-3: ROLLBACK")
    );
    assert_eq!(count(&done, ": ROLLBACK"), 8);
}

#[test]
fn a_node_that_comes_or_goes_fails_the_attempt() {
    let targets = targets((0..3).map(|_| well(1)));
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome { nodes_change: true, ..ScriptHome::default() };
    let failed = attempt(&mut waiter, &mut home, &mut party, &nodes(3), &targets, &bounds);
    assert!(matches!(failed, Err(Failed::ForNow(_))), "{failed:?}");
    assert_eq!(count(&sent(), FLUSH), 0);
    assert!(let_go(&mut waiter, &mut party).is_empty());
    assert_eq!(count(&sent(), ": ROLLBACK"), 3);
}

/// Whenever it is stopped, every transaction that was begun is ended before it is over.
#[test]
fn stopped_at_any_moment_nothing_stays_open() {
    for at in (0..60).step_by(3) {
        let scripts = |index: usize| {
            let latency = 4 + index as u64;
            [well(latency).cancellable(1), well(1)]
        };
        let targets: Vec<Target> =
            (0..6).map(|index| node(&format!("stop-{at}-{index}"), scripts(index))).collect();
        let began = ScriptWaiter::default().now();
        let mut waiter = ScriptWaiter { stops_at: Some(began + ms(at)), ..ScriptWaiter::default() };
        let mut party = Party::<ScriptPq>::default();
        let bounds = bounds(&waiter);
        let mut home = ScriptHome::default();
        let outcome = attempt(&mut waiter, &mut home, &mut party, &nodes(6), &targets, &bounds);
        assert!(matches!(outcome, Err(Failed::Stopped)) || at > 36, "{at}: {outcome:?}");
        let mut deaf = ScriptWaiter::default();
        assert!(let_go(&mut deaf, &mut party).is_empty());
        for session in party.sessions() {
            assert_eq!(session.transaction_status(), remote::TransactionStatus::Idle, "{at}");
        }
        drop(party);
        assert_eq!(open_connections(), 0);
    }
}

#[test]
fn the_bounds_are_those_of_the_block() {
    let targets = targets([well(1)]);
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = Bounds { lock_timeout: Duration::from_millis(700), ..bounds(&waiter) };
    let mut home = ScriptHome::default();
    attempt(&mut waiter, &mut home, &mut party, &nodes(1), &targets, &bounds).unwrap();
    let done = sent();
    let warm_up = &done[first(&done, WARM_UP)];
    assert!(warm_up.contains("SET LOCAL lock_timeout = 700;"), "{warm_up}");
    // Until the hold begins, a node that hears nothing more waits no longer than the whole attempt.
    let idle = |time_ms| format!("SET LOCAL idle_in_transaction_session_timeout = {time_ms};");
    assert!(warm_up.contains(&idle(30_000 + 5000)), "{warm_up}");
    let flush = &done[first(&done, FLUSH)];
    assert!(flush.contains(&idle(305_000)), "{flush}");
}

/// Where another session flushes, the one with the locks has its time all the same.
#[test]
fn a_node_without_the_extension_begins_its_hold_with_the_flush() {
    let targets = [node(&host(0), [without_extension(), well(1)])];
    let mut waiter = ScriptWaiter::default();
    let mut party = Party::<ScriptPq>::default();
    let bounds = bounds(&waiter);
    let mut home = ScriptHome::default();
    attempt(&mut waiter, &mut home, &mut party, &nodes(1), &targets, &bounds).unwrap();
    let done = sent();
    let hold = "node-0: SET LOCAL idle_in_transaction_session_timeout = 305000";
    assert_eq!(done.iter().filter(|line| *line == hold).count(), 1, "{done:#?}");
    assert_eq!(count(&done, "pg_logical_emit_message"), 1);
}

/// The nodes of the cluster are found, and are not who they should be: nothing is asked for.
#[test]
fn a_node_that_is_another_ends_the_attempt_before_a_lock() {
    let attempt_with = |other: &[(&str, &str)], list: &[Node]| {
        let scripts = [well(1), Script::connects(1).answers([answer_with(1, other)]), well(1)];
        let targets = targets(scripts);
        let mut waiter = ScriptWaiter::default();
        let mut party = Party::<ScriptPq>::default();
        let bounds = bounds(&waiter);
        let mut home = ScriptHome::default();
        let failed = attempt(&mut waiter, &mut home, &mut party, list, &targets, &bounds);
        assert_eq!(count(&sent(), LOCK), 0);
        let Err(Failed::ForGood(error)) = failed else { panic!("{failed:?}") };
        error.to_string()
    };
    let other = attempt_with(&[("local_group", "2")], &nodes(3));
    assert!(other.contains(&host(1)), "{other}");
    let same = attempt_with(&[("server_number", "node-2")], &nodes(3));
    assert!(same.contains(&host(1)) && same.contains(&host(2)), "{same}");
    let older = attempt_with(&[("extension_version", "0.1.0")], &nodes(3));
    assert!(older.contains(&host(1)) && older.contains("0.1.0"), "{older}");
}

/// A node whose answers say that it has no function to flush with.
fn without_extension() -> Script {
    Script::connects(1).answers([answer_with(1, &[("definition", "")])])
}
