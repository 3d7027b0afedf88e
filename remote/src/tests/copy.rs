//! Rows of a COPY: given on as they come, and whole only when the server has said so.

use std::io;

use crate::script::*;
use crate::*;

fn copied() -> PqResult {
    PqResult::Set(ResultSet { command_tag: "COPY 2".into(), affected: 2, ..ResultSet::default() })
}

fn copy(
    answer: Vec<(u64, Incoming)>,
    taken: &mut Vec<u8>,
) -> (Session<ScriptPq>, Result<CopyEnd, CopyError>) {
    let mut session = session("a", [Script::connects(0).answers([answer])]);
    let mut waiter = ScriptWaiter::default();
    let command = Command::new("copy", "COPY t TO STDOUT");
    let end = session.copy_out(&mut waiter, &command, ms(1_000), &mut |row| {
        taken.extend_from_slice(row);
        Ok(())
    });
    (session, end)
}

#[test]
fn rows_come_in_order_and_the_end_counts_them() {
    let mut taken = Vec::new();
    let answer = vec![
        (1, Incoming::Result(PqResult::CopyOut)),
        (2, Incoming::Row(b"1\n")),
        // Longer in all than the silence that is allowed.
        (900, Incoming::Row(b"2\n")),
        (1_800, Incoming::CopyDone),
        (1_801, Incoming::Result(copied())),
        (1_802, Incoming::Ready),
    ];
    let (session, end) = copy(answer, &mut taken);
    assert_eq!(end.expect("a whole COPY"), CopyEnd { rows: 2 });
    assert_eq!(taken, b"1\n2\n");
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn few_rows_are_kept_with_what_the_other_statements_give() {
    let answer = vec![
        (1, Incoming::Result(PqResult::CopyOut)),
        (1, Incoming::Row(b"1\t\\N\n")),
        (2, Incoming::Row(b"2\tb\n")),
        (2, Incoming::CopyDone),
        (2, Incoming::Result(copied())),
        (3, Incoming::Result(PqResult::Set(ResultSet::default()))),
        (4, Incoming::Ready),
    ];
    for keeps in [true, false] {
        let mut session = session("a", [Script::connects(0).answers([answer.clone()])]);
        let mut waiter = ScriptWaiter::default();
        let command = Command::new("look", "COPY t TO STDOUT; SELECT 1");
        let command = if keeps { command.with_copies() } else { command };
        let deadline = Deadline::after(&waiter, ms(1_000));
        let reply = session.run(&mut waiter, command, deadline);
        if !keeps {
            assert!(reply.is_err(), "rows that nobody asked for: {reply:?}");
            continue;
        }
        let sets = reply.expect("an answer").sets;
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(sets[0].rows, [vec![value("1"), None], vec![value("2"), value("b")]]);
        assert_eq!((sets[0].command_tag.as_str(), sets.len()), ("COPY 2", 2));
        assert!(sets[1].rows.is_empty());
    }
}

#[test]
fn what_is_cut_is_not_whole_wherever_it_is_cut() {
    let whole = [
        Incoming::Result(PqResult::CopyOut),
        Incoming::Row(b"1\n"),
        Incoming::Row(b"2\n"),
        Incoming::CopyDone,
        Incoming::Result(copied()),
    ];
    for length in 0..=whole.len() {
        let mut answer: Vec<_> = whole[..length].iter().map(|what| (1, what.clone())).collect();
        answer.push((2, Incoming::Eof(EOF)));
        let (session, end) = copy(answer, &mut Vec::new());
        assert!(
            matches!(end, Err(CopyError::Remote(RemoteError::Lost { .. }))),
            "{length} {end:?}"
        );
        assert_eq!(session.state(), SessionState::Broken);
    }
}

#[test]
fn an_error_in_the_middle_leaves_the_session_usable() {
    let error = error(Severity::Error, "22012", "division by zero");
    let answer = vec![
        (1, Incoming::Result(PqResult::CopyOut)),
        (1, Incoming::Row(b"1\n")),
        (1, Incoming::Result(PqResult::Error(error))),
        (1, Incoming::Ready),
    ];
    let (session, end) = copy(answer, &mut Vec::new());
    assert!(matches!(end, Err(CopyError::Remote(RemoteError::Query { .. }))), "{end:?}");
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn silence_is_bounded_and_a_cancel_brings_the_session_back() {
    let answer = vec![(1, Incoming::Result(PqResult::CopyOut)), (2, Incoming::Row(b"1\n"))];
    let script = Script::connects(0).answers([answer]).cancellable(5);
    let mut session = sessions(&[node("a", [script, Script::connects(0)])]).remove(0);
    session.set_server_pid(1);
    let mut waiter = ScriptWaiter::default();
    let command = Command::new("copy", "COPY t TO STDOUT");
    let end = session.copy_out(&mut waiter, &command, ms(500), &mut |_| Ok(()));
    assert!(matches!(end, Err(CopyError::Remote(RemoteError::Timeout { .. }))), "{end:?}");
    assert_eq!(session.state(), SessionState::Busy);
    let deadline = Deadline::after(&waiter, ms(1_000));
    let ends = cancel_and_drain(&mut waiter, &mut [&mut session], deadline);
    assert!(matches!(ends[0], DrainEnd::Answered(Err(RemoteError::Query { .. }))), "{ends:?}");
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn a_sink_that_fails_closes_the_session() {
    let answer = vec![(1, Incoming::Result(PqResult::CopyOut)), (1, Incoming::Row(b"1\n"))];
    let mut session = session("a", [Script::connects(0).answers([answer])]);
    let mut waiter = ScriptWaiter::default();
    let command = Command::new("copy", "COPY t TO STDOUT");
    let end = session
        .copy_out(&mut waiter, &command, ms(500), &mut |_| Err(io::ErrorKind::StorageFull.into()));
    assert!(matches!(end, Err(CopyError::Sink(_))), "{end:?}");
    assert_eq!(session.state(), SessionState::Broken);
}

#[test]
fn a_copy_that_nobody_asked_for_is_refused_as_ever() {
    let answer = vec![(1, Incoming::Result(PqResult::CopyOut)), (1, Incoming::Row(b"1\n"))];
    let mut session = session("a", [Script::connects(0).answers([answer])]);
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(500));
    let end = session.run(&mut waiter, Command::new("c", "COPY t TO STDOUT"), deadline);
    assert!(matches!(end, Err(RemoteError::Unexpected { .. })), "{end:?}");
}

/// Gives two pieces of rows, or fails at the second.
fn feed(
    answer: Vec<(u64, Incoming)>,
    fails: bool,
) -> (Session<ScriptPq>, Result<CopyEnd, CopyError>) {
    let mut session = session("a", [Script::connects(0).answers([answer])]);
    let mut waiter = ScriptWaiter::default();
    let command = Command::new("copy", "COPY t FROM STDIN");
    let mut left = vec!["2\n", "1\n"];
    let end = session.copy_in(&mut waiter, &command, ms(1_000), &mut |piece| {
        match left.pop() {
            Some("2\n") if fails => return Err(io::Error::other("no such block")),
            Some(rows) => piece.extend_from_slice(rows.as_bytes()),
            None => {}
        }
        Ok(())
    });
    (session, end)
}

#[test]
fn rows_are_given_in_order_and_then_their_end() {
    let answer = vec![
        (1, Incoming::Result(PqResult::CopyIn)),
        (2, Incoming::Result(copied())),
        (3, Incoming::Ready),
    ];
    let (session, end) = feed(answer, false);
    assert_eq!(end.expect("a whole COPY"), CopyEnd { rows: 2 });
    assert_eq!(session.state(), SessionState::Idle);
    let given: Vec<_> = sent().into_iter().filter(|what| what.contains("data")).collect();
    assert_eq!(given, ["data: 1\n", "data: 2\n", "end of data"]);
}

#[test]
fn rows_that_cannot_be_read_are_never_ended() {
    let (session, end) = feed(vec![(1, Incoming::Result(PqResult::CopyIn))], true);
    assert!(matches!(end, Err(CopyError::Sink(_))), "{end:?}");
    assert_eq!(session.state(), SessionState::Broken);
    assert!(!sent().iter().any(|what| what == "end of data"));
}

#[test]
fn a_server_that_refuses_rows_is_told_of_in_its_words() {
    let answer = vec![
        (1, Incoming::Result(PqResult::CopyIn)),
        (2, Incoming::Result(PqResult::Error(error(Severity::Error, "22P02", "no number")))),
        (2, Incoming::Ready),
    ];
    let (session, end) = feed(answer, false);
    assert!(matches!(end, Err(CopyError::Remote(RemoteError::Query { .. }))), "{end:?}");
    assert_eq!(session.state(), SessionState::Idle);
    // Silent, or gone, after the rows or before.
    for answer in [
        vec![],
        vec![(1, Incoming::Result(PqResult::CopyIn))],
        vec![(1, Incoming::Result(PqResult::CopyIn)), (2, Incoming::Eof(EOF))],
        vec![(1, Incoming::Eof(EOF))],
    ] {
        let (session, end) = feed(answer, false);
        assert!(matches!(end, Err(CopyError::Remote(_))), "{end:?}");
        assert_eq!(session.state(), SessionState::Broken);
    }
    // What takes no rows is not fed, and a COPY where none is expected goes no further.
    let before = sent().len();
    let (_, end) = feed(vec![(1, Incoming::Result(copied())), (2, Incoming::Ready)], false);
    let given = sent().into_iter().skip(before).any(|what| what.starts_with("data"));
    assert!(end.is_ok() && !given, "{end:?}");
}
