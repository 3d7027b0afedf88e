//! Covers `watch`.

use crate::script::*;
use crate::*;

/// Watches for a second.
fn watch_all(sessions: &mut [Session<ScriptPq>]) -> WatchEnd {
    let mut waiter = ScriptWaiter::default();
    let mut all: Vec<_> = sessions.iter_mut().collect();
    watch(&mut waiter, &mut all, ms(1000))
}

/// Two sessions, the second with this script.
fn pair(second: Script) -> Vec<Session<ScriptPq>> {
    sessions(&[node("a", [Script::connects(0)]), node("b", [second])])
}

#[test]
fn quiet() {
    let mut sessions = pair(Script::connects(0).unasked(10, Incoming::Notice));
    assert!(matches!(watch_all(&mut sessions), WatchEnd::Quiet));
    assert_eq!(ScriptWaiter::default().now(), ms(1000));
}

#[test]
fn lost_without_a_word() {
    let mut sessions = pair(Script::connects(0).unasked(10, Incoming::Eof(EOF)));
    let WatchEnd::Lost { index: 1, error } = watch_all(&mut sessions) else { panic!() };
    assert_eq!(
        error.to_string(),
        "lost the connection to b:5432 during idle hold: server closed the connection unexpectedly"
    );
    assert_eq!(ScriptWaiter::default().now(), ms(10));
    assert_eq!(sessions[1].state(), SessionState::Broken);
    // And it stays lost.
    let WatchEnd::Lost { index: 1, error } = watch_all(&mut sessions) else { panic!() };
    assert!(matches!(error, RemoteError::Closed { .. }), "{error:?}");
}

#[test]
fn lost_with_the_servers_words() {
    let words = "terminating connection due to idle-in-transaction timeout";
    let fatal = error(Severity::Fatal, "25P03", words);
    let said = Script::connects(0).unasked(10, Incoming::LastWords(fatal));
    for script in [said.clone(), said.unasked(10, Incoming::Eof(EOF))] {
        let WatchEnd::Lost { index: 1, error } = watch_all(&mut pair(script)) else { panic!() };
        assert_eq!(error.server_message(), Some(words));
        assert_eq!(error.sqlstate(), Some("25P03"));
        assert_eq!(open_connections(), 0);
    }
}

#[test]
fn stopped() {
    let mut sessions = pair(Script::connects(0));
    let mut waiter = ScriptWaiter::stopping_at(10);
    let mut all: Vec<_> = sessions.iter_mut().collect();
    assert!(matches!(watch(&mut waiter, &mut all, ms(1000)), WatchEnd::Stopped));
    assert_eq!(sessions[0].state(), SessionState::Idle);
}

#[test]
fn an_answer_ends_the_watch() {
    let mut sessions = pair(Script::connects(0).answers([rows(30), fails(30, "XX000", "oh")]));
    for expected in [true, false] {
        sessions[1].send(&Command::new("probe", "SELECT 1")).unwrap();
        let WatchEnd::Answered { index: 1, result } = watch_all(&mut sessions) else { panic!() };
        assert_eq!(result.is_ok(), expected);
        assert_eq!(sessions[1].state(), SessionState::Idle);
    }
}

#[test]
fn a_busy_session_that_is_lost_ends_the_watch() {
    let mut sessions = pair(Script::connects(0).flush_fails());
    sessions[1].send(&Command::new("probe", "SELECT 1")).unwrap();
    let WatchEnd::Lost { index: 1, error } = watch_all(&mut sessions) else { panic!() };
    assert_eq!(error.server_message(), Some("could not send data to server: Broken pipe"));
}
