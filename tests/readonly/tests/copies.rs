//! The state belongs to one node: not to its copies, nor to its standbys once they are promoted; and it stays with that
//! node when a manager starts it as a standby and promotes it. What cannot be read is taken for closed.

use readonly_tests::{
    Engine, PATIENCE, READ_ONLY, Server, StopMode, assert_agrees, assert_untouched, close, give_as,
    is_read_only, on_each_engine, open, refusal, serve, single, state_file, wait_until,
};
use test_cluster::{Cluster, WalMethod};

fn builder(engine: Engine, name: &str) -> test_cluster::ServerBuilder {
    let builder = Server::builder(name);
    match engine {
        Engine::Citus => builder.preload("citus").preload("citus_fence"),
        Engine::Embedded => builder.preload("citus_fence"),
    }
}

#[test]
fn a_base_backup_is_not_read_only() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        for (number, wal) in [WalMethod::Stream, WalMethod::Fetch].into_iter().enumerate() {
            let target = cluster.copy_target(&format!("backup{number}"), 0)?;
            node.base_backup(&target, wal)?;
            let copy = builder(engine, "copy").start_copy(&target)?;
            assert!(!assert_agrees(&copy)?, "the copy is read-only");
            // It stays so.
            copy.restart()?;
            assert!(!assert_agrees(&copy)?);
            // And can be closed itself, which has nothing to do with its source.
            close(&copy)?;
            copy.stop(StopMode::Immediate)?;
            copy.start()?;
            assert!(assert_agrees(&copy)?);
        }
        assert!(assert_agrees(node)?, "the source was opened");
        open(node)?;
        assert!(!assert_agrees(node)?);
        assert_untouched(node)
    });
}

#[test]
fn a_promoted_standby_is_not_read_only() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).standbys([0, 0]).build()?;
        let node = cluster.coordinator();
        let [attached, restarted] =
            [0, 1].map(|number| cluster.standbys().nth(number).expect("a standby"));
        serve(node)?;
        close(node)?;
        // One that was made before, one that is made now and has a copy of the file.
        let late = node.standby("late")?;
        restarted.restart()?;
        for standby in [attached, restarted, &late] {
            assert_eq!(standby.query_value("SELECT pg_is_in_recovery()")?, "t");
            assert!(is_read_only(standby)?, "a standby says that it can be written to");
            wait_until("the table", PATIENCE, || standby.query("TABLE served").ok())?;
            standby.execute("SELECT pg_promote()")?;
            assert!(!assert_agrees(standby)?, "{} is read-only", standby.name());
            standby.stop(StopMode::Immediate)?;
            standby.start()?;
            assert!(!assert_agrees(standby)?, "{} after a crash", standby.name());
        }
        assert!(assert_agrees(node)?);
        Ok(())
    });
}

#[test]
fn a_file_that_cannot_be_read_closes_the_node_and_says_so() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        let path = state_file(node);
        let whole = std::fs::read(&path).expect("the state file");
        open(node)?;
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            bytes
        };
        let last = whole.len() - 1;
        let damaged: Vec<(String, Vec<u8>)> = vec![
            ("empty".into(), Vec::new()),
            ("cut".into(), whole[..whole.len() / 2].to_vec()),
            ("too long".into(), [whole.as_slice(), b"x"].concat()),
            ("first byte".into(), flipped(0)),
            ("last byte".into(), flipped(last)),
            ("middle".into(), flipped(whole.len() / 2)),
            ("something else".into(), vec![0xff; 4096]),
        ];
        for (what, bytes) in damaged {
            node.stop(StopMode::Fast)?;
            std::fs::write(&path, &bytes).expect("a damaged file");
            give_as(&path, node);
            let length = node.log().len();
            node.start()?;
            assert!(assert_agrees(node)?, "{what}: the node is open");
            let log = node.log().split_off(length);
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(
                log.lines().any(|line| line.contains("WARNING") && line.contains(&name)),
                "{what}: nothing loud in the log: {log}"
            );
            open(node)?;
            assert!(!assert_agrees(node)?, "{what}: it cannot be opened");
            node.restart()?;
            assert!(!assert_agrees(node)?, "{what}: it is closed again");
        }
        // The controls: the same file whole closes it, and without it the node is open.
        node.stop(StopMode::Fast)?;
        std::fs::write(&path, &whole).expect("the file");
        give_as(&path, node);
        node.start()?;
        assert!(assert_agrees(node)?);
        node.stop(StopMode::Fast)?;
        std::fs::remove_file(&path).expect("the file goes");
        node.start()?;
        assert!(!assert_agrees(node)?);
        assert_untouched(node)
    });
}

/// The next switch may meet what damaged the file: then the node stays what it is.
#[test]
fn a_damaged_file_outlives_a_switch_that_cannot_write_another() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.stop(StopMode::Fast)?;
        let path = state_file(node);
        std::fs::write(&path, b"damaged").expect("a damaged file");
        give_as(&path, node);
        node.start()?;
        assert!(assert_agrees(node)?);
        let draft = path.with_extension("read_only.tmp");
        std::fs::create_dir(&draft).expect("something where the draft belongs");
        let error = refusal(&mut node.connect()?, READ_ONLY);
        assert_eq!(error.code().code(), "58030", "{error:?}");
        assert!(assert_agrees(node)?);
        node.restart()?;
        assert!(assert_agrees(node)?, "the node writes, and nobody has told it to");
        std::fs::remove_dir(&draft).expect("the way is free");
        close(node)?;
        node.restart()?;
        assert!(assert_agrees(node)?);
        open(node)?;
        assert_untouched(node)
    });
}

/// Another node's file is nobody's.
#[test]
fn another_nodes_file_is_void() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let other = cluster.worker(1);
        close(other)?;
        node.stop(StopMode::Fast)?;
        std::fs::copy(state_file(other), state_file(node)).expect("a copy");
        give_as(&state_file(node), node);
        node.start()?;
        assert!(!assert_agrees(node)?);
        node.restart()?;
        assert!(!assert_agrees(node)?);
        open(other)
    });
}

/// How Patroni and others start every primary: as a standby, which they promote.
fn start_as_standby(node: &Server) -> test_cluster::Result<()> {
    let signal = node.data_dir().join("standby.signal");
    std::fs::write(&signal, "").expect("a signal file");
    give_as(&signal, node);
    node.start()?;
    assert_eq!(node.query_value("SELECT pg_is_in_recovery()")?, "t");
    Ok(())
}

fn promote(node: &Server) -> test_cluster::Result<()> {
    assert_eq!(node.query_value("SELECT pg_promote()")?, "t");
    Ok(())
}

/// Waits until the file has been brought up to date after a promotion.
fn await_kept(node: &Server, promotions: usize) -> test_cluster::Result<()> {
    wait_until("the state to be written down", PATIENCE, || {
        (node.log().matches("system is still read only").count() == promotions).then_some(())
    })
}

#[test]
fn a_restart_under_a_manager_does_not_open_it() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let lsn = close(node)?;
        let mut promotions = 0;
        // A restart in order; a crash; a restart of what was promoted before; one right after the other.
        for (mode, at_once) in [
            (StopMode::Fast, false),
            (StopMode::Immediate, false),
            (StopMode::Fast, false),
            (StopMode::Fast, true),
        ] {
            node.stop(mode)?;
            start_as_standby(node)?;
            if at_once {
                node.restart()?;
            }
            assert!(is_read_only(node)?, "a standby is read-only");
            promote(node)?;
            assert!(assert_agrees(node)?, "{mode:?}: the promotion has opened it");
            assert_eq!(
                node.query_value(
                    "SELECT state || ' ' || read_only_lsn FROM citus_fence.stat_gate"
                )?,
                format!("read-only {lsn}")
            );
            promotions += 1;
            await_kept(node, promotions)?;
            node.restart()?;
            assert!(assert_agrees(node)?, "{mode:?}: a restart has opened it");
        }
        // A crash before that is written down: nobody can tell, so it is read-only, and says so.
        node.stop(StopMode::Fast)?;
        let before = std::fs::read(state_file(node)).expect("the state file");
        start_as_standby(node)?;
        promote(node)?;
        await_kept(node, promotions + 1)?;
        node.crash()?;
        // In place: it lies where it lay.
        std::fs::write(state_file(node), &before).expect("the file as it was");
        let length = node.log().len();
        node.start()?;
        assert!(assert_agrees(node)?, "what nobody can tell has opened it");
        let log = node.log().split_off(length);
        assert!(log.contains("WARNING:  system is now read only, as"), "{log}");
        assert!(log.contains("alter_system_read_write()"), "{log}");
        // That is decided, and not doubted again.
        let length = node.log().len();
        node.restart()?;
        assert!(!node.log()[length..].contains("WARNING"), "{}", &node.log()[length..]);
        // The controls: opened, it stays open over all of that.
        open(node)?;
        node.stop(StopMode::Fast)?;
        start_as_standby(node)?;
        promote(node)?;
        assert!(!assert_agrees(node)?);
        node.restart()?;
        assert!(!assert_agrees(node)?);
        assert_untouched(node)
    });
}

/// Opened right after the promotion, while the state file is being brought up to date.
#[test]
fn opened_after_a_promotion_it_stays_open() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for _ in 0..3 {
            close(node)?;
            node.stop(StopMode::Fast)?;
            start_as_standby(node)?;
            promote(node)?;
            open(node)?;
            assert!(!assert_agrees(node)?);
            node.restart()?;
            assert!(!assert_agrees(node)?, "it was opened, and is closed again");
        }
        assert_untouched(node)
    });
}

/// Copied while it was stopped, without a word of PostgreSQL: told by where the file lies.
#[test]
fn a_plain_copy_is_not_read_only() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        node.stop(StopMode::Fast)?;
        let target = cluster.copy_target("plain", 0)?;
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", node.data_dir().display()))
            .arg(&target)
            .status();
        assert!(copied.expect("cp").success());
        let copy = builder(engine, "copy").start_copy(&target)?;
        assert!(!assert_agrees(&copy)?, "the copy is read-only");
        copy.execute("INSERT INTO served VALUES (7)")?;

        // The node itself follows the copy, on the same timeline, and carries on from what that has written.
        node.follow(&copy)?;
        copy.wait_for_replay_on(node, PATIENCE)?;
        assert_eq!(node.query_value("SELECT state FROM citus_fence.stat_gate")?, "standby");
        node.restart()?;
        copy.execute("INSERT INTO served VALUES (8)")?;
        copy.wait_for_replay_on(node, PATIENCE)?;
        copy.stop(StopMode::Fast)?;
        promote(node)?;
        assert!(!assert_agrees(node)?, "it has replayed WAL of another server, and is read-only");
        node.restart()?;
        assert!(!assert_agrees(node)?);
        Ok(())
    });
}

/// It follows a standby of its own that wrote nothing: all it has replayed is its own.
#[test]
fn a_standby_that_sends_back_what_it_was_sent_does_not_open_it() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).standbys([0]).build()?;
        let node = cluster.coordinator();
        let standby = cluster.standbys().next().expect("a standby");
        serve(node)?;
        close(node)?;
        node.stop(StopMode::Fast)?;
        let checkpoint = node.control_data("Latest checkpoint location")?;
        standby.wait_for_replay_of(&checkpoint, PATIENCE)?;
        node.follow(standby)?;
        node.wait_for_log("started streaming WAL from primary", PATIENCE)?;
        promote(node)?;
        assert!(assert_agrees(node)?, "its own WAL has opened it");
        await_kept(node, 1)?;
        open(node)
    });
}
