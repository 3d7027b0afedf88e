//! A cancel that comes when the switch is as good as done: whoever gets an error finds a node that writes,
//! and whoever gets an answer one that does not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use readonly_tests::{
    Engine, READ_ONLY, assert_agrees, assert_untouched, db_error, on_each_engine, open, refusal,
    serve, single, state_file, value,
};

const ROUNDS: usize = 80;
/// Takes a minute where nobody ends it.
const SLOW: &str = "SELECT count(*) FROM generate_series(1, 30000) a, generate_series(1, 30000) b";

/// Cancels the query of a process as soon as a file is there, if that is before it is told to stop; when.
fn cancel_once_there(path: &Path, pid: Pid, stop: &AtomicBool) -> Option<Instant> {
    while !stop.load(Ordering::SeqCst) {
        if path.exists() {
            let struck = Instant::now();
            kill(pid, Signal::SIGINT).expect("a signal");
            return Some(struck);
        }
    }
    None
}

/// Struck when the last writer has gone: when the state is being written down, or is written down.
#[test]
fn an_error_leaves_the_node_writing_and_an_answer_does_not() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        let pid = value(&mut client, "SELECT pg_backend_pid()").parse().expect("a process");
        let file = state_file(node);
        let draft = file.with_extension("read_only.tmp");
        let (mut in_time, mut answered) = (0, 0);
        for round in 0..ROUNDS {
            let path = if round % 2 == 0 { &draft } else { &file };
            let stop = AtomicBool::new(false);
            let (result, ended, struck) = std::thread::scope(|scope| {
                let watcher = scope.spawn(|| cancel_once_there(path, Pid::from_raw(pid), &stop));
                let result = client.simple_query(READ_ONLY);
                let ended = Instant::now();
                stop.store(true, Ordering::SeqCst);
                (result, ended, watcher.join().expect("a thread"))
            });
            in_time += u32::from(struck.is_some_and(|struck| struck < ended));
            if let Err(error) = &result {
                let error = db_error("a cancelled call", error);
                assert_eq!(error.code().code(), "57014", "{error:?}");
            }
            let closed = assert_agrees(node)?;
            assert_eq!(closed, result.is_ok(), "round {round}: not what was told: {result:?}");
            assert_eq!(closed, file.exists(), "round {round}: not what a restart would make of it");
            if closed {
                answered += 1;
                open(node)?;
            }
        }
        println!("{}: {in_time} of {ROUNDS} struck in time, {answered} answered", engine.name());
        assert!(in_time > 0, "no cancel came before the answer");
        node.restart()?;
        assert!(!assert_agrees(node)?);
        assert_untouched(node)
    });
}

/// What was too late for the call is not kept for what comes next, which can be cancelled as ever.
#[test]
fn the_next_statement_is_cancelled_by_its_own_cancel_only() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for begin in ["BEGIN", "SELECT 1"] {
            let mut client = node.connect()?;
            client.batch_execute("SET statement_timeout = '200ms'").expect("a setting");
            client.batch_execute(begin).expect(begin);
            let pid = value(&mut client, "SELECT pg_backend_pid()");
            client.batch_execute(READ_ONLY).expect("the call");
            // Nothing runs there.
            node.execute(&format!("SELECT pg_cancel_backend({pid})"))?;
            assert_eq!(value(&mut client, "SELECT 1"), "1");
            let error = refusal(&mut client, SLOW);
            assert_eq!(error.code().code(), "57014", "{error:?}");
            client.batch_execute("ROLLBACK").expect("a rollback");
            open(node)?;
        }
        assert_untouched(node)
    });
}
