//! What is left in a session that was reset on a read-only node: nothing that would not be left on any other, or there
//! is no session any more.

use readonly_tests::{
    Client, Engine, LAST_WORDS, PATIENCE, REFUSED, Result, Server, assert_untouched, close,
    db_error, on_each_engine, open, serve, single, value, wait_until,
};
use test_cluster::postgres::{Config, NoTls};
use test_cluster::{Cluster, HOST, Pooler, SUPERUSER};

/// What poolers, and drivers with pools of their own, reset sessions with; and whether it empties the session's
/// temporary tables, which is a write.
const RESETS: [(&str, &[&str], bool); 14] = [
    ("PgBouncer, asyncpg, many others", &["DISCARD ALL"], true),
    ("pgpool", &["ABORT", "DISCARD ALL"], true),
    (
        "Npgsql, with prepared statements",
        &[
            "CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); RESET ALL; DISCARD SEQUENCES; DISCARD TEMP",
        ],
        true,
    ),
    (
        "Odyssey",
        &[
            "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP",
        ],
        true,
    ),
    ("a part of it", &["DISCARD TEMP"], true),
    ("the same", &["DISCARD TEMPORARY"], true),
    ("in a transaction", &["BEGIN", "DISCARD TEMP", "COMMIT"], true),
    ("asyncpg", &["SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL"], false),
    ("SQLAlchemy, Django", &["ROLLBACK"], false),
    ("settings", &["RESET ALL"], false),
    ("role", &["RESET ROLE"], false),
    ("whose it is", &["RESET SESSION AUTHORIZATION"], false),
    ("statements", &["DEALLOCATE ALL"], false),
    ("plans and sequences", &["DISCARD PLANS", "DISCARD SEQUENCES"], false),
];

/// What a client leaves in a session; the temporary table apart.
const TRACES: [&str; 7] = [
    "SELECT nextval('ticket')",
    "PREPARE own AS SELECT 1",
    "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT n FROM served; COMMIT",
    "SELECT pg_advisory_lock(77)",
    "LISTEN channel",
    "SET search_path = somewhere, public",
    "SET ROLE somebody",
];
const TABLE: &str = "CREATE TEMP TABLE secret (n int); INSERT INTO secret VALUES (42)";

/// What shows it.
const LEFT: [&str; 9] = [
    "SELECT current_user",
    "SELECT session_user",
    "SHOW search_path",
    "SELECT count(*) FROM pg_class WHERE relname = 'secret' AND relnamespace = pg_my_temp_schema()",
    "SELECT count(*) FROM pg_prepared_statements WHERE name = 'own'",
    "SELECT count(*) FROM pg_cursors WHERE name = 'held'",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "SELECT count(*) FROM pg_listening_channels()",
    "SELECT currval('ticket') > 0",
];

fn look(client: &mut Client) -> Vec<String> {
    let see = |sql: &&str| match client.simple_query(sql) {
        Ok(_) => value(client, sql),
        Err(error) => db_error(sql, &error).code().code().to_owned(),
    };
    LEFT.iter().map(see).collect()
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn used(mut client: Client, with_table: bool) -> Client {
    if with_table {
        run(&mut client, TABLE);
    }
    for trace in TRACES {
        run(&mut client, trace);
    }
    client
}

/// What a session that could not be reset leaves in the log, with the code before it.  Its client may see no more than
/// the end of the connection: this client library does not read on where both come at once.
fn ends(node: &Server) -> usize {
    let last =
        format!("FATAL:  terminating connection because it could not be reset: {LAST_WORDS}");
    let is_end = |line: &&str| line.contains(&last) && line.contains(&format!(" {REFUSED} "));
    node.log().lines().filter(is_end).count()
}

/// What is left after a reset, or `None` where the session is gone.
fn reset(node: &Server, client: &mut Client, statements: &[&str]) -> Result<Option<Vec<String>>> {
    let before = ends(node);
    for statement in statements {
        if let Err(error) = client.batch_execute(statement) {
            if let Some(error) = error.as_db_error() {
                assert_eq!(
                    (error.severity(), error.code().code()),
                    ("FATAL", REFUSED),
                    "{error:?}"
                );
            }
            assert!(client.simple_query("SELECT 1").is_err(), "{statement}: the session lives");
            wait_until("the last words", PATIENCE, || (ends(node) == before + 1).then_some(()))?;
            return Ok(None);
        }
    }
    Ok(Some(look(client)))
}

fn prepared(engine: Engine) -> Result<Cluster> {
    let cluster = single(engine)?;
    let node = cluster.coordinator();
    serve(node)?;
    node.execute(
        "CREATE SEQUENCE ticket; CREATE ROLE somebody; CREATE SCHEMA somewhere;
         GRANT ALL ON ticket, served TO somebody",
    )?;
    Ok(cluster)
}

#[test]
fn what_is_left_in_a_session() {
    on_each_engine(|engine: Engine| {
        let cluster = prepared(engine)?;
        let node = cluster.coordinator();
        for (who, statements, empties) in RESETS {
            for with_table in [true, false] {
                // What the statement leaves where it can do all that it does.
                let expected = reset(node, &mut used(node.connect()?, with_table), statements)?;
                assert!(expected.is_some(), "{who}");
                let mut client = used(node.connect()?, with_table);
                close(node)?;
                let left = reset(node, &mut client, statements)?;
                open(node)?;
                if empties && with_table {
                    assert_eq!(left, None, "{who}: {statements:?}");
                } else {
                    assert_eq!(left, expected, "{who}: {statements:?}");
                }
            }
        }
        // Nobody is ended who asks for less.
        let mut client = used(node.connect()?, true);
        run(&mut client, "RESET ROLE");
        close(node)?;
        readonly_tests::refused(&mut client, "INSERT INTO secret VALUES (43)");
        assert_eq!(value(&mut client, "SELECT n FROM secret"), "42");
        open(node)?;
        assert_untouched(node)
    });
}

/// A block holds the reset back, and the pooler cancels it.
/// A reset that had nothing to drop is done, and what its transaction is refused later is an error like any other.
#[test]
fn a_reset_that_is_done_ends_no_session() {
    on_each_engine(|engine: Engine| {
        let cluster = prepared(engine)?;
        let node = cluster.coordinator();
        close(node)?;
        let mut client = node.connect()?;
        for reset in ["DISCARD TEMP", "RESET ALL", "DISCARD PLANS"] {
            run(&mut client, "BEGIN");
            run(&mut client, reset);
            let error = readonly_tests::refusal(&mut client, "CREATE TABLE late (n int)");
            assert_eq!(error.code().code(), "25006", "{reset}: {error:?}");
            run(&mut client, "ROLLBACK");
        }
        open(node)?;
        Ok(())
    });
}

#[test]
fn a_reset_that_is_cancelled_at_a_gate_ends_the_session() {
    on_each_engine(|engine: Engine| {
        let cluster = prepared(engine)?;
        let node = cluster.coordinator();
        let mut client = used(node.connect()?, true);
        run(&mut client, "RESET ROLE");
        let pid = value(&mut client, "SELECT pg_backend_pid()");
        let mut closer = node.connect()?;
        run(&mut closer, "BEGIN; SELECT citus_fence.lock_gate('client')");
        let reset = std::thread::spawn(move || {
            let outcome = client.batch_execute("DISCARD ALL");
            (outcome.is_err(), client.simple_query("SELECT 1").is_err())
        });
        let waiting = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
        wait_until("the reset to wait", PATIENCE, || {
            (node.query_value(&waiting).ok()? == "1").then_some(())
        })?;
        node.execute(&format!("SELECT pg_cancel_backend({pid})"))?;
        assert_eq!(reset.join().expect("a thread"), (true, true), "the session lives");
        wait_until("the last words", PATIENCE, || {
            let last = "FATAL:  terminating connection because it could not be reset";
            node.log().contains(last).then_some(())
        })?;
        run(&mut closer, "COMMIT");
        assert_untouched(node)
    });
}

#[test]
fn the_next_client_of_a_pooler_finds_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = prepared(engine)?;
        let node = cluster.coordinator();
        let pooler = Pooler::start_in_session_mode(&[node], cluster.database())?;
        let pooled = || {
            let mut config = Config::new();
            config.host(HOST).port(pooler.port()).user(SUPERUSER).dbname("node0");
            config.connect(NoTls).expect("a session of the pooler")
        };
        let fresh = look(&mut node.connect()?);
        let pid = |client: &mut Client| value(client, "SELECT pg_backend_pid()");
        // The control: it is the same session, and clean.
        let mut first = used(pooled(), true);
        let before = pid(&mut first);
        drop(first);
        let mut second = pooled();
        assert_eq!(pid(&mut second), before, "the pooler has not used the session again");
        assert_eq!(look(&mut second), fresh);

        run(&mut second, TABLE);
        for trace in TRACES {
            run(&mut second, trace);
        }
        close(node)?;
        drop(second);
        let mut third = pooled();
        assert_ne!(pid(&mut third), before, "what could not be reset is used again");
        assert_eq!(look(&mut third), fresh);
        // Without temporary tables there is nothing in the way of it.
        for trace in TRACES.iter().filter(|trace| !trace.contains("nextval")) {
            run(&mut third, trace);
        }
        let before = pid(&mut third);
        drop(third);
        let mut fourth = pooled();
        assert_eq!(pid(&mut fourth), before);
        assert_eq!(look(&mut fourth), fresh);
        open(node)?;
        assert_untouched(node)
    });
}
