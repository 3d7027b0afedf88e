//! What becomes of the sessions that are there when a node is closed: writers are told why they are
//! ended, or waited for; everybody else goes on.

use std::time::Instant;

use readonly_tests::{
    Call, Client, Engine, LAST_WORDS, PATIENCE, READ_ONLY, REFUSED, Result, SOON, Server, Stopped,
    assert_untouched, await_closing, close, db_error, is_read_only, on_each_engine, open, refusal,
    refused, serve, single, value, wait_until, writes,
};

/// Waits instead of terminating.
const PATIENT: &str = "SELECT alter_system_read_only(false)";

fn pid(client: &mut Client) -> String {
    value(client, "SELECT pg_backend_pid()")
}

/// The last words that a session hears: it must be gone.
fn last_words(client: &mut Client) {
    let error = client.simple_query("SELECT 1").expect_err("the session lives");
    let db = db_error("the terminated session", &error);
    assert_eq!(db.code().code(), REFUSED, "{db:?}");
    assert_eq!(db.severity(), "FATAL");
    assert!(db.message().contains(LAST_WORDS), "{}", db.message());
    assert!(client.is_closed() || client.simple_query("SELECT 1").is_err());
}

/// Cancels or terminates whoever calls patiently.
fn end_calls(node: &Server, how: &str) -> Result<()> {
    node.execute(&format!(
        "SELECT {how}(pid) FROM pg_stat_activity
          WHERE pid <> pg_backend_pid() AND query = '{PATIENT}'"
    ))
}

#[test]
fn writers_in_the_way_are_told_why_they_are_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        // Idle in a transaction that has written; one that holds a row lock; one that has an xid
        // only; one in a subtransaction; one that has prepared to notify.
        let mut writers = Vec::new();
        for statement in [
            "INSERT INTO served VALUES (1)",
            "SELECT * FROM served FOR UPDATE",
            "SELECT txid_current()",
            "SAVEPOINT a; INSERT INTO served VALUES (2)",
            "NOTIFY channel",
            "CREATE TABLE late (n int)",
        ] {
            let mut client = node.connect()?;
            client.batch_execute("BEGIN").expect("BEGIN");
            client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            writers.push(client);
        }
        // And one in the middle of a statement, in psql: where the last words and the end of the connection
        // come at once, libpq still gives the words.
        let lsn = std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                node.psql("INSERT INTO served SELECT 1 FROM (SELECT pg_sleep(600)) s") // wait: to be terminated in it
            });
            wait_until("the slow statement", PATIENCE, || {
                let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                (node.query_value(count).ok()? == "1").then_some(())
            })?;
            let lsn = close(node)?;
            let error = busy.join().expect("a thread").expect_err("a terminated statement");
            assert!(error.to_string().contains(&format!("FATAL:  {LAST_WORDS}")), "{error}");
            test_cluster::Result::Ok(lsn)
        })?;
        assert!(!lsn.is_empty());
        for client in &mut writers {
            last_words(client);
        }
        assert!(is_read_only(node)?);
        open(node)?;
        assert_eq!(node.query_value("SELECT count(*) FROM served")?, "1");
        assert_untouched(node)
    });
}

#[test]
fn nobody_who_has_not_written_is_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("INSERT INTO served SELECT generate_series(1, 1000)")?;
        let mut idle = node.connect()?;
        let mut reading = node.connect()?;
        let mut cursor = node.connect()?;
        let mut failed = node.connect()?;
        let mut listening = node.connect()?;
        let mut temporary = node.connect()?;
        let mut begun = node.connect()?;
        let run = |client: &mut Client, sql: &str| {
            client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        };
        run(&mut idle, "INSERT INTO served VALUES (-1)");
        run(&mut reading, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM served");
        run(&mut cursor, "BEGIN; DECLARE c CURSOR FOR SELECT n FROM served; FETCH 10 FROM c");
        run(&mut failed, "BEGIN");
        assert!(failed.batch_execute("SELECT 1/0").is_err());
        run(&mut listening, "LISTEN channel");
        run(&mut temporary, "CREATE TEMP TABLE own (n int); INSERT INTO own VALUES (7)");
        run(&mut begun, "BEGIN");
        let mut all = [idle, reading, cursor, failed, listening, temporary, begun];
        let pids: Vec<String> =
            all.iter_mut().enumerate().filter(|(n, _)| *n != 3).map(|(_, c)| pid(c)).collect();

        close(node)?;

        let [idle, reading, cursor, failed, listening, temporary, begun] = &mut all;
        assert_eq!(value(reading, "SELECT count(*) FROM served"), "1002");
        refused(reading, "INSERT INTO served VALUES (1)");
        run(cursor, "MOVE 100 FROM c");
        assert!(!value(cursor, "FETCH 1 FROM c").is_empty());
        run(cursor, "COMMIT");
        run(failed, "ROLLBACK");
        assert_eq!(value(failed, "SELECT 1"), "1");
        run(listening, "UNLISTEN *");
        assert_eq!(value(temporary, "SELECT n FROM own"), "7");
        refused(begun, "UPDATE served SET n = 0");
        refused(idle, "UPDATE served SET n = 0");
        for sql in [
            "EXPLAIN ANALYZE SELECT count(*) FROM served",
            "BEGIN; DECLARE d CURSOR WITH HOLD FOR SELECT n FROM served; COMMIT; FETCH 3 FROM d; CLOSE d",
            "SET work_mem = '5MB'; SHOW work_mem",
        ] {
            run(idle, sql);
        }
        assert!(!writes(idle));
        let after: Vec<String> =
            all.iter_mut().enumerate().filter(|(n, _)| *n != 3).map(|(_, c)| pid(c)).collect();
        assert_eq!(pids, after, "a session was replaced");

        open(node)?;
        for client in &mut all {
            assert!(writes(client), "still refused");
        }
        // With the temporary table it ends as any other does, and its files go with it.
        drop(all);
        assert_untouched(node)
    });
}

/// A session with a temporary table that ends on a read-only node: it drops the table, or leaves it
/// for later, and hangs in neither case.
#[test]
fn a_session_with_temporary_tables_can_end() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        client
            .batch_execute("CREATE TEMP TABLE own (n int); INSERT INTO own VALUES (1)")
            .expect("a temporary table");
        let pid = pid(&mut client);
        let lsn = close(node)?;
        drop(client);
        let here = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        wait_until("the session to be gone", SOON, || {
            (node.query_value(&here).ok()? == "0").then_some(())
        })?;
        let traces = readonly_tests::traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        open(node)?;
        assert!(!node.log().contains("PANIC"));
        Ok(())
    });
}

#[test]
fn without_termination_writers_are_waited_for_and_named() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut writer = node.connect()?;
        writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        let writer_pid = pid(&mut writer);
        let caller = Call::begin(node, PATIENT);
        // New writers are refused from the first moment, and whoever holds on is named.
        await_closing(node)?;
        refused(&mut node.connect()?, "INSERT INTO served VALUES (2)");
        wait_until("the writer to be named", PATIENCE, || {
            caller.has_named(&writer_pid).then_some(())
        })?;
        assert!(!caller.is_finished());
        // It may go on writing, and commit.
        writer.batch_execute("INSERT INTO served VALUES (3); COMMIT").expect("the writer's end");
        let lsn = caller.join().expect("the call");
        assert!(readonly_tests::traces_of_writers(node, &lsn)?.is_empty());
        assert_eq!(node.query_value("SELECT count(*) FROM served")?, "3");
        refused(&mut writer, "INSERT INTO served VALUES (4)");
        open(node)?;
        assert_untouched(node)
    });
}

#[test]
fn a_cancelled_call_takes_the_flag_back() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for end in ["pg_cancel_backend", "pg_terminate_backend"] {
            let mut writer = node.connect()?;
            writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
            let caller = Call::begin(node, PATIENT);
            await_closing(node)?;
            end_calls(node, end)?;
            assert!(caller.join().is_err());
            wait_until("the flag to go", SOON, || {
                let state = node.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
                (state == "read-write").then_some(())
            })?;
            assert!(writes(&mut node.connect()?));
            writer.batch_execute("COMMIT").expect("the writer goes on");
        }
        // By its own time limit.
        let mut writer = node.connect()?;
        writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        let mut client = node.connect()?;
        client.batch_execute("SET statement_timeout = '300ms'").expect("a setting");
        assert_eq!(refusal(&mut client, PATIENT).code().code(), "57014");
        assert!(!is_read_only(node)?);
        assert!(writes(&mut client));
        // After a restart it is open too: nothing of it was kept.
        node.restart()?;
        assert!(!readonly_tests::assert_agrees(node)?);
        assert_untouched(node)
    });
}

/// A transaction that reads while a switch is under way is made read-only; when the switch is given up, it
/// may write like any other.
#[test]
fn a_switch_that_is_given_up_leaves_readers_as_they_were() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut in_the_way = node.connect()?;
        in_the_way.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        let call = Call::begin(node, PATIENT);
        await_closing(node)?;
        let mut reader = node.connect()?;
        reader.batch_execute("BEGIN; SELECT count(*) FROM served").expect("a read");
        let shown = value(&mut reader, "SHOW transaction_read_only");
        assert_eq!(shown, "on");
        end_calls(node, "pg_cancel_backend")?;
        assert!(call.join().is_err());
        reader.batch_execute("INSERT INTO served VALUES (2); COMMIT").expect("a write");
        // Who has asked for it keeps it.
        reader.batch_execute("BEGIN READ ONLY; SELECT count(*) FROM served").expect("a read");
        let error = refusal(&mut reader, "INSERT INTO served VALUES (3)");
        assert_eq!(error.code().code(), REFUSED, "{error:?}");
        reader.batch_execute("ROLLBACK").expect("a rollback");
        in_the_way.batch_execute("COMMIT").expect("a commit");
        assert_untouched(node)
    });
}

/// Where a savepoint ends, the server puts back what the transaction was when it began.
#[test]
fn a_switch_that_is_given_up_leaves_savepoints_as_they_were() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut in_the_way = node.connect()?;
        in_the_way.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        const READ: &str = "SELECT count(*) FROM served";
        const WRITE: &str = "INSERT INTO served VALUES (2)";
        let stories: [(&[&str], &[&str]); 5] = [
            (&["BEGIN", "SAVEPOINT a", READ], &["RELEASE a", WRITE, "COMMIT"]),
            (&["BEGIN", "SAVEPOINT a", READ], &["ROLLBACK TO a", WRITE, "COMMIT"]),
            (&["BEGIN", READ, "SAVEPOINT a"], &[WRITE, "ROLLBACK TO a", WRITE, "COMMIT"]),
            (&["BEGIN", READ, "SAVEPOINT a", READ], &[WRITE, "RELEASE a", WRITE, "COMMIT"]),
            (&["BEGIN", READ], &["SAVEPOINT a", WRITE, "ROLLBACK TO a", WRITE, "COMMIT"]),
        ];
        let call = Call::begin(node, PATIENT);
        await_closing(node)?;
        let mut readers = Vec::new();
        for (before, after) in stories {
            let mut reader = node.connect()?;
            for statement in before {
                reader.batch_execute(statement).expect(statement);
            }
            assert_eq!(value(&mut reader, "SHOW transaction_read_only"), "on", "{before:?}");
            readers.push((reader, before, after));
        }
        // What somebody asks for himself stays.
        let mut own = node.connect()?;
        own.batch_execute("BEGIN; SELECT 1; SET TRANSACTION READ ONLY").expect("a read");
        end_calls(node, "pg_cancel_backend")?;
        assert!(call.join().is_err());
        for (mut reader, before, after) in readers {
            for statement in after {
                reader.batch_execute(statement).unwrap_or_else(|error| {
                    panic!("{before:?} {after:?}: {}", test_cluster::describe(&error))
                });
            }
        }
        let error = refusal(&mut own, WRITE);
        assert_eq!(error.code().code(), REFUSED, "{error:?}");
        assert_eq!(error.message(), "cannot execute INSERT in a read-only transaction");
        in_the_way.batch_execute("COMMIT").expect("a commit");
        assert_untouched(node)
    });
}

#[test]
fn calls_are_refused_where_they_make_no_sense() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        client.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        assert_eq!(refusal(&mut client, READ_ONLY).code().code(), "25001");
        client.batch_execute("ROLLBACK").expect("a rollback");
        assert!(!is_read_only(node)?);
        // Not everybody's.
        node.execute("CREATE ROLE visitor LOGIN")?;
        let mut visitor = node.connect_params().user("visitor", None).connect()?;
        for call in [READ_ONLY, "SELECT alter_system_read_write()"] {
            assert_eq!(refusal(&mut visitor, call).code().code(), "42501", "{call}");
        }
        assert_eq!(value(&mut visitor, "SHOW citus_fence.system_is_read_only"), "off");
        // The setting is not to be set.
        for set in [
            "SET citus_fence.system_is_read_only = on",
            "ALTER SYSTEM SET citus_fence.system_is_read_only = on",
            "SELECT set_config('citus_fence.system_is_read_only', 'on', false)",
        ] {
            assert_eq!(refusal(&mut client, set).code().code(), "55P02", "{set}");
        }
        // Twice is once.
        close(node)?;
        let begun = Instant::now();
        close(node)?;
        assert!(begun.elapsed() < SOON);
        open(node)?;
        open(node)?;
        assert!(writes(&mut client));
        // Side by side they are serialised.
        let calls: Vec<_> = (0..4).map(|_| Call::begin(node, READ_ONLY)).collect();
        for call in calls {
            call.join().expect("a call");
        }
        assert!(readonly_tests::assert_agrees(node)?);
        open(node)?;

        let standby = node.standby("bystander")?;
        let mut client = standby.connect()?;
        assert_eq!(value(&mut client, "SHOW citus_fence.system_is_read_only"), "on");
        for call in [READ_ONLY, "SELECT alter_system_read_write()"] {
            assert_eq!(refusal(&mut client, call).code().code(), "55000", "{call}");
        }
        assert_untouched(node)
    });
}

/// It takes effect at once, whatever becomes of the transaction that it is called in.
#[test]
fn a_rollback_does_not_open_it() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        let run = |client: &mut Client, sql: &str| {
            client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        };
        run(&mut client, "BEGIN; SELECT alter_system_read_only(); ROLLBACK");
        assert!(readonly_tests::assert_agrees(node)?);
        run(&mut client, "BEGIN; SELECT alter_system_read_write(); ROLLBACK");
        assert!(!readonly_tests::assert_agrees(node)?);
        run(
            &mut client,
            "DO $$ BEGIN PERFORM alter_system_read_only(); PERFORM 1/0;
             EXCEPTION WHEN division_by_zero THEN NULL; END $$",
        );
        assert!(readonly_tests::assert_agrees(node)?);
        refused(&mut client, "UPDATE served SET n = 0");
        run(&mut client, "SELECT alter_system_read_write()");
        // Whoever has called it may not write later in the same transaction.
        run(&mut client, "BEGIN; SELECT alter_system_read_only()");
        refused(&mut client, "UPDATE served SET n = 0");
        open(node)?;
        // A failed call leaves no lock behind: the next one does not wait for this session.
        run(&mut client, "BEGIN; INSERT INTO served VALUES (1); SAVEPOINT a");
        assert_eq!(refusal(&mut client, READ_ONLY).code().code(), "25001");
        run(&mut client, "ROLLBACK TO a");
        let lsn = close(node)?;
        assert!(!lsn.is_empty());
        last_words(&mut client);
        open(node)?;
        assert_untouched(node)
    });
}

/// A writer that waits for a lock of the caller's, who waits for him: nobody else would see it.
#[test]
fn a_caller_who_is_in_his_writers_way_is_told() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut caller = node.connect()?;
        caller.batch_execute("BEGIN; LOCK TABLE served IN ACCESS SHARE MODE").expect("a lock");
        let params = node.connect_params();
        let writer = std::thread::spawn(move || {
            let mut client = params.connect().expect("a connection");
            client.batch_execute("ALTER TABLE served ADD COLUMN m int")
        });
        wait_until("the writer to wait", PATIENCE, || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            (node.query_value(waiting).ok()? == "1").then_some(())
        })?;
        let begun = Instant::now();
        let error = refusal(&mut caller, PATIENT);
        assert_eq!(error.code().code(), "40P01", "{error:?}");
        assert!(begun.elapsed() < SOON);
        caller.batch_execute("ROLLBACK").expect("a rollback");
        writer.join().expect("a thread").expect("the writer goes on");
        assert!(!is_read_only(node)?);
        assert!(writes(&mut caller));
        assert_untouched(node)
    });
}

/// The last words are put in when the server writes its log: where it does not, a session hears the usual.
#[test]
fn last_words_that_are_not_logged_are_the_usual_ones() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut writer = node.connect()?;
        writer
            .batch_execute("SET log_min_messages = panic; BEGIN; INSERT INTO served VALUES (1)")
            .expect("a write");
        close(node)?;
        let error = writer.simple_query("SELECT 1").expect_err("the session lives");
        let db = db_error("the terminated session", &error);
        assert_eq!((db.severity(), db.code().code()), ("FATAL", "57P01"), "{db:?}");
        open(node)?;
        assert_untouched(node)
    });
}

/// A writer that does not react to its end is waited for, and named.
#[test]
fn a_writer_that_stands_still_is_waited_for() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut writer = node.connect()?;
        writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        let writer_pid = pid(&mut writer);
        let still = Stopped::process(writer_pid.parse().expect("a process"))?;
        let call = Call::begin(node, READ_ONLY);
        wait_until("the writer to be named", PATIENCE, || {
            call.has_named(&writer_pid).then_some(())
        })?;
        refused(&mut node.connect()?, "INSERT INTO served VALUES (2)");
        assert!(!call.is_finished());
        still.go_on();
        let lsn = call.join().expect("the call");
        assert!(readonly_tests::traces_of_writers(node, &lsn)?.is_empty());
        last_words(&mut writer);
        open(node)?;
        assert_untouched(node)
    });
}
