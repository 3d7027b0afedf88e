//! A thousand nodes: time follows the slowest, and one dead node costs its deadline and is named.

use crate::script::*;
use crate::*;

const NODES: usize = 1000;

/// Latencies from 1 to 250 ms: a small linear congruential generator, the same each time.
fn latencies() -> impl Iterator<Item = u64> {
    let mut state: u64 = 42;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1 + (state >> 33) % 250
    })
}

/// The nodes' names.
fn host(index: usize) -> String {
    format!("node-{index}")
}

#[test]
fn time_follows_the_slowest_node() {
    let connects: Vec<u64> = latencies().take(NODES).collect();
    let answers: Vec<u64> = latencies().skip(NODES).take(NODES).collect();
    let targets: Vec<Target> = (0..NODES)
        .map(|index| {
            let script = Script::connects(connects[index]).answers([rows(answers[index])]);
            node(&host(index), [script])
        })
        .collect();
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(10_000));
    let mut sessions: Vec<Session<ScriptPq>> = connect_all(&mut waiter, &targets, deadline)
        .into_iter()
        .map(|session| session.unwrap())
        .collect();
    let slowest_connect = ms(*connects.iter().max().unwrap());
    assert_eq!(waiter.now(), slowest_connect);
    assert_eq!(open_connections(), NODES);

    let mut all: Vec<_> = sessions.iter_mut().collect();
    let command = |_| Command::new("probe", "SELECT 1");
    let replies = run_all(&mut waiter, &mut all, command, deadline);
    for (index, reply) in replies.iter().enumerate() {
        assert_eq!(reply.as_ref().unwrap().node.host, host(index));
    }
    assert_eq!(waiter.now(), slowest_connect + ms(*answers.iter().max().unwrap()));
    drop(sessions);
    assert_eq!(open_connections(), 0);
}

#[test]
fn one_dead_node_among_them() {
    let dead = 617;
    let targets: Vec<Target> = latencies()
        .take(NODES)
        .enumerate()
        .map(|(index, latency)| {
            let script = if index == dead { Script::silent() } else { Script::connects(latency) };
            node(&host(index), [script])
        })
        .collect();
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(3000));
    let results = connect_all::<ScriptPq, _>(&mut waiter, &targets, deadline);
    let errors: Vec<&RemoteError> =
        results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].node().host, host(dead));
    assert!(matches!(errors[0], RemoteError::ConnectTimeout { .. }));
    assert_eq!(waiter.now(), ms(3000));
}
