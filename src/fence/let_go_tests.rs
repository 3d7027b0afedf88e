//! Letting go of nodes in every state.

use super::{CANCEL_BOUND, ROLLBACK_BOUND, let_go};
use crate::fence::party::Party;
use crate::fence::scripted::{answer, host, nodes, well};
use crate::fence::statements;
use remote::script::{EOF, Incoming, Script, ScriptPq, ScriptWaiter, hangs, ms, node, sent};
use remote::{Command, Connecting, Deadline, TransactionStatus, Waiter};

/// A party whose transactions have been begun, on nodes that behave so, connection by connection.
fn party(scripts: impl IntoIterator<Item = Vec<Script>>) -> Party<ScriptPq> {
    let targets: Vec<_> = scripts
        .into_iter()
        .enumerate()
        .map(|(index, scripts)| node(&host(index), scripts))
        .collect();
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let mut party = Party::default();
    let begin = statements::begin(1000, 1000, true);
    let connecting = Connecting::start(&waiter, &targets, deadline);
    let nodes = nodes(targets.len());
    let who = (nodes.as_slice(), Some(env!("CARGO_PKG_VERSION")));
    party.begin(&mut waiter, who, connecting, &begin, deadline).unwrap();
    party
}

/// Has a node begin something, of which nobody waits for the end.
fn leave_at_work(party: &mut Party<ScriptPq>, index: usize) {
    party.sessions()[index].send(&Command::new("errand", "SELECT errand")).unwrap();
}

#[test]
fn comes_back_when_the_last_node_has_answered() {
    let slow = Script::connects(1).answers([answer(1), answer(70)]);
    let mut party = party([vec![well(1)], vec![slow], vec![well(1)]]);
    let mut waiter = ScriptWaiter::default();
    let before = waiter.now();
    assert!(let_go(&mut waiter, &mut party).is_empty());
    assert_eq!(waiter.now() - before, ms(70));
}

/// A node that is at work takes no ROLLBACK: its lock is not gone before that is cancelled and it has
/// answered one.
#[test]
fn a_node_at_work_is_cancelled_and_rolled_back() {
    let busy = Script::connects(1).answers([answer(1), hangs(), answer(30)]).cancellable(20);
    let mut party = party([vec![well(1)], vec![busy, well(1)]]);
    leave_at_work(&mut party, 1);
    let mut waiter = ScriptWaiter::default();
    let before = waiter.now();
    assert!(let_go(&mut waiter, &mut party).is_empty());
    assert!(waiter.now() - before >= ms(50));
    for session in party.sessions() {
        assert_eq!(session.transaction_status(), TransactionStatus::Idle);
    }
    let rolled_back = |host: &str| sent().contains(&format!("{host}: ROLLBACK"));
    assert!(rolled_back("node-0") && rolled_back("node-1"));
}

#[test]
fn a_frozen_node_costs_its_bound_and_is_named_once() {
    let frozen = Script::connects(1).answers([answer(1), hangs()]);
    let mut party = party([vec![well(1)], vec![frozen, Script::silent()], vec![well(1)]]);
    let mut waiter = ScriptWaiter::default();
    let before = waiter.now();
    let silent = let_go(&mut waiter, &mut party);
    assert_eq!(silent.len(), 1);
    assert!(silent[0].to_string().contains("node-1"), "{}", silent[0]);
    assert_eq!(waiter.now() - before, ROLLBACK_BOUND + CANCEL_BOUND);
}

#[test]
fn a_lost_node_is_named_and_the_others_let_go() {
    let lost = Script::connects(1).answers([answer(1), vec![(5, Incoming::Eof(EOF))]]);
    let mut party = party([vec![lost], vec![well(1)]]);
    let silent = let_go(&mut ScriptWaiter::default(), &mut party);
    assert_eq!(silent.len(), 1);
    assert!(silent[0].to_string().contains("node-0"), "{}", silent[0]);
    assert!(sent().contains(&"node-1: ROLLBACK".to_owned()));
}

#[test]
fn a_node_without_a_transaction_is_left_alone() {
    let mut party = party([vec![well(1)]]);
    assert!(let_go(&mut ScriptWaiter::default(), &mut party).is_empty());
    let before = sent().len();
    assert!(let_go(&mut ScriptWaiter::default(), &mut party).is_empty());
    assert_eq!(sent().len(), before);
}
