//! Covers `cancel`.

use crate::script::*;
use crate::*;

/// A session that is Busy with a command that never ends; what further connections do.
fn busy(script: Script, second: Option<Script>) -> Session<ScriptPq> {
    let first = script.answers([hangs(), rows(1)]);
    let mut session = session("n", [first].into_iter().chain(second));
    session.send(&Command::new("lock", "LOCK TABLE t")).unwrap();
    session
}

/// Cancels within a second.
fn cancel(session: &mut Session<ScriptPq>) -> DrainEnd {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    cancel_and_drain(&mut waiter, &mut [session], deadline).remove(0)
}

/// The session is closed, and so is the second connection.
fn assert_broken(session: &Session<ScriptPq>, end: &DrainEnd, message: &str) {
    let DrainEnd::Broken(error) = end else { panic!("{end:?}") };
    assert_eq!(error.to_string(), message);
    assert_eq!(session.state(), SessionState::Broken);
    assert_eq!(open_connections(), 0);
}

#[test]
fn timeout_cancel_drain_and_on() {
    let script = Script::connects(1).cancellable(30).answers([hangs(), rows(1)]);
    let mut session = session("n", [script, Script::connects(20)]);
    session.set_server_pid(1);
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(100));
    let lock = Command::new("lock", "LOCK TABLE t");
    let error = session.run(&mut waiter, lock, deadline).unwrap_err();
    assert!(matches!(error, RemoteError::Timeout { .. }));

    let end = cancel(&mut session);
    let DrainEnd::Answered(Err(RemoteError::Query { command: "lock", error, .. })) = &end else {
        panic!("{end:?}")
    };
    assert_eq!(error.sqlstate, SqlState::parse("57014"));
    assert_eq!(sent()[1], "n: SELECT pg_catalog.pg_cancel_backend(1)");
    assert_eq!(waiter.now(), ms(1 + 100 + 20 + 30));
    assert_eq!(open_connections(), 1);

    let deadline = Deadline::after(&waiter, ms(100));
    assert!(session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline).is_ok());
}

#[test]
fn a_pid_from_the_startup_data_must_carry_our_name() {
    let mut session = busy(Script::connects(1), Some(Script::connects(1)));
    cancel(&mut session);
    assert!(sent()[1].contains("pg_stat_get_activity(1)"), "{:?}", sent());
    assert!(sent()[1].contains("application_name"), "{:?}", sent());
}

#[test]
fn an_answer_that_is_here_needs_no_cancel() {
    let mut session = session("n", [Script::connects(1).answers([rows(0)])]);
    session.send(&Command::new("probe", "SELECT 1")).unwrap();
    let end = cancel(&mut session);
    assert!(matches!(end, DrainEnd::Answered(Ok(_))), "{end:?}");
    assert_eq!(sent().len(), 1);
}

#[test]
fn idle_and_broken_sessions_are_let_alone() {
    let mut session = session("n", [Script::connects(1).answers([vec![(1, Incoming::Eof(EOF))]])]);
    assert!(matches!(cancel(&mut session), DrainEnd::NotBusy));
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(100));
    session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline).unwrap_err();
    let end = cancel(&mut session);
    assert!(matches!(end, DrainEnd::Broken(RemoteError::Closed { .. })), "{end:?}");
}

#[test]
fn a_second_connection_that_fails() {
    let mut session = busy(Script::connects(1), Some(Script::fails(1, "no route to host\n")));
    let end = cancel(&mut session);
    assert_broken(&session, &end, "could not connect to n:5432: no route to host");
}

#[test]
fn a_second_connection_that_fails_while_the_answer_comes() {
    let script = Script::connects(1).answers([rows(30)]);
    let mut session = session("n", [script, Script::fails(50, "no route to host\n")]);
    session.send(&Command::new("probe", "SELECT 1")).unwrap();
    let end = cancel(&mut session);
    assert!(matches!(end, DrainEnd::Answered(Ok(_))), "{end:?}");
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn a_cancel_that_fails() {
    let second = Script::connects(1).answers([fails(1, "42501", "permission denied")]);
    let mut session = busy(Script::connects(1), Some(second));
    let end = cancel(&mut session);
    assert_broken(&session, &end, "cancel failed on n:5432: permission denied");
}

#[test]
fn no_name_is_looked_up_for_a_cancel() {
    let second = Script::connects(1).answers([rows(1)]);
    let mut session = busy(Script::connects(1).cancellable(1), Some(second));
    cancel(&mut session);
    assert_eq!(asked_for(), ["n", "address of n"]);
}

#[test]
fn a_cancel_that_is_not_answered() {
    let second = Script::connects(1).answers([hangs()]);
    let mut session = busy(Script::connects(1), Some(second));
    let end = cancel(&mut session);
    assert_broken(&session, &end, "cancel on n:5432 did not finish within 1000 ms");
}

#[test]
fn a_frozen_node() {
    let mut session = busy(Script::connects(1), Some(Script::silent()));
    let end = cancel(&mut session);
    assert_broken(&session, &end, "cancel on n:5432 did not finish within 1000 ms");
}

#[test]
fn a_cancel_without_effect() {
    let mut session = busy(Script::connects(1), Some(Script::connects(1)));
    session.set_server_pid(1);
    let end = cancel(&mut session);
    assert_broken(&session, &end, "cancel on n:5432 did not finish within 1000 ms");
}

#[test]
fn a_session_that_is_lost_while_it_drains() {
    let first = Script::connects(1).answers([vec![(40, Incoming::Eof(EOF))]]);
    let mut session = session("n", [first, Script::connects(1)]);
    session.send(&Command::new("lock", "LOCK TABLE t")).unwrap();
    let end = cancel(&mut session);
    assert_broken(
        &session,
        &end,
        "lost the connection to n:5432 during lock: server closed the connection unexpectedly",
    );
}

#[test]
fn a_half_sent_command_cannot_be_cancelled() {
    let mut session = busy(Script::connects(1).partial_flushes(1000), None);
    let end = cancel(&mut session);
    assert_broken(
        &session,
        &end,
        "unexpected answer to cancel from n:5432: the command was sent only in part",
    );
}

#[test]
fn stopped_in_each_phase() {
    // While connecting, while the cancel is under way, while draining.
    for stop in [5, 25, 45] {
        let start = ScriptWaiter::default().now();
        let second = Script::connects(10).answers([rows(20)]);
        let mut session = busy(Script::connects(0).cancellable(50), Some(second));
        session.set_server_pid(1);
        let mut waiter =
            ScriptWaiter { stops_at: Some(start + ms(stop)), ..ScriptWaiter::default() };
        let deadline = Deadline::after(&waiter, ms(1000));
        let end = cancel_and_drain(&mut waiter, &mut [&mut session], deadline).remove(0);
        assert_broken(&session, &end, "cancel on n:5432 was interrupted");
    }
}

#[test]
fn many_sessions_at_once() {
    let mut all: Vec<Session<ScriptPq>> = ["a", "b", "c", "d"]
        .into_iter()
        .enumerate()
        .map(|(index, host)| {
            let first = Script::connects(0).cancellable(10).answers([hangs(), rows(1)]);
            let second = if host == "c" { Script::silent() } else { Script::connects(20) };
            let mut session = session(host, [first, second]);
            session.send(&Command::new("lock", "LOCK TABLE t")).unwrap();
            session.set_server_pid(i32::try_from(index).unwrap() + 1);
            session
        })
        .collect();
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(100));
    let mut sessions: Vec<_> = all.iter_mut().collect();
    let ends = cancel_and_drain(&mut waiter, &mut sessions, deadline);
    let broken: Vec<bool> = ends.iter().map(|end| matches!(end, DrainEnd::Broken(_))).collect();
    assert_eq!(broken, [false, false, true, false]);
    assert_eq!(waiter.now(), ms(100));
    assert_eq!(open_connections(), 3);
}
