//! A call that reserves a node and does not get to its end: the node is reserved or it is not, in all that
//! it says, does, and comes back as.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use readonly_tests::reserved::{
    RELEASE, RESERVE, WRITE, assert_reserved, file, promote, state, with_standby, writes,
};
use readonly_tests::{
    Call, Engine, PATIENCE, Result, Server, StopMode, db_error, give_as, on_each_engine, refusal,
    value, wait_until,
};

const ROUNDS: usize = 60;

/// Whether the node is reserved, which its file says too.
fn is_reserved(node: &Server, when: &str) -> Result<bool> {
    let shown = state(node)?;
    let there = file(node).exists();
    assert_eq!(shown, if there { "reserved 7" } else { "standby" }, "{when}");
    Ok(there)
}

/// What the file is called while it is written.
fn draft(node: &Server) -> PathBuf {
    file(node).with_extension("reserved.tmp")
}

/// Strikes the process as soon as a file is there, if that is before it is told to stop.
fn strike_once_there(path: &Path, pid: Pid, signal: Signal, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::SeqCst) {
        if path.exists() {
            kill(pid, signal).expect("a signal");
            return true;
        }
    }
    false
}

#[test]
fn cancelled_or_terminated_at_any_moment() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        let (mut struck, mut reserved) = (0, 0);
        for round in 0..ROUNDS {
            let signal = if round % 2 == 0 { Signal::SIGINT } else { Signal::SIGTERM };
            // When it is being written, when it is written, and at once.
            let path = [draft, file, Server::data_dir][round / 2 % 3](clone);
            let mut client = clone.connect()?;
            let pid = value(&mut client, "SELECT pg_backend_pid()").parse().expect("a process");
            let stop = AtomicBool::new(false);
            let result = std::thread::scope(|scope| {
                let (path, stop) = (&path, &stop);
                let watcher =
                    scope.spawn(move || strike_once_there(path, Pid::from_raw(pid), signal, stop));
                let result = client.simple_query(RESERVE);
                stop.store(true, Ordering::SeqCst);
                struck += usize::from(watcher.join().expect("a thread"));
                result
            });
            let when = format!("round {round}, {signal}: {result:?}");
            let is_reserved = is_reserved(clone, &when)?;
            match &result {
                Ok(_) => assert!(is_reserved, "{when}"),
                Err(error) if signal == Signal::SIGINT => {
                    assert_eq!(db_error("a cancelled call", error).code().code(), "57014");
                    assert!(!is_reserved, "{when}");
                }
                // Its session ended before it could hear what came of it.
                Err(_) => {}
            }
            reserved += usize::from(is_reserved);
            if round % 20 == 19 {
                clone.stop(StopMode::Immediate)?;
                clone.start()?;
                assert_eq!(self::is_reserved(clone, "after a crash")?, is_reserved, "{when}");
            }
            // Nobody is left who keeps others out.
            clone.execute(RESERVE)?;
            clone.execute(RELEASE)?;
            assert!(!self::is_reserved(clone, "released")?);
        }
        println!("{}: {struck} of {ROUNDS} struck, {reserved} reserved", engine.name());
        assert!(struck > 0, "no signal came before the answer");
        assert!(0 < reserved && reserved < ROUNDS, "{reserved}: all signals came at one moment");
        promote(clone)?;
        assert!(writes(&mut clone.connect()?, WRITE));
        Ok(())
    });
}

/// The file that is to be renamed is a pipe that nobody reads, so the call gets no further.
fn begin_and_stall(node: &Server) -> Result<Call> {
    mkfifo(&draft(node), Mode::from_bits_truncate(0o666)).expect("a pipe");
    give_as(&draft(node), node);
    let call = Call::begin(node, RESERVE);
    wait_until("the call to begin", PATIENCE, || {
        let find = "SELECT count(*) FROM pg_stat_activity
             WHERE query LIKE '%reserve_node(7%' AND state = 'active' AND pid <> pg_backend_pid()";
        (node.query_value(find).ok()? == "1").then_some(())
    })?;
    Ok(call)
}

#[test]
fn struck_down_while_it_is_written_down() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        for at_once in [true, false] {
            let call = begin_and_stall(clone)?;
            assert!(!is_reserved(clone, "while it is written down")?);
            if at_once {
                clone.crash()?
            } else {
                clone.stop(StopMode::Immediate)?
            }
            call.join().expect_err("a call on a server that is gone");
            clone.start()?;
            assert!(!is_reserved(clone, "after the crash")?);
            assert!(!draft(clone).exists(), "something is left that is half written");
            clone.execute(RESERVE)?;
            clone.execute(RELEASE)?;
        }
        clone.execute(RESERVE)?;
        promote(clone)?;
        assert_reserved(clone, "promoted")
    });
}

#[test]
fn calls_come_one_after_the_other_and_a_wait_can_be_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        let first = begin_and_stall(clone)?;
        let mut second = clone.connect()?;
        second.batch_execute("SET statement_timeout = '300ms'").expect("a setting");
        for call in [RESERVE, RELEASE, "SELECT citus_fence.release_node_by_force(7)"] {
            let error = refusal(&mut second, call);
            assert_eq!(error.code().code(), "57014", "{call}: {error:?}");
        }
        assert!(!first.is_finished());
        // Nobody else waits meanwhile.
        assert_eq!(value(&mut second, "SELECT state FROM citus_fence.stat_gate"), "standby");
        let mut read = Vec::new();
        let mut pipe = OpenOptions::new().read(true).open(draft(clone)).expect("the pipe");
        pipe.read_to_end(&mut read).expect("the text");
        // What came through the pipe is on no disk: the first call fails, and the next one has its turn.
        let error = first.join().expect_err("a pipe that was brought to disk");
        assert_eq!(db_error("the first call", &error).code().code(), "58030");
        assert!(!is_reserved(clone, "the first call has failed")?);
        std::fs::remove_file(draft(clone)).expect("the pipe goes");
        second.batch_execute(RESERVE).expect("the second call");
        assert!(is_reserved(clone, "the second call is through")?);
        Ok(())
    });
}

#[test]
fn what_cannot_be_written_down_is_not_taken_up() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        let path = file(clone);
        std::fs::create_dir_all(path.join("occupied")).expect("a folder");
        let mut client = clone.connect()?;
        let error = refusal(&mut client, RESERVE);
        assert_eq!(error.code().code(), "58030", "{error:?}");
        assert_eq!(state(clone)?, "standby");
        std::fs::remove_dir_all(&path).expect("the folder goes");
        client.batch_execute(RESERVE).expect("the way is free");
        promote(clone)?;
        assert_reserved(clone, "promoted")
    });
}
