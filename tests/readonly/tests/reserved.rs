//! A standby that is reserved for a clone refuses writers from its promotion on, through restarts and
//! crashes, until it is released; the session that knows the token writes all the while.

use readonly_tests::reserved::{
    ENTER, RELEASE, RESERVE, TOKEN, WORDS, WRITE, assert_reserved, file, promote, state,
    with_standby, writes,
};
use readonly_tests::{
    Engine, PATIENCE, REFUSED, Result, Server, StopMode, give_as, on_each_engine, refusal, ungated,
    value,
};
use test_cluster::{WalMethod, describe};

#[test]
fn from_its_promotion_on_clients_are_refused_and_the_split_is_not() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let (source, clone) = (cluster.worker(1), cluster.standby_of(1));
        for gid in ["theirs", "other"] {
            source.execute(&format!(
                "BEGIN; INSERT INTO served VALUES (100); PREPARE TRANSACTION '{gid}'"
            ))?;
        }
        source.execute("CREATE SEQUENCE numbers")?;
        source.wait_for_replay_on(clone, PATIENCE)?;
        assert_eq!(state(clone)?, "standby");
        let (mut before, mut driver) = (clone.connect()?, clone.connect()?);
        assert_eq!(value(&mut before, "SELECT count(*) FROM served"), "1");
        clone.execute(RESERVE)?;
        assert_eq!(state(clone)?, "reserved 7");
        assert_eq!(state(source)?, "read-write", "the source heard of it");
        // In recovery as well.
        driver.batch_execute(ENTER).expect("the token");
        promote(clone)?;

        // Whoever was there before, and whoever comes, by any way to write.
        let mut after = clone.connect()?;
        for client in [&mut before, &mut after] {
            for sql in [
                WRITE,
                "SELECT nextval('numbers')",
                "CREATE TABLE more ()",
                "UPDATE pg_dist_local_group SET groupid = 9",
                "ROLLBACK PREPARED 'theirs'",
                "COMMIT PREPARED 'theirs'",
                "BEGIN; SET TRANSACTION READ WRITE; DELETE FROM served",
                "BEGIN; PREPARE TRANSACTION 'more'",
                "SET application_name = 'citus_internal gpid=10000000001'; DELETE FROM served",
            ] {
                assert!(!writes(client, sql), "{sql} went through");
            }
            assert_eq!(value(client, "SELECT count(*) FROM served"), "1");
        }
        let switches = ["alter_system_read_only()", "alter_system_read_write()"];
        for client in [&mut after, &mut driver] {
            for switch in switches {
                let error = refusal(client, &format!("SELECT {switch}"));
                assert_eq!(error.code().code(), "55006", "{error:?}");
                assert!(error.message().contains("clone 7"), "{error:?}");
            }
        }
        // The split's own.
        for sql in [
            "ROLLBACK PREPARED 'theirs'",
            "COMMIT PREPARED 'other'",
            "BEGIN; UPDATE served SET n = 5; SELECT setval('numbers', 7); COMMIT",
            "BEGIN; UPDATE pg_dist_local_group SET groupid = 9; ROLLBACK",
            "BEGIN; DELETE FROM served WHERE n = 5; PREPARE TRANSACTION 'own'",
            "ROLLBACK PREPARED 'own'",
            "VACUUM served",
        ] {
            let sent = sql.split("; ").try_for_each(|sql| driver.batch_execute(sql));
            sent.unwrap_or_else(|error| panic!("{sql}: {}", describe(&error)));
        }
        assert_eq!(value(&mut driver, "SELECT count(*) FROM served WHERE n = 5"), "2");
        assert_eq!(value(&mut driver, "SELECT count(*) FROM pg_prepared_xacts"), "0");
        // A call that is repeated because its answer was lost.
        driver.batch_execute(RESERVE).expect("the same again");
        assert_reserved(clone, "while the split writes")?;
        driver.batch_execute(RELEASE).expect("the token");
        driver.batch_execute(RELEASE).expect("again");
        assert_eq!(state(clone)?, "read-write");
        assert!(!file(clone).exists());
        assert!(writes(&mut before, WRITE) && writes(&mut driver, WRITE));
        clone.restart()?;
        assert!(writes(&mut clone.connect()?, WRITE));
        assert_eq!(ungated(clone)?, 0);
        Ok(())
    });
}

/// The control: without it the same write is acknowledged.
#[test]
fn without_a_reservation_the_promoted_clone_acknowledges_writes() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        let mut before = clone.connect()?;
        promote(clone)?;
        assert!(writes(&mut before, WRITE) && writes(&mut clone.connect()?, WRITE));
        // It cannot be reserved any more.
        let error = refusal(&mut before, RESERVE);
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(!file(clone).exists());
        Ok(())
    });
}

/// Sessions that write as fast as they can see the promotion from before and from behind.
#[test]
fn no_writer_slips_through_the_promotion() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = clone.connect()?;
                Ok(std::thread::spawn(move || {
                    // In recovery the server's own words; then ours.
                    loop {
                        let error = refusal(&mut client, "INSERT INTO served VALUES (1)");
                        assert_eq!(error.code().code(), REFUSED, "{error:?}");
                        if value(&mut client, "SELECT pg_is_in_recovery()") == "f" {
                            let error = refusal(&mut client, "INSERT INTO served VALUES (1)");
                            assert!(error.message().contains(WORDS), "{error:?}");
                            return;
                        }
                    }
                }))
            })
            .collect::<Result<_>>()?;
        promote(clone)?;
        for writer in writers {
            writer.join().expect("a refused writer");
        }
        assert_eq!(clone.query_value("SELECT count(*) FROM served")?, "1");
        Ok(())
    });
}

/// Restarts and crashes before the promotion and after it; a checkpoint on the new timeline or none; and a
/// manager that starts every primary as a standby and promotes it.
#[test]
fn it_stays_so_through_restarts_and_crashes() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        let modes = [StopMode::Fast, StopMode::Immediate];
        for mode in modes {
            clone.stop(mode)?;
            clone.start()?;
            assert_eq!(clone.query_value("SELECT pg_is_in_recovery()")?, "t");
            assert_eq!(state(clone)?, "reserved 7", "{mode:?} in recovery");
        }
        let mut driver = clone.connect()?;
        driver.batch_execute(ENTER).expect("the token");
        promote(clone)?;
        for mode in [StopMode::Immediate, StopMode::Fast, StopMode::Immediate] {
            clone.stop(mode)?;
            clone.start()?;
            assert_reserved(clone, &format!("{mode:?} after the promotion"))?;
        }
        assert!(driver.simple_query("SELECT 1").is_err());
        let mut driver = clone.connect()?;
        assert!(!writes(&mut driver, WRITE), "the mark outlived its session");
        driver.batch_execute(ENTER).expect("the token");
        assert!(writes(&mut driver, WRITE));
        driver.batch_execute("CHECKPOINT").expect("a checkpoint");
        // A crash of one backend, which the postmaster survives.
        readonly_tests::Kill::Backend.strike(clone, "nobody runs this")?;
        assert_reserved(clone, "after the crash of a backend")?;
        clone.stop(StopMode::Fast)?;
        std::fs::write(clone.data_dir().join("standby.signal"), "").expect("a signal file");
        give_as(&clone.data_dir().join("standby.signal"), clone);
        clone.start()?;
        assert_eq!(state(clone)?, "reserved 7");
        promote(clone)?;
        assert_reserved(clone, "after a manager's restart")?;
        clone.execute(RELEASE)?;
        clone.stop(StopMode::Immediate)?;
        clone.start()?;
        assert!(writes(&mut clone.connect()?, WRITE), "it is closed again");
        Ok(())
    });
}

/// What a pooler does between two of its clients takes the mark off.
#[test]
fn a_session_that_is_reset_is_nobodys() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        let mut early = clone.connect()?;
        early.batch_execute(ENTER).expect("the token");
        // While it is still a standby.
        early.batch_execute("DISCARD ALL").expect("a reset");
        promote(clone)?;
        assert!(!writes(&mut early, WRITE));
        let mut client = clone.connect()?;
        for reset in [
            "DISCARD ALL",
            "RESET ALL",
            "RESET SESSION AUTHORIZATION",
            "SET SESSION AUTHORIZATION DEFAULT",
        ] {
            client.batch_execute(ENTER).expect("the token");
            assert!(writes(&mut client, WRITE), "before {reset}");
            client.batch_execute(reset).expect(reset);
            assert!(!writes(&mut client, WRITE), "{reset} left the mark");
        }
        client.batch_execute(ENTER).expect("the token");
        // What says nothing of whose it is.
        for other in ["DISCARD PLANS", "RESET work_mem", "SET work_mem = '5MB'"] {
            client.batch_execute(other).expect(other);
            assert!(writes(&mut client, WRITE), "{other} took the mark");
        }
        Ok(())
    });
}

#[test]
fn only_the_token_enters_and_releases_and_only_the_id_by_force() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        let mut client = clone.connect()?;
        // Not reserved yet.
        assert_eq!(refusal(&mut client, ENTER).code().code(), "55000");
        client.batch_execute(RELEASE).expect("nothing to release");
        client.batch_execute("SELECT citus_fence.release_node_by_force(7)").expect("nothing");
        clone.execute(RESERVE)?;
        clone.execute(RESERVE)?;
        for (sql, code) in [
            ("SELECT citus_fence.reserve_node(8, '5f0c1b7e-2a57-4d2c-9a53-0c6a3f4b7d11')", "55006"),
            ("SELECT citus_fence.reserve_node(7, 'another')", "55006"),
            ("SELECT citus_fence.enter_reserved_node('another')", "42501"),
            ("SELECT citus_fence.enter_reserved_node('')", "42501"),
            ("SELECT citus_fence.release_node('another')", "42501"),
            ("SELECT citus_fence.release_node_by_force(8)", "55006"),
            ("SELECT citus_fence.release_node_by_force(0)", "55006"),
        ] {
            let error = refusal(&mut client, sql);
            assert_eq!(error.code().code(), code, "{sql}: {error:?}");
            assert!(error.hint().is_some_and(|hint| hint.contains("release_node_by_force(7)")));
            assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
        }
        // The way back in recovery, and there again for another clone: the mark of before is worth nothing.
        client.batch_execute(ENTER).expect("the token");
        clone.execute(RELEASE)?;
        assert_eq!(state(clone)?, "standby");
        clone.execute("SELECT citus_fence.reserve_node(7, 'another')")?;
        promote(clone)?;
        assert!(!writes(&mut client, WRITE), "the mark of an earlier reservation counts");
        assert_eq!(refusal(&mut client, ENTER).code().code(), "42501");
        // Who may call it is what EXECUTE says; the token is asked for all the same.
        client
            .batch_execute(
                "SELECT citus_fence.enter_reserved_node('another'); CREATE ROLE helper LOGIN",
            )
            .expect("the other token");
        let mut helper = clone.connect_as("helper", None)?;
        let enter = "SELECT citus_fence.enter_reserved_node";
        for call in [enter, "SELECT citus_fence.release_node"] {
            let error = refusal(&mut helper, &format!("{call}('another')"));
            assert_eq!(error.code().code(), "42501", "{error:?}");
        }
        client
            .batch_execute(
                "GRANT EXECUTE ON FUNCTION citus_fence.enter_reserved_node(text) TO helper",
            )
            .expect("a grant");
        assert_eq!(refusal(&mut helper, &format!("{enter}('wrong')")).code().code(), "42501");
        helper.batch_execute(&format!("{enter}('another')")).expect("the right token");
        // An operator who has lost the token.
        let length = clone.log().len();
        clone.execute("SELECT citus_fence.release_node_by_force(7)")?;
        let log = clone.log().split_off(length);
        assert!(
            log.contains("this node was released although it was reserved for clone 7"),
            "{log}"
        );
        assert!(writes(&mut clone.connect()?, WRITE));
        Ok(())
    });
}

#[test]
fn what_is_copied_is_not_reserved() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        // A standby of the reserved standby, and one of the promoted node.
        let cascaded = clone.standby("cascaded")?;
        assert_eq!(state(&cascaded)?, "standby");
        promote(clone)?;
        let late = clone.standby("late")?;
        assert_eq!(state(&late)?, "standby");
        promote(&late)?;
        assert!(writes(&mut late.connect()?, WRITE));

        let builder = |name| match engine {
            Engine::Citus => Server::builder(name).preload("citus").preload("citus_fence"),
            Engine::Embedded => Server::builder(name).preload("citus_fence"),
        };
        let target = cluster.copy_target("backup", 1)?;
        clone.base_backup(&target, WalMethod::Stream)?;
        assert!(target.join("citus_fence.reserved").exists(), "the backup has no file to ignore");
        let restored = builder("restored").start_copy(&target)?;
        assert!(writes(&mut restored.connect()?, WRITE));
        assert!(restored.log().contains("ignoring and removing \"citus_fence.reserved\""));
        restored.restart()?;
        assert!(writes(&mut restored.connect()?, WRITE));

        // Files copied with no backup, and a file from there put into the directory of another.
        clone.stop(StopMode::Fast)?;
        let target = cluster.copy_target("files", 1)?;
        clone.copy_files(&target)?;
        let copied = builder("copied").start_copy(&target)?;
        assert!(writes(&mut copied.connect()?, WRITE));
        copied.stop(StopMode::Fast)?;
        std::fs::copy(file(clone), file(&copied)).expect("a copy");
        give_as(&file(&copied), &copied);
        copied.start()?;
        assert!(writes(&mut copied.connect()?, WRITE));

        clone.start()?;
        assert_reserved(clone, "after it was copied")
    });
}

#[test]
fn a_directory_that_was_moved_stays_reserved_and_says_so() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        promote(clone)?;
        clone.stop(StopMode::Fast)?;
        let target = cluster.copy_target("moved", 1)?;
        std::fs::rename(clone.data_dir(), &target).expect("the same file system");
        let builder = match engine {
            Engine::Citus => Server::builder("moved").preload("citus").preload("citus_fence"),
            Engine::Embedded => Server::builder("moved").preload("citus_fence"),
        };
        let moved = builder.start_copy(&target)?;
        assert_reserved(&moved, "moved")?;
        let says = "this node is reserved for clone 7, as \"citus_fence.reserved\" says, although";
        assert!(moved.log().contains(says), "{}", moved.log());
        moved.execute(RELEASE)?;
        assert!(writes(&mut moved.connect()?, WRITE));
        Ok(())
    });
}

#[test]
fn a_damaged_file_reserves_the_node_and_says_how_to_open_it() {
    on_each_engine(|engine: Engine| {
        let cluster = with_standby(engine)?;
        let clone = cluster.standby_of(1);
        clone.execute(RESERVE)?;
        let whole = std::fs::read(file(clone)).expect("the file");
        promote(clone)?;
        // The control: whole.
        clone.restart()?;
        assert_reserved(clone, "whole")?;
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let damaged =
            [("empty", vec![]), ("cut", whole[..whole.len() / 2].to_vec()), ("flipped", flipped)];
        for (what, bytes) in damaged {
            clone.stop(StopMode::Fast)?;
            std::fs::write(file(clone), bytes).expect("a damaged file");
            let length = clone.log().len();
            clone.start()?;
            assert_eq!(state(clone)?, "reserved 0", "{what}");
            let mut client = clone.connect()?;
            let error = refusal(&mut client, WRITE);
            assert_eq!(error.code().code(), REFUSED, "{what}: {error:?}");
            let log = clone.log().split_off(length);
            let loud = log.lines().any(|line| {
                line.contains("WARNING") && line.contains("\"citus_fence.reserved\" is damaged")
            });
            let open = "SELECT citus_fence.release_node_by_force(0)";
            assert!(loud && log.contains(open), "{what}: {log}");
            for call in [ENTER, RELEASE, RESERVE] {
                let error = refusal(&mut client, call);
                assert_eq!(error.code().code(), "55006", "{call}: {error:?}");
                assert!(error.hint().is_some_and(|hint| hint.contains(open)), "{error:?}");
            }
            client.batch_execute(open).expect("a release");
            assert!(writes(&mut client, WRITE), "{what}");
        }
        Ok(())
    });
}
