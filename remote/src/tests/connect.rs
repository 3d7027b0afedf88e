//! Covers `fanout::connect_all` and `fanout::Connecting`.

use crate::script::*;
use crate::*;

/// Connects to one node within a second.
fn connect(script: Script) -> Result<Session<ScriptPq>, RemoteError> {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    connect_all(&mut waiter, &[node("n", [script])], deadline).remove(0)
}

#[test]
fn a_connection_is_made_and_dropped() {
    let session = connect(Script::connects(5)).unwrap();
    assert_eq!(session.state(), SessionState::Idle);
    assert_eq!(open_connections(), 1);
    drop(session);
    assert_eq!(open_connections(), 0);
}

#[test]
fn the_socket_may_change_at_every_step() {
    let session = connect(Script::connects(5).changing_socket()).unwrap();
    assert_eq!(session.state(), SessionState::Idle);
}

#[test]
fn refused_by_the_host() {
    let error = connect(Script::fails(
        3,
        "connection to server at \"n\", port 5432 failed: Connection refused\n\
         \tIs the server running on that host and accepting TCP/IP connections?\n",
    ))
    .unwrap_err();
    assert!(matches!(&error, RemoteError::Connect { sqlstate: None, .. }), "{error:?}");
    assert_eq!(error.to_string(), "could not connect to n:5432: Connection refused");
    assert_eq!(open_connections(), 0);
}

#[test]
fn refused_by_the_server() {
    let error = connect(Script::fails(
        3,
        "connection to server at \"n\", port 5432 failed: FATAL:  28P01: password authentication \
         failed for user \"backup\"\nLOCATION:  auth_failed, auth.c:326\n",
    ))
    .unwrap_err();
    assert!(matches!(&error, RemoteError::Refused { .. }), "{error:?}");
    assert_eq!(error.sqlstate(), Some("28P01"));
    assert_eq!(
        error.to_string(),
        "n:5432 refused the connection: password authentication failed for user \"backup\""
    );
}

#[test]
fn refused_for_want_of_a_password() {
    let failure =
        "connection to server at \"n\", port 5432 failed: fe_sendauth: no password supplied\n";
    let error = connect(Script::fails(3, failure).needs_password()).unwrap_err();
    assert!(matches!(&error, RemoteError::Refused { sqlstate: None, .. }), "{error:?}");
    assert_eq!(error.server_message(), Some("fe_sendauth: no password supplied"));
}

#[test]
fn declined_by_a_server_that_is_starting() {
    let error = connect(Script::fails(
        3,
        "connection to server at \"n\", port 5432 failed: FATAL:  57P03: the database system is \
         starting up\n",
    ))
    .unwrap_err();
    assert!(matches!(&error, RemoteError::Connect { .. }), "{error:?}");
    assert_eq!(error.sqlstate(), Some("57P03"));
}

#[test]
fn a_silent_server_costs_the_deadline() {
    let error = connect(Script::silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not connect to n:5432 within 1000 ms: \
         the host accepts connections but the server does not answer"
    );
    assert_eq!(open_connections(), 0);
}

#[test]
fn a_silent_host_costs_the_deadline() {
    let error = connect(Script::fails(5000, "never seen")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not connect to n:5432 within 1000 ms: the host does not answer"
    );
}

#[test]
fn a_connection_just_before_its_deadline_is_taken() {
    assert!(connect(Script::connects(1000)).is_ok());
    assert!(connect(Script::connects(1001)).is_err());
}

#[test]
fn parameters_that_libpq_cannot_take() {
    let bad = ConnInfoError::ZeroByte { keyword: "user".into() };
    let error = connect(Script::no_start(StartError::ConnInfo(bad))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid connection parameters for n:5432: the value of \"user\" contains a zero byte"
    );
    let error = connect(Script::no_start(StartError::NoMemory)).unwrap_err();
    assert_eq!(error.to_string(), "not enough memory for connect on n:5432");
}

#[test]
fn names_are_not_looked_up_when_the_time_is_over() {
    let slow_lookup = || Script::connects(1).start_takes(600);
    let targets = ["a", "b", "c"].map(|host| node(host, [slow_lookup()]));
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let results = connect_all::<ScriptPq, _>(&mut waiter, &targets, deadline);
    assert_eq!(waiter.now(), ms(1200));
    assert_eq!(
        results[2].as_ref().unwrap_err().to_string(),
        "could not connect to c:5432 within 1200 ms: no time was left to try it"
    );
}

#[test]
fn stopped_while_connecting() {
    let mut waiter = ScriptWaiter::stopping_at(10);
    let deadline = Deadline::after(&waiter, ms(1000));
    let targets = [node("fast", [Script::connects(5)]), node("slow", [Script::connects(50)])];
    let mut results = connect_all::<ScriptPq, _>(&mut waiter, &targets, deadline);
    assert_eq!(
        results.pop().unwrap().unwrap_err().to_string(),
        "connect on slow:5432 was interrupted"
    );
    assert!(results.pop().unwrap().is_ok());
    assert_eq!(waiter.now(), ms(10));
    assert_eq!(open_connections(), 0);
}

#[test]
fn nothing_leaks_when_the_waiter_unwinds() {
    let targets = [node("a", [Script::connects(5)]), node("b", [Script::silent()])];
    let unwound = std::panic::catch_unwind(|| {
        let mut waiter = ScriptWaiter { unwinds_at: Some(ms(10)), ..ScriptWaiter::default() };
        let deadline = Deadline::after(&waiter, ms(1000));
        connect_all::<ScriptPq, _>(&mut waiter, &targets, deadline).len()
    });
    assert!(unwound.is_err());
    assert_eq!(open_connections(), 0);
}

#[test]
fn no_targets_no_wait() {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    assert!(connect_all::<ScriptPq, _>(&mut waiter, &[], deadline).is_empty());
    assert_eq!(waiter.waits, 0);
}

/// Connects to all within a second and has them say something.
fn begin(targets: &[Target]) -> (Vec<Begun<ScriptPq>>, std::time::Duration) {
    let mut waiter = ScriptWaiter::default();
    let before = waiter.now();
    let deadline = Deadline::after(&waiter, ms(1000));
    let connecting = Connecting::start(&waiter, targets, deadline);
    let begun = connecting.run(&mut waiter, &Command::new("say", "SAY"), deadline);
    (begun, waiter.now() - before)
}

#[test]
fn the_quick_do_not_wait_for_the_slow() {
    let quick_to_connect = Script::connects(10).answers([rows(300)]);
    let slow_to_connect = Script::connects(300).answers([rows(10)]);
    let (begun, took) = begin(&[node("a", [quick_to_connect]), node("b", [slow_to_connect])]);
    assert_eq!(took, ms(310), "and not the 600 ms of one step after the other");
    for (begun, host) in begun.into_iter().zip(["a", "b"]) {
        let (session, reply) = begun.unwrap();
        assert_eq!(session.node().host, host);
        assert_eq!(session.state(), SessionState::Idle);
        assert!(reply.is_ok(), "{reply:?}");
    }
}

#[test]
fn each_first_command_has_its_own_end() {
    let targets = [
        node("silent", [Script::silent()]),
        node("stuck", [Script::connects(5).answers([hangs()])]),
        node("lost", [Script::connects(5).answers([vec![(5, Incoming::Eof(EOF))]])]),
        node("well", [Script::connects(5).answers([rows(5)])]),
    ];
    let (mut begun, took) = begin(&targets);
    assert_eq!(took, ms(1000));
    assert!(matches!(begun.pop(), Some(Ok((_, Ok(_))))));
    let (lost, reply) = begun.pop().unwrap().unwrap();
    assert!(matches!(reply, Err(RemoteError::Lost { command: "say", .. })), "{reply:?}");
    assert_eq!(lost.state(), SessionState::Broken);
    let (stuck, reply) = begun.pop().unwrap().unwrap();
    assert!(matches!(reply, Err(RemoteError::Timeout { command: "say", .. })), "{reply:?}");
    assert_eq!(stuck.state(), SessionState::Busy);
    let silent = begun.pop().unwrap().err();
    assert!(matches!(silent, Some(RemoteError::ConnectTimeout { .. })), "{silent:?}");
    drop((lost, stuck));
    assert_eq!(open_connections(), 0);
}

#[test]
fn an_introduction_ends_where_the_servers_go_on_by_themselves() {
    let targets = [
        node("at once", [Script::connects(50)]),
        node("asks for TLS first", [Script::connects(50).negotiates(4)]),
        node("refuses", [Script::fails(3, "no\n")]),
    ];
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let mut connecting = Connecting::<ScriptPq>::start(&waiter, &targets, deadline);
    connecting.introduce(&mut waiter, ms(10));
    assert_eq!(waiter.now(), ms(4), "the last of them is told");
    // So it goes on as if nothing had been done with it before.
    let begun = connecting.run(&mut waiter, &Command::new("say", "SAY"), deadline);
    assert_eq!(waiter.now(), ms(54));
    let [at_once, asked, refused] = begun.try_into().ok().unwrap();
    assert!(matches!((at_once, asked), (Ok((_, Ok(_))), Ok((_, Ok(_))))));
    assert!(matches!(refused, Err(RemoteError::Connect { .. })));
}

#[test]
fn an_introduction_waits_no_longer_than_it_may() {
    let targets = [node("far", [Script::connects(5).negotiates(200)])];
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let mut connecting = Connecting::<ScriptPq>::start(&waiter, &targets, deadline);
    connecting.introduce(&mut waiter, ms(10));
    assert_eq!(waiter.now(), ms(10));
    let mut begun = connecting.run(&mut waiter, &Command::new("say", "SAY"), deadline);
    assert!(matches!(begun.pop(), Some(Ok((_, Ok(_))))));
    assert_eq!(waiter.now(), ms(205));
}

#[test]
fn an_introduction_that_is_stopped_leaves_it_to_the_rest() {
    let targets = [node("far", [Script::connects(5).negotiates(200)])];
    let mut waiter = ScriptWaiter::stopping_at(3);
    let deadline = Deadline::after(&waiter, ms(1000));
    let mut connecting = Connecting::<ScriptPq>::start(&waiter, &targets, deadline);
    connecting.introduce(&mut waiter, ms(10));
    assert_eq!(waiter.now(), ms(3));
    let mut begun = connecting.run(&mut waiter, &Command::new("say", "SAY"), deadline);
    let stopped = begun.pop().unwrap().err();
    assert!(matches!(stopped, Some(RemoteError::Stopped { .. })), "{stopped:?}");
    assert_eq!(open_connections(), 0);
}

#[test]
fn what_has_become_a_session_by_itself_begins_at_once() {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(1000));
    let targets =
        [node("slow", [Script::connects(20)]), node("quick", [Script::connects(5).untold()])];
    let mut connecting = Connecting::<ScriptPq>::start(&waiter, &targets, deadline);
    connecting.introduce(&mut waiter, ms(10));
    assert_eq!(waiter.now(), ms(5));
    let begun = connecting.run(&mut waiter, &Command::new("say", "SAY"), deadline);
    assert_eq!(waiter.now(), ms(20));
    assert_eq!(sent(), ["quick: SAY", "slow: SAY"]);
    assert!(begun.into_iter().all(|begun| matches!(begun, Ok((_, Ok(_))))));
}
