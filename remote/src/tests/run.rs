//! Covers `fanout::run_all`, `connection` and `exchange`.

use crate::script::*;
use crate::*;

/// Runs a command within a second.
fn run(session: &mut Session<ScriptPq>) -> Result<Reply, RemoteError> {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline)
}

/// A session that answers commands so.
fn answering(answers: Vec<(u64, Incoming)>) -> Session<ScriptPq> {
    session("n", [Script::connects(1).answers([answers, rows(1)])])
}

#[test]
fn an_answer() {
    let mut session = answering(rows(20));
    let reply = run(&mut session).unwrap();
    assert_eq!(reply.single_value(), Ok("1"));
    assert_eq!(reply.parse_single::<i32>(), Ok(1));
    assert_eq!(reply.sets[0].value(0, "one"), Some("1"));
    assert_eq!(reply.sets[0].affected, 1);
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn several_statements_several_sets() {
    let mut answers = rows(1);
    answers.splice(0..0, rows(1).drain(..1));
    let reply = run(&mut answering(answers)).unwrap();
    assert_eq!(reply.sets.len(), 2);
}

#[test]
fn parameters_go_with_the_command() {
    let mut session = session("n", [Script::connects(1)]);
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let mut command = Command::new("probe", "SELECT $1, $2").with_param("x");
    command.params.push(None);
    session.run(&mut waiter, command, deadline).unwrap();
    assert_eq!(sent(), ["n: SELECT $1, $2 [Some(\"x\"), None]"]);
}

#[test]
fn partial_flushes_are_gone_on_with() {
    let mut session = session("n", [Script::connects(1).partial_flushes(5)]);
    assert!(run(&mut session).is_ok());
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn an_error_leaves_the_session_usable() {
    let mut session = answering(fails(3, "55P03", "canceling statement\ndue to lock timeout"));
    let error = run(&mut session).unwrap_err();
    assert_eq!(
        error.to_string(),
        "probe failed on n:5432: canceling statement due to lock timeout"
    );
    assert_eq!(error.sqlstate(), Some("55P03"));
    let server = error.server_error().unwrap();
    assert_eq!(server.detail.as_deref(), Some("the detail"));
    assert_eq!(server.hint.as_deref(), Some("the hint"));
    assert_eq!(session.state(), SessionState::Idle);
    assert!(run(&mut session).is_ok());
}

#[test]
fn a_fatal_error_is_a_loss_in_the_servers_words() {
    let words = "terminating connection due to administrator command";
    let fatal = error(Severity::Fatal, "57P01", words);
    // With and without the end of file at its heels.
    for rest in [vec![], vec![(3, Incoming::Eof(EOF))]] {
        let mut answers = vec![(3, Incoming::Result(PqResult::Error(fatal.clone())))];
        answers.extend(rest);
        let mut session = answering(answers);
        let lost = run(&mut session).unwrap_err();
        assert_eq!(
            lost.to_string(),
            format!("lost the connection to n:5432 during probe: {words}")
        );
        assert_eq!(lost.sqlstate(), Some("57P01"));
        assert_eq!(session.state(), SessionState::Broken);
        assert_eq!(open_connections(), 0);
        assert_eq!(
            run(&mut session).unwrap_err().to_string(),
            format!("cannot run probe on n:5432: the session is closed: {words}")
        );
    }
}

#[test]
fn end_of_file() {
    let mut session = answering(vec![(3, Incoming::Eof(EOF))]);
    let lost = run(&mut session).unwrap_err();
    assert!(matches!(lost, RemoteError::Lost { sqlstate: None, .. }), "{lost:?}");
    assert_eq!(lost.server_message(), Some("server closed the connection unexpectedly"));
    assert_eq!(open_connections(), 0);
}

#[test]
fn end_of_file_right_after_the_answer_is_a_loss() {
    let mut answers = rows(3);
    answers.push((3, Incoming::Eof(EOF)));
    let lost = run(&mut answering(answers)).unwrap_err();
    assert!(matches!(lost, RemoteError::Lost { .. }), "{lost:?}");
}

#[test]
fn last_words_right_after_the_answer_are_heard() {
    let words = error(Severity::Fatal, "57P01", "going down");
    let mut answers = rows(3);
    answers.extend([(3, Incoming::LastWords(words)), (3, Incoming::Eof(EOF))]);
    let lost = run(&mut answering(answers)).unwrap_err();
    assert_eq!(lost.server_message(), Some("going down"));
}

#[test]
fn a_copy_breaks_the_session() {
    let mut session = answering(vec![(3, Incoming::Result(PqResult::Copy))]);
    let error = run(&mut session).unwrap_err();
    assert_eq!(error.to_string(), "unexpected answer to probe from n:5432: it began a COPY");
    assert_eq!(session.state(), SessionState::Broken);
    assert_eq!(open_connections(), 0);
}

#[test]
fn sending_fails() {
    let mut one = session("n", [Script::connects(1).send_fails()]);
    let lost = run(&mut one).unwrap_err();
    assert_eq!(lost.server_message(), Some("no connection to the server"));
    let mut two = session("n", [Script::connects(1).flush_fails()]);
    let lost = run(&mut two).unwrap_err();
    assert_eq!(lost.server_message(), Some("could not send data to server: Broken pipe"));
    assert_eq!(open_connections(), 0);
}

#[test]
fn a_zero_byte_is_not_sent() {
    let mut session = session("n", [Script::connects(1)]);
    let error = session.send(&Command::new("probe", "SELECT '\0'")).unwrap_err();
    assert_eq!(error.to_string(), "cannot send probe to n:5432: it contains a zero byte");
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn a_deadline_leaves_the_session_busy() {
    let mut session = answering(hangs());
    let error = run(&mut session).unwrap_err();
    assert_eq!(error.to_string(), "probe on n:5432 did not finish within 1000 ms");
    assert_eq!(session.state(), SessionState::Busy);
    let refused = session.send(&Command::new("other", "SELECT 2")).unwrap_err();
    assert_eq!(refused.to_string(), "cannot run other on n:5432: probe has not finished there");
    drop(session);
    assert_eq!(open_connections(), 0);
}

#[test]
fn an_answer_that_is_here_is_taken_even_after_the_deadline() {
    let mut session = answering(rows(0));
    let mut waiter = ScriptWaiter::default();
    let passed = Deadline::after(&waiter, ms(0));
    assert!(session.run(&mut waiter, Command::new("probe", "SELECT 1"), passed).is_ok());
}

#[test]
fn stopped_leaves_the_session_busy() {
    let mut session = answering(rows(500));
    let mut waiter = ScriptWaiter::stopping_at(100);
    let deadline = Deadline::after(&waiter, ms(1000));
    let error = session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline).unwrap_err();
    assert_eq!(error.to_string(), "probe on n:5432 was interrupted");
    assert_eq!(session.state(), SessionState::Busy);
}

#[test]
fn each_node_has_its_own_result() {
    let targets = [
        node("good", [Script::connects(1).answers([rows(5)])]),
        node("bad", [Script::connects(1).answers([fails(7, "42P01", "no such table")])]),
        node("gone", [Script::connects(1).answers([vec![(2, Incoming::Eof(EOF))]])]),
        node("slow", [Script::connects(1).answers([hangs()])]),
    ];
    let mut sessions = sessions(&targets);
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(100));
    let mut all: Vec<_> = sessions.iter_mut().collect();
    let results = run_all(
        &mut waiter,
        &mut all,
        |index| Command::new("probe", format!("SELECT {index}")),
        deadline,
    );
    assert!(results[0].is_ok());
    assert!(matches!(results[1], Err(RemoteError::Query { .. })));
    assert!(matches!(results[2], Err(RemoteError::Lost { .. })));
    assert!(matches!(results[3], Err(RemoteError::Timeout { .. })));
    assert_eq!(sent(), ["good: SELECT 0", "bad: SELECT 1", "gone: SELECT 2", "slow: SELECT 3"]);
    let hosts: Vec<&str> =
        results[1..].iter().map(|r| r.as_ref().unwrap_err().node().host.as_str()).collect();
    assert_eq!(hosts, ["bad", "gone", "slow"]);
}

#[test]
fn a_session_survives_a_waiter_that_unwinds() {
    let mut session = answering(rows(500));
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut waiter = ScriptWaiter { unwinds_at: Some(ms(10)), ..ScriptWaiter::default() };
        let deadline = Deadline::after(&waiter, ms(1000));
        session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline)
    }));
    assert!(unwound.is_err());
    assert_eq!(session.state(), SessionState::Busy);
    drop(session);
    assert_eq!(open_connections(), 0);
}

#[test]
fn replies_of_another_form_are_errors() {
    let mut reply = run(&mut answering(rows(1))).unwrap();
    reply.sets[0].rows[0][0] = None;
    assert_eq!(
        reply.single_value().unwrap_err().to_string(),
        "unexpected answer to probe from n:5432: NULL where a value was expected"
    );
    reply.sets[0].rows.clear();
    assert!(reply.single_row().unwrap_err().to_string().contains("no row"));
    reply.sets.clear();
    assert!(reply.last_set().unwrap_err().to_string().contains("no result"));
}
