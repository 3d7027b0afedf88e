//! Crashes at every step of the switch, both ways: afterwards the node is in one of its two states, in
//! all that it says and does, and in the one that the caller was told, if he was told.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use readonly_tests::{
    Engine, Kill, PATIENCE, READ_ONLY, READ_WRITE, Server, StopMode, assert_agrees,
    assert_untouched, await_closing, close, is_read_only, on_each_engine, open, serve, single,
    state_file, wait_until, writes,
};

/// After the call has returned its state is kept, whatever happens.
#[test]
fn what_the_caller_was_told_survives() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for kill in Kill::ALL {
            close(node)?;
            kill.strike(node, "")?;
            assert!(assert_agrees(node)?, "{kill:?} opened it");
            open(node)?;
            kill.strike(node, "")?;
            assert!(!assert_agrees(node)?, "{kill:?} closed it");
        }
        // Ordinary stops and starts as well.
        close(node)?;
        for mode in [StopMode::Smart, StopMode::Fast] {
            if engine == Engine::Citus && mode == StopMode::Smart {
                // It would wait for what other nodes' daemons keep connected.
                continue;
            }
            node.stop(mode)?;
            node.start()?;
            assert!(assert_agrees(node)?, "{mode:?} opened it");
        }
        open(node)?;
        node.restart()?;
        assert!(!assert_agrees(node)?);
        Ok(())
    });
}

/// Struck while the call waits for a writer: nobody was told anything, and nothing is in between.
#[test]
fn struck_while_it_waits_for_writers() {
    const CALL: &str = "SELECT alter_system_read_only(false)";
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for kill in Kill::ALL {
            let mut writer = node.connect()?;
            writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
            let params = node.connect_params();
            let caller = std::thread::spawn(move || {
                params.connect().expect("a connection").simple_query(CALL).is_err()
            });
            await_closing(node)?;
            kill.strike(node, CALL)?;
            assert!(caller.join().expect("a thread"), "{kill:?}: the call succeeded");
            // The call had not come to the point of writing anything down.
            assert!(!assert_agrees(node)?, "{kill:?} left it closed");
            assert!(writes(&mut node.connect()?));
            drop(writer);
            // It can be closed and opened as before.
            close(node)?;
            assert!(assert_agrees(node)?);
            open(node)?;
        }
        Ok(())
    });
}

/// What the caller of a switch knows.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The state that he was told last.
    closed: bool,
    /// Whether he waits for an answer.
    asking: bool,
}

/// Struck at any moment while somebody switches to and fro as fast as he can.
#[test]
fn struck_at_any_moment() {
    const ROUNDS: usize = 24;
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut unanswered = 0;
        for round in 0..ROUNDS {
            let kill = Kill::ALL[round % Kill::ALL.len()];
            let told = Arc::new(Mutex::new(Told { closed: is_read_only(node)?, asking: false }));
            let calls = Arc::new(AtomicU64::new(0));
            let caller = switch_to_and_fro(node, told.clone(), calls.clone());
            // Some calls later, and some way into one.
            let enough = 2 + round as u64 % 7;
            wait_until("calls", PATIENCE, || {
                (calls.load(Ordering::SeqCst) >= enough).then_some(())
            })?;
            spin(Duration::from_micros(150 * (round as u64 * 7 % 23)));
            kill.strike(node, "alter_system_read")?;
            caller.join().expect("a thread");
            let told = *told.lock().expect("no panic");
            let closed = assert_agrees(node)?;
            if told.asking {
                unanswered += 1;
            } else {
                assert_eq!(closed, told.closed, "round {round}, {kill:?}: not what was told");
            }
        }
        println!("{}: {unanswered} of {ROUNDS} struck in the middle of a call", engine.name());
        assert!(unanswered > 0, "no strike hit a call");
        open(node)?;
        assert!(!assert_agrees(node)?);
        // A writer's page or file may be lost to a crash, but nothing is half there for the catalog.
        assert!(!node.log().contains("PANIC"), "{}", node.log());
        Ok(())
    });
}

fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Calls one after the other, until one fails.
fn switch_to_and_fro(
    node: &Server,
    told: Arc<Mutex<Told>>,
    calls: Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    let params = node.connect_params();
    std::thread::spawn(move || {
        let mut client = params.connect().expect("a connection");
        loop {
            let closes = {
                let mut told = told.lock().expect("no panic");
                told.asking = true;
                !told.closed
            };
            calls.fetch_add(1, Ordering::SeqCst);
            if client.simple_query(if closes { READ_ONLY } else { READ_WRITE }).is_err() {
                return;
            }
            *told.lock().expect("no panic") = Told { closed: closes, asking: false };
        }
    })
}

/// A crash of somebody else makes the server start all of its processes anew, without a new postmaster.
#[test]
fn the_crash_of_any_backend_changes_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        for title in ["checkpointer", "walwriter", "background writer"] {
            let victim = node
                .processes()?
                .into_iter()
                .find(|process| process.title.contains(title))
                .unwrap_or_else(|| panic!("there is no {title}"));
            Kill::kill_process(node, victim.pid)?;
            assert!(assert_agrees(node)?, "the end of the {title} opened it");
        }
        open(node)?;
        assert!(!assert_agrees(node)?);
        let crashes = node.log().matches("terminated by signal 9").count();
        assert_eq!(crashes, 3);
        Ok(())
    });
}

/// Struck after the last writer has gone and before the state is on disk: the file that is to be renamed
/// is a pipe that nobody reads, so the call gets no further.
#[test]
fn struck_while_it_writes_the_state_down() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let draft = state_file(node).with_extension("read_only.tmp");
        for kill in Kill::ALL {
            mkfifo(&draft, Mode::from_bits_truncate(0o666)).expect("a pipe");
            readonly_tests::give_as(&draft, node);
            let params = node.connect_params();
            let caller = std::thread::spawn(move || {
                params.connect().expect("a connection").simple_query(READ_ONLY).is_err()
            });
            await_closing(node)?;
            // No writer is left, and none gets in.
            assert!(!writes(&mut node.connect()?));
            assert!(!caller.is_finished());
            if kill == Kill::Postmaster {
                node.kill_postmaster(Signal::SIGKILL)?;
                // A process that waits for a pipe does not see that its postmaster has gone.
                let reader = OpenOptions::new()
                    .read(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(&draft);
                drop(reader.expect("the pipe's other end"));
                node.start()?;
            } else {
                kill.strike(node, READ_ONLY)?;
            }
            assert!(caller.join().expect("a thread"), "{kill:?}: the call succeeded");
            assert!(!assert_agrees(node)?, "{kill:?} left it closed");
            assert!(!draft.exists(), "{kill:?} left a file that is half written");
            close(node)?;
            assert!(assert_agrees(node)?);
            open(node)?;
        }
        Ok(())
    });
}

#[test]
fn a_state_that_cannot_be_written_down_is_not_taken_up() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        // A folder is in the file's place.
        let path = state_file(node);
        std::fs::create_dir_all(path.join("occupied")).expect("a folder");
        let error = close(node).expect_err("the state was written to a folder");
        assert_eq!(error.sqlstate(), Some("58030"), "{error}");
        assert!(!assert_agrees(node)?);
        std::fs::remove_dir_all(&path).expect("the folder goes");
        close(node)?;
        assert!(assert_agrees(node)?);
        open(node)?;
        assert_untouched(node)
    });
}
