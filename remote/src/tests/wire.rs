//! Covers `ffi` and `poll`: the real libpq against a listener that says a few bytes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::script::ms;
use crate::*;

/// Long enough for a busy machine; no test that passes waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The target of a port here.
fn target(port: u16) -> Target {
    let port = i32::from(port);
    let mut params = base_params("127.0.0.1", port, "d", "u", "app", ms(1000));
    params.set("sslmode", "disable").set("gssencmode", "disable").set("password", "hunter2");
    Target { node: NodeLabel::new(7, "127.0.0.1", port), params }
}

/// Connects within a time.
fn connect(port: u16, within: Duration) -> Result<Session, RemoteError> {
    let mut waiter = PollWaiter::new();
    let deadline = Deadline::after(&waiter, within);
    connect_all(&mut waiter, &[target(port)], deadline).remove(0)
}

/// A protocol message.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

/// ErrorResponse or NoticeResponse.
fn report(kind: u8, severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0Dthe detail\0\0");
    message(kind, fields.as_bytes())
}

/// ReadyForQuery, idle.
fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// A row of one text column, `one`, and how the statement ends.
fn one_row(value: &[u8]) -> Vec<u8> {
    let description = [&[0, 1], b"one\0".as_slice(), &[0; 6], &[0, 0, 0, 25], &[0xff; 6], &[0; 2]];
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    [
        message(b'T', &description.concat()),
        message(b'D', &[[0, 1].as_slice(), &length, value].concat()),
        message(b'C', b"SELECT 1\0"),
    ]
    .concat()
}

/// A listener that takes one connection, sees its startup packet, says `greeting`, and then says
/// each answer to what it is sent. With the last it closes.
fn server(greeting: Vec<u8>, answers: Vec<Vec<u8>>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hear = |stream: &mut TcpStream| stream.read(&mut [0; 4096]).unwrap();
        hear(&mut stream);
        stream.write_all(&greeting).unwrap();
        for answer in answers {
            hear(&mut stream);
            stream.write_all(&answer).unwrap();
        }
    };
    (port, thread::spawn(serve))
}

/// AuthenticationOk, BackendKeyData of process 4711, and what follows.
fn welcome(rest: &[Vec<u8>]) -> Vec<u8> {
    let key = [4711_u32.to_be_bytes(), [0; 4]].concat();
    [message(b'R', &[0; 4]), message(b'K', &key), rest.concat()].concat()
}

/// Runs a command.
fn run(session: &mut Session) -> Result<Reply, RemoteError> {
    let mut waiter = PollWaiter::new();
    let deadline = Deadline::after(&waiter, PATIENCE);
    session.run(&mut waiter, Command::new("probe", "SELECT 1"), deadline)
}

#[test]
fn an_answer_an_error_and_the_end() {
    let answers = vec![
        [report(b'N', "WARNING", "01000", "psst"), one_row(b"41"), one_row(b"42"), ready()]
            .concat(),
        [report(b'E', "ERROR", "55P03", "lock\ntimeout"), ready()].concat(),
        report(b'E', "FATAL", "57P01", "terminating connection"),
    ];
    let (port, server) = server(welcome(&[ready()]), answers);
    let mut session = connect(port, PATIENCE).unwrap();
    assert_eq!(session.startup_pid(), Some(4711));
    assert_eq!(session.transaction_status(), TransactionStatus::Idle);

    let reply = run(&mut session).unwrap();
    assert_eq!(reply.sets.len(), 2);
    assert_eq!(reply.single_value(), Ok("42"));
    assert_eq!(reply.sets[0].columns, ["one"]);
    assert_eq!((reply.sets[0].command_tag.as_str(), reply.sets[0].affected), ("SELECT 1", 1));

    let error = run(&mut session).unwrap_err();
    assert_eq!(error.to_string(), format!("probe failed on 127.0.0.1:{port}: lock timeout"));
    assert_eq!(error.sqlstate(), Some("55P03"));
    assert_eq!(error.server_error().unwrap().detail.as_deref(), Some("the detail"));

    let lost = run(&mut session).unwrap_err();
    assert!(matches!(lost, RemoteError::Lost { .. }), "{lost:?}");
    assert_eq!(lost.server_message(), Some("terminating connection"));
    assert_eq!(lost.sqlstate(), Some("57P01"));
    server.join().unwrap();
}

#[test]
fn last_words_of_an_idle_session() {
    let words = report(b'E', "FATAL", "25P03", "idle for too long");
    let (port, server) = server(welcome(&[ready(), words]), vec![]);
    let mut session = connect(port, PATIENCE).unwrap();
    server.join().unwrap();
    let end = watch(&mut PollWaiter::new(), &mut [&mut session], PATIENCE);
    let WatchEnd::Lost { index: 0, error } = end else { panic!("{end:?}") };
    assert_eq!(
        error.to_string(),
        format!("lost the connection to 127.0.0.1:{port} during idle hold: idle for too long")
    );
    assert_eq!(error.sqlstate(), Some("25P03"));
}

#[test]
fn a_server_process_that_leaves_in_a_hurry_says_so_in_a_warning() {
    let words = "terminating connection because of crash of another server process";
    let warning = report(b'N', "WARNING", "57P02", words);
    for (greeting, answers) in [
        (welcome(&[ready(), warning.clone()]), vec![]),
        (welcome(&[ready()]), vec![warning.clone()]),
    ] {
        let busy = !answers.is_empty();
        let (port, server) = server(greeting, answers);
        let mut session = connect(port, PATIENCE).unwrap();
        if busy {
            session.send(&Command::new("probe", "SELECT 1")).unwrap();
        }
        let end = watch(&mut PollWaiter::new(), &mut [&mut session], PATIENCE);
        let WatchEnd::Lost { index: 0, error } = end else { panic!("{end:?}") };
        assert_eq!(error.server_message(), Some(words));
        assert_eq!(error.sqlstate(), Some("57P02"));
        server.join().unwrap();
    }
}

#[test]
fn a_copy_and_an_end_of_file() {
    let copy = message(b'G', &[0, 0, 0]);
    let (port, copying) = server(welcome(&[ready()]), vec![copy]);
    let error = run(&mut connect(port, PATIENCE).unwrap()).unwrap_err();
    assert!(matches!(error, RemoteError::Unexpected { .. }), "{error:?}");
    copying.join().unwrap();

    let (port, closing) = server(welcome(&[ready()]), vec![vec![]]);
    let error = run(&mut connect(port, PATIENCE).unwrap()).unwrap_err();
    assert!(matches!(error, RemoteError::Lost { sqlstate: None, .. }), "{error:?}");
    assert_eq!(error.server_message(), Some("server closed the connection unexpectedly"));
    closing.join().unwrap();
}

#[test]
fn a_refused_user() {
    let (port, server) = server(report(b'E', "FATAL", "28P01", "wrong password"), vec![]);
    let error = connect(port, PATIENCE).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("127.0.0.1:{port} refused the connection: wrong password")
    );
    assert_eq!(error.sqlstate(), Some("28P01"));
    server.join().unwrap();
}

#[test]
fn a_port_where_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = connect(port, PATIENCE).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("could not connect to 127.0.0.1:{port}: Connection refused")
    );
}

#[test]
fn a_server_that_accepts_and_is_silent() {
    // The kernel accepts for a listener that never does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = Instant::now();
    let error = connect(port, ms(80)).unwrap_err();
    assert!(started.elapsed() >= ms(80));
    let RemoteError::ConnectTimeout { reached, .. } = error else { panic!("{error:?}") };
    assert_eq!(reached, ConnStatus::Introduced);
}

#[test]
fn what_is_ready_is_seen_without_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let of = |read, write| Interest { socket: client.as_raw_fd(), read, write };
    assert_eq!(ready_now(&[]), None);
    assert_eq!(ready_now(&[of(true, false)]), None, "nothing has come");
    let writable = Readiness { index: 1, read: false, write: true };
    assert_eq!(ready_now(&[of(true, false), of(true, true)]), Some(vec![writable]));
    server.write_all(b"x").unwrap();
    // It is on its way through the kernel.
    PollWaiter::new().wait(&[of(true, false)], PATIENCE);
    let readable = Readiness { index: 0, read: true, write: false };
    assert_eq!(ready_now(&[of(true, false)]), Some(vec![readable]));
}

#[test]
fn invalid_settings_are_errors_without_secrets() {
    let mut target = target(1);
    target.params.set("sslmode", "hunter2");
    let mut waiter = PollWaiter::new();
    let deadline = Deadline::after(&waiter, PATIENCE);
    let error =
        connect_all::<LibPq, _>(&mut waiter, &[target.clone()], deadline).remove(0).unwrap_err();
    assert!(matches!(error, RemoteError::Connect { .. }), "{error:?}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    target.params.set("user", "a\0b");
    let error = connect_all::<LibPq, _>(&mut waiter, &[target], deadline).remove(0).unwrap_err();
    assert!(matches!(error, RemoteError::BadConnInfo { .. }), "{error:?}");
}

#[test]
fn poll_finds_what_is_ready() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let interest = |read, write| Interest { socket: ours.as_raw_fd(), read, write };
    let mut waiter = PollWaiter::new();
    assert_eq!(waiter.wait(&[interest(true, false)], ms(10)), WaitEnd::TimedOut);
    let both = [interest(true, false), interest(true, true)];
    let writable = Readiness { index: 1, read: false, write: true };
    assert_eq!(waiter.wait(&both, PATIENCE), WaitEnd::Ready(vec![writable]));
    theirs.write_all(b"x").unwrap();
    let readable = Readiness { index: 0, read: true, write: false };
    assert_eq!(waiter.wait(&both[..1], PATIENCE), WaitEnd::Ready(vec![readable]));
    // A hang-up counts as readable.
    drop(theirs);
    assert_eq!(waiter.wait(&both[..1], PATIENCE), WaitEnd::Ready(vec![readable]));
    // And so does what is no open socket: libpq is to find out, not the waiter.
    let closed = Interest { socket: i32::MAX, read: true, write: false };
    assert_eq!(waiter.wait(&[closed], PATIENCE), WaitEnd::Ready(vec![readable]));
}

#[test]
fn poll_waits_the_whole_timeout_and_can_be_stopped() {
    let mut waiter = PollWaiter::new();
    let started = waiter.now();
    assert_eq!(waiter.wait(&[], ms(20)), WaitEnd::TimedOut);
    assert!(waiter.now() - started >= ms(20));
    let stop = Arc::new(AtomicBool::new(false));
    let mut waiter = PollWaiter::with_stop(Arc::clone(&stop));
    let stopper = thread::spawn(move || {
        thread::sleep(ms(20));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(waiter.wait(&[], PATIENCE), WaitEnd::Stopped);
    stopper.join().unwrap();
}

#[test]
fn a_place_that_is_left_to_libpq_becomes_known() {
    let (port, served) = server(welcome(&[ready()]), Vec::new());
    let mut params = program_params("app", ms(1000));
    // Two places, of which the first refuses: the one that was reached is named and kept.
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    params.set("host", "127.0.0.1,127.0.0.1").set("port", format!("{refusing},{port}"));
    params.set("dbname", "d").set("user", "u").set("sslmode", "disable");
    let target = Target { node: NodeLabel::not_known(), params };
    assert_eq!(target.node.to_string(), "the server");
    let mut waiter = PollWaiter::new();
    let deadline = Deadline::after(&waiter, PATIENCE);
    let session =
        connect_all::<LibPq, _>(&mut waiter, std::slice::from_ref(&target), deadline).remove(0);
    let session = session.expect("a session");
    assert_eq!(session.node(), &NodeLabel::unregistered("127.0.0.1", i32::from(port)));
    assert_eq!(session.params().get("port"), Some(port.to_string().as_str()));
    assert_eq!(session.params().get("host"), Some("127.0.0.1"));
    assert_eq!(session.params().get("hostaddr"), Some("127.0.0.1"));
    served.join().unwrap();

    // Where none is reached, the error names the last.
    let mut nowhere = target;
    nowhere.params.set("host", "127.0.0.1").set("port", refusing.to_string());
    let refused = connect_all::<LibPq, _>(&mut waiter, &[nowhere], deadline).remove(0);
    let error = refused.expect_err("a listener that has gone").to_string();
    assert!(error.contains(&format!("could not connect to 127.0.0.1:{refusing}:")), "{error}");
}
