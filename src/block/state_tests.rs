//! The state machine under every order of events, with a model of what is really held.

use proptest::prelude::*;

use super::*;

const DATABASE: u32 = 5;
const REQUESTOR: ProcessId = ProcessId { place: 1, pid: 100 };

fn terms() -> Terms {
    Terms {
        mode: Mode::TwoPhase,
        timeout_ms: 1000,
        acquire_timeout_ms: 500,
        lock_timeout_ms: 100,
        connect_timeout_ms: 100,
        owner: 10,
    }
}

fn failure(text: &str) -> Failure {
    Failure { sqlstate: 1, message: Text::new(text), ..Failure::NONE }
}

/// Anything that can happen to a slot.  Workers and requestors act for the block numbered `block`,
/// which may be an old one: messages come late.
#[derive(Clone, Debug)]
enum Event {
    Begin,
    Adopt { block: u8, worker: u8 },
    Activate { block: u8, worker: u8 },
    Release,
    Abandon { block: u8 },
    Finish { block: u8, worker: u8 },
    Fail { block: u8, worker: u8 },
    Die { worker: u8 },
    RequestorDies,
    Reap,
    Post,
    Answer { block: u8, worker: u8 },
}

fn event() -> impl Strategy<Value = Event> {
    let block = 0u8..4;
    let worker = 0u8..3;
    prop_oneof![
        3 => Just(Event::Begin),
        3 => (block.clone(), worker.clone()).prop_map(|(block, worker)| Event::Adopt { block, worker }),
        3 => (block.clone(), worker.clone())
            .prop_map(|(block, worker)| Event::Activate { block, worker }),
        2 => Just(Event::Release),
        1 => block.clone().prop_map(|block| Event::Abandon { block }),
        2 => (block.clone(), worker.clone()).prop_map(|(block, worker)| Event::Finish { block, worker }),
        2 => (block.clone(), worker.clone()).prop_map(|(block, worker)| Event::Fail { block, worker }),
        1 => worker.clone().prop_map(|worker| Event::Die { worker }),
        1 => Just(Event::RequestorDies),
        2 => Just(Event::Reap),
        1 => Just(Event::Post),
        1 => (block, worker).prop_map(|(block, worker)| Event::Answer { block, worker }),
    ]
}

/// The worker that an event is an act of.
fn acts(event: &Event) -> Option<u8> {
    match event {
        Event::Adopt { worker, .. }
        | Event::Activate { worker, .. }
        | Event::Finish { worker, .. }
        | Event::Fail { worker, .. }
        | Event::Answer { worker, .. } => Some(*worker),
        _ => None,
    }
}

fn process(worker: u8) -> ProcessId {
    ProcessId { place: 10 + i32::from(worker), pid: 200 + i32::from(worker) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// `holder` is who may hold locks: a worker that has adopted and neither finished, failed nor died.
    #[test]
    fn what_the_state_says_is_what_is_held(events in prop::collection::vec(event(), 1..60)) {
        let mut slot = Block::UNUSED;
        let mut holder: Option<(u64, ProcessId)> = None;
        let mut dead: Vec<ProcessId> = Vec::new();
        let mut requestor_alive = true;
        let mut now = 1;
        for event in events {
            now += 1;
            let before = slot;
            if acts(&event).is_some_and(|worker| dead.contains(&process(worker))) {
                continue;
            }
            match event {
                Event::Begin => {
                    let begun = slot.begin(DATABASE, now, REQUESTOR, terms(), now);
                    prop_assert_eq!(begun.is_ok(), before.state == State::Inactive);
                    if let Ok(generation) = begun {
                        prop_assert!(generation > before.generation);
                        requestor_alive = true;
                        // Processes of earlier blocks are gone for good; their pids may come again.
                        dead.clear();
                    }
                }
                Event::Adopt { block, worker } => {
                    let worker = process(worker);
                    if slot.adopt(block.into(), worker).is_ok() {
                        prop_assert_eq!(u64::from(block), before.generation);
                        prop_assert!(holder.is_none(), "two workers hold one block");
                        holder = Some((block.into(), worker));
                    }
                }
                Event::Activate { block, worker } => {
                    if slot.activate(block.into(), process(worker), 3, now).is_ok() {
                        prop_assert_eq!(holder, Some((block.into(), process(worker))));
                        prop_assert!(!before.release_asked, "a block given up became active");
                        prop_assert_eq!(slot.expires_at, now + 1_000_000);
                    }
                }
                Event::Release => {
                    let release = slot.ask_release();
                    match before.state {
                        State::Inactive => prop_assert_eq!(release, Release::Nothing),
                        State::Error => prop_assert_eq!(release, Release::Cleared),
                        State::Releasing if before.abandoned => {
                            prop_assert_eq!(release, Release::GivenUp(before.generation));
                        }
                        State::Releasing if before.release_asked => {
                            prop_assert_eq!(release, Release::Joined(before.generation));
                        }
                        State::Starting => {
                            prop_assert_eq!(release, Release::Unstarted(before.generation));
                        }
                        State::Active | State::Releasing => {
                            prop_assert_eq!(release, Release::Asked(before.generation));
                        }
                    }
                }
                Event::Abandon { block } => {
                    slot.abandon(block.into());
                    if u64::from(block) != before.generation {
                        prop_assert_eq!(slot.state, before.state, "an old requestor touched a new block");
                    }
                }
                Event::Finish { block, worker } => {
                    if slot.finish(block.into(), process(worker), Failure::NONE).is_ok() {
                        prop_assert_eq!(holder, Some((block.into(), process(worker))));
                        prop_assert_eq!(slot.state, State::Inactive);
                        holder = None;
                    }
                }
                Event::Fail { block, worker } => {
                    if slot.fail(block.into(), process(worker), failure("lost")).is_ok() {
                        prop_assert_eq!(holder, Some((block.into(), process(worker))));
                        let told = before.state == State::Starting || before.release_asked;
                        let expected = if told { State::Inactive } else { State::Error };
                        prop_assert_eq!(slot.state, expected);
                        let outcome = slot.outcome(block.into()).map(|f| f.is_some());
                        prop_assert_eq!(outcome, Some(true));
                        holder = None;
                    }
                }
                Event::Die { worker } => {
                    // A death ends the locks, not the state: that is what reaping is for.
                    let gone = process(worker);
                    if holder.is_some_and(|(_, worker)| worker == gone) {
                        dead.push(gone);
                        holder = None;
                    }
                }
                Event::RequestorDies => requestor_alive = false,
                Event::Reap => {
                    let alive = |process: ProcessId| {
                        if process == REQUESTOR { requestor_alive } else { !dead.contains(&process) }
                    };
                    if slot.reap(alive, failure("gone")) {
                        prop_assert!(holder.is_none(), "a living worker's block was reaped");
                        prop_assert_eq!(slot.state, State::Inactive);
                    }
                }
                Event::Post => {
                    if slot.post(Errand::Extend(7)).is_ok() {
                        prop_assert_eq!(before.state, State::Active);
                    }
                }
                Event::Answer { block, worker } => {
                    let number = slot.errands.posted;
                    if slot
                        .answer(block.into(), process(worker), number, None, Failure::NONE)
                        .is_ok()
                    {
                        prop_assert_eq!(holder, Some((block.into(), process(worker))));
                        prop_assert!(slot.pending_errand().is_none());
                    }
                }
            }
            // What users rely on: no block and no error means nothing is held.
            if matches!(slot.state, State::Inactive | State::Error) {
                prop_assert!(holder.is_none(), "{:?} while {:?} holds", slot.state, holder);
                prop_assert!(!slot.release_asked);
            }
            if slot.state == State::Active {
                prop_assert!(slot.worker.is_some());
            }
        }
    }
}

/// A slot whose first block could not be started.
fn after_a_failed_start() -> (Block, u64) {
    let mut slot = Block::UNUSED;
    let first = slot.begin(DATABASE, 1, REQUESTOR, terms(), 1).expect("free");
    slot.adopt(first, process(0)).expect("first");
    slot.fail(first, process(0), failure("no such host")).expect("own");
    (slot, first)
}

/// A slot with an active block.
fn active() -> (Block, u64) {
    let mut slot = Block::UNUSED;
    let first = slot.begin(DATABASE, 1, REQUESTOR, terms(), 1).expect("free");
    slot.adopt(first, process(0)).expect("first");
    slot.activate(first, process(0), 1, 2).expect("all held");
    (slot, first)
}

#[test]
fn a_requestor_learns_how_its_block_ended_although_another_has_begun() {
    let (mut slot, first) = after_a_failed_start();
    slot.begin(DATABASE, 2, REQUESTOR, terms(), 2).expect("free again");
    let outcome = slot.outcome(first).expect("it has ended");
    assert_eq!(outcome.message.as_str(), "no such host");
    assert!(slot.outcome(first + 1).is_none(), "the second one lives");
}

#[test]
fn an_end_is_known_although_the_next_block_has_ended_too() {
    let (mut slot, first) = after_a_failed_start();
    let second = slot.begin(DATABASE, 2, REQUESTOR, terms(), 2).expect("free again");
    slot.abandon(second);
    assert_eq!(slot.state, State::Inactive);
    let outcome = slot.outcome(first).expect("it has ended");
    assert_eq!(outcome.message.as_str(), "no such host");
    assert!(!slot.outcome(second).expect("it has ended").is_some());
}

#[test]
fn an_end_that_is_forgotten_does_not_pass_for_a_good_one() {
    let (mut slot, first) = after_a_failed_start();
    let second = slot.begin(DATABASE, 2, REQUESTOR, terms(), 2).expect("free again");
    slot.abandon(second);
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(slot.outcome(first).expect("it has ended").is_some());
}

#[test]
fn only_the_first_who_asks_knows_when_the_locks_went() {
    let (mut slot, first) = active();
    assert_eq!(slot.ask_release(), Release::Asked(first));
    assert_eq!(slot.ask_release(), Release::Joined(first));
}

/// Who unblocks right after its own call was cancelled hears nothing of another session.
#[test]
fn a_requestor_that_left_is_no_other_session() {
    let (mut slot, first) = active();
    assert!(slot.abandon(first));
    assert_eq!(slot.state, State::Releasing);
    assert_eq!(slot.ask_release(), Release::GivenUp(first));
    // While it was being started, nothing was ever under it.
    let mut slot = Block::UNUSED;
    let first = slot.begin(DATABASE, 1, REQUESTOR, terms(), 1).expect("free");
    slot.adopt(first, process(0)).expect("first");
    slot.abandon(first);
    assert_eq!(slot.ask_release(), Release::Unstarted(first));
}

/// The page tells scripts to believe the result alone, so what they have to know is in the reason of the status too.
#[test]
fn a_block_that_its_caller_gave_up_says_so_afterwards() {
    let (mut slot, first) = active();
    slot.abandon(first);
    slot.finish(first, process(0), Failure::NONE).expect("own");
    assert!(slot.failure.message.as_str().contains("given it up"), "{:?}", slot.failure);
    // Nobody was told that it was active, so nobody takes the next one for it.
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(!slot.take_previous_reason().is_some());
}

#[test]
fn an_error_that_was_cleared_stays_in_the_status() {
    let (mut slot, first) = active();
    slot.fail(first, process(0), failure("lost")).expect("own");
    assert_eq!(slot.ask_release(), Release::Cleared);
    assert_eq!((slot.state, slot.failure.message.as_str()), (State::Inactive, "lost"));
    assert!(!slot.take_end_reason().is_some(), "told");
}

/// Somebody else has unblocked mine, and begun another: that one is not mine to release.
#[test]
fn who_names_a_block_releases_no_other() {
    let (mut slot, first) = active();
    let mine = slot.started();
    assert_eq!(slot.ask_release(), Release::Asked(first));
    slot.finish(first, process(0), Failure::NONE).expect("own");
    let second = slot.begin(DATABASE, 7, REQUESTOR, terms(), 7).expect("free again");
    slot.adopt(second, process(1)).expect("first");
    for mine in [Named::Start(mine), Named::Number(1)] {
        let mut slot = slot;
        assert_eq!(slot.ask_release_of(mine), Release::Over);
        assert!(!slot.release_asked);
        slot.activate(second, process(1), 1, 9).expect("all held");
        assert_eq!(slot.ask_release_of(mine), Release::Over);
        assert_eq!(slot.state, State::Active, "it goes on");
        // As the status shows it now, and as it showed it while the block was being started; its number stays.
        for other in [Named::Start(9), Named::Start(7), Named::Number(7)] {
            let mut copy = slot;
            assert_eq!(copy.ask_release_of(other), Release::Asked(second));
        }
        // Nor is its error mine to clear.
        slot.fail(second, process(1), failure("lost")).expect("own");
        assert_eq!(slot.ask_release_of(mine), Release::Over);
        assert_eq!(slot.state, State::Error);
        for other in [Named::Start(9), Named::Number(7)] {
            let mut slot = slot;
            assert_eq!(slot.ask_release_of(other), Release::Cleared);
            assert_eq!(slot.ask_release_of(other), Release::Over);
        }
    }
}

#[test]
fn who_names_a_block_hears_why_that_one_ended() {
    let (mut slot, first) = active();
    let mine = slot.started();
    slot.finish(first, process(0), failure("expired")).expect("own");
    for mine in [Named::Start(mine), Named::Number(1)] {
        let (mut slot, mut later) = (slot, slot);
        assert_eq!(slot.take_reason_of(mine).message.as_str(), "expired");
        assert!(!slot.take_end_reason().is_some(), "told");
        later.begin(DATABASE, 7, REQUESTOR, terms(), 7).expect("free again");
        assert_eq!(later.take_reason_of(mine).message.as_str(), "expired");
        assert!(!later.take_previous_reason().is_some(), "told");
        assert!(!later.take_reason_of(Named::Number(7)).is_some(), "that one lives");
    }
}

/// Whose block expired unseen may unblock the next one and take it for the own.
#[test]
fn whoever_ends_a_block_hears_that_the_one_before_had_expired() {
    let (mut slot, first) = active();
    slot.finish(first, process(0), failure("expired")).expect("own");
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert_eq!(slot.take_previous_reason().message.as_str(), "expired");
    assert!(!slot.take_previous_reason().is_some(), "told once");
}

/// A start that failed meanwhile does not make that unseen.
#[test]
fn an_end_that_nobody_heard_of_outlives_a_failed_start() {
    let (mut slot, first) = active();
    slot.finish(first, process(0), failure("expired")).expect("own");
    let second = slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    slot.adopt(second, process(1)).expect("first");
    slot.fail(second, process(1), failure("no such host")).expect("own");
    slot.begin(DATABASE, 4, REQUESTOR, terms(), 4).expect("free again");
    assert!(slot.take_previous_reason().is_some());
    assert!(!slot.take_previous_reason().is_some(), "told once");
}

#[test]
fn how_another_databases_block_ended_is_nothing_to_this_one() {
    let (mut slot, first) = active();
    slot.finish(first, process(0), failure("expired")).expect("own");
    slot.begin(DATABASE + 1, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(!slot.take_previous_reason().is_some());
}

#[test]
fn nobody_hears_twice_of_an_end() {
    let (mut slot, first) = active();
    slot.finish(first, process(0), failure("expired")).expect("own");
    assert_eq!(slot.take_end_reason().message.as_str(), "expired");
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(!slot.take_previous_reason().is_some());
    // Nor of a failed start, which its requestor was told of.
    let (mut slot, _) = after_a_failed_start();
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(!slot.take_previous_reason().is_some());
}

#[test]
fn a_reason_that_somebody_was_told_stays_for_those_who_wait() {
    let (mut slot, first) = active();
    assert_eq!(slot.ask_release(), Release::Asked(first));
    slot.finish(first, process(0), failure("a node did not confirm")).expect("own");
    // Another session unblocks, and yet another begins, before the one that waits has looked.
    assert!(!slot.take_end_reason().is_some(), "it did not end by itself");
    slot.begin(DATABASE, 3, REQUESTOR, terms(), 3).expect("free again");
    assert!(
        !slot.take_previous_reason().is_some(),
        "nor is the next block's end the place to say so"
    );
    let outcome = slot.outcome(first).expect("it has ended");
    assert_eq!(outcome.message.as_str(), "a node did not confirm");
}

#[test]
fn a_block_given_up_before_it_has_a_worker_is_over_at_once() {
    let mut slot = Block::UNUSED;
    let generation = slot.begin(DATABASE, 1, REQUESTOR, terms(), 1).expect("free");
    slot.abandon(generation);
    assert_eq!(slot.state, State::Inactive);
    assert_eq!(slot.adopt(generation, process(0)), Err(Refusal::Stale), "the worker comes late");
}

#[test]
fn a_recycled_pid_in_another_place_is_another_process() {
    let mut slot = Block::UNUSED;
    let generation = slot.begin(DATABASE, 1, REQUESTOR, terms(), 1).expect("free");
    slot.adopt(generation, process(0)).expect("first");
    let recycled = ProcessId { place: 99, ..process(0) };
    assert_eq!(slot.activate(generation, recycled, 1, 2), Err(Refusal::Stale));
    assert!(slot.reap(|process| process == recycled, failure("gone")));
}

#[test]
fn an_extension_moves_the_deadline() {
    let mut slot = Block::UNUSED;
    let generation = slot.begin(DATABASE, 0, REQUESTOR, terms(), 0).expect("free");
    slot.adopt(generation, process(0)).expect("first");
    slot.activate(generation, process(0), 1, 1_000_000).expect("all held");
    assert!(!slot.expired(1_999_999));
    assert!(slot.expired(2_000_000));
    let number = slot.post(Errand::Extend(5000)).expect("active").expect("nothing under way");
    assert_eq!(slot.post(Errand::Extend(1)), Ok(None), "one errand at a time");
    slot.answer(generation, process(0), number, Some(6_500_000), Failure::NONE).expect("own");
    assert!(!slot.expired(6_499_999));
    assert!(slot.expired(6_500_000));
    assert_eq!(slot.terms.timeout_ms, 5500);
}

#[test]
fn an_errand_is_taken_back_only_before_it_is_begun() {
    let mut slot = Block::UNUSED;
    let generation = slot.begin(DATABASE, 0, REQUESTOR, terms(), 0).expect("free");
    slot.adopt(generation, process(0)).expect("first");
    slot.activate(generation, process(0), 1, 1_000_000).expect("all held");
    let first = slot.post(Errand::Extend(5000)).expect("active").expect("nothing under way");
    slot.withdraw(first);
    assert!(slot.take_errand(generation, process(0)).expect("own").is_none());
    // The next one is nobody else's.
    let second = slot.post(Errand::Extend(5000)).expect("active").expect("nothing under way");
    slot.withdraw(first);
    assert_eq!(slot.pending_errand().map(|(number, _)| number), Some(second));
    assert!(slot.take_errand(generation, process(1)).is_err(), "another worker's");
    let taken = slot.take_errand(generation, process(0)).expect("own");
    assert_eq!(taken.map(|(number, _)| number), Some(second));
    slot.withdraw(second);
    assert_eq!(slot.post(Errand::Extend(1)), Ok(None), "it is still under way");
    slot.answer(generation, process(0), second, None, Failure::NONE).expect("own");
    assert!(slot.post(Errand::Extend(1)).expect("active").is_some());
}
