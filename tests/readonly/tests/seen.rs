//! Who can see that a node is read-only: everything by which the outside asks whether it can be written to.

use readonly_tests::{
    Client, Engine, PATIENCE, Result, assert_untouched, close, on_each_engine, open, refused,
    serve, single, value, wait_until, writes,
};
use test_cluster::{Cluster, HOST, Installation, SUPERUSER};

/// What is asked, by whom, what a node that writes says, and a read-only one.
const QUESTIONS: [(&str, &str, &str, &str); 7] = [
    ("libpq since 14, reported", "SHOW default_transaction_read_only", "off", "on"),
    ("older libpq, pgjdbc", "SHOW transaction_read_only", "off", "on"),
    // It is still the primary: its standbys stream from it, and managers keep it as their leader.
    ("libpq since 14, reported", "SHOW in_hot_standby", "off", "off"),
    ("Patroni, HAProxy's checks, pgpool", "SELECT pg_is_in_recovery()", "f", "f"),
    ("ours", "SHOW citus_fence.system_is_read_only", "off", "on"),
    ("ours", "SELECT state FROM citus_fence.stat_gate", "read-write", "read-only"),
    ("ours", "SELECT read_only_lsn IS NOT NULL FROM citus_fence.stat_gate", "f", "t"),
];

/// Which of two servers psql takes, the first being read-only: 1, 2, or none.
const CHOICES: [(&str, Option<usize>); 6] = [
    ("any", Some(0)),
    ("read-write", Some(1)),
    ("read-only", Some(0)),
    ("primary", Some(0)),
    ("standby", None),
    ("prefer-standby", Some(0)),
];

/// Which one the real psql takes.
fn chosen(cluster: &Cluster, wish: &str) -> Result<Option<usize>> {
    let ports = [cluster.coordinator().port(), cluster.worker(1).port()];
    let conninfo = format!(
        "host={HOST},{HOST} port={},{} user={SUPERUSER} dbname={} target_session_attrs={wish}",
        ports[0],
        ports[1],
        cluster.database()
    );
    let output = Installation::current()?
        .command("psql")?
        .args(["-XAtc", "SHOW port", "-d", &conninfo])
        .output()
        .expect("psql");
    let port = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(ports.iter().position(|known| known.to_string() == port))
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

const DEFAULT: &str = "SHOW default_transaction_read_only";

#[test]
fn who_can_see_that_a_node_is_read_only() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut there = node.connect()?;
        for closed in [false, true, false] {
            if closed {
                close(node)?;
            } else if readonly_tests::is_read_only(node)? {
                open(node)?;
            }
            // The first transaction of a session that was there before tells it.
            run(&mut there, "SELECT 1");
            for (who, question, off, on) in QUESTIONS {
                let expected = if closed { on } else { off };
                let answer = value(&mut node.connect()?, question);
                assert_eq!(answer, expected, "{who}: {question}, closed: {closed}");
                assert_eq!(value(&mut there, question), expected, "{who}: {question}, before");
            }
            for (wish, expected) in CHOICES {
                let expected = match wish {
                    "read-write" if !closed => Some(0),
                    "read-only" if !closed => None,
                    _ => expected,
                };
                assert_eq!(chosen(&cluster, wish)?, expected, "{wish}, closed: {closed}");
            }
        }
        assert_untouched(node)
    });
}

/// A session that has come while the node was read-only is none of second rank afterwards.
#[test]
fn who_has_come_meanwhile_writes_when_it_is_opened() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute(
            "CREATE ROLE reader LOGIN SUPERUSER;
             ALTER ROLE reader SET default_transaction_read_only = on",
        )?;
        close(node)?;
        let mut all: Vec<Client> = (0..8).map(|_| node.connect()).collect::<Result<_>>()?;
        let mut reader = node.connect_params().user("reader", None).connect()?;
        let mut own = node.connect()?;
        run(&mut own, "SET default_transaction_read_only = on");
        let mut in_vain = node.connect()?;
        run(&mut in_vain, "SET default_transaction_read_only = off");
        refused(&mut in_vain, "UPDATE served SET n = 0");
        refused(&mut in_vain, "BEGIN READ WRITE; UPDATE served SET n = 0");
        // A pooler's reset does not hide it.
        run(&mut in_vain, "DISCARD ALL");
        assert_eq!(value(&mut in_vain, DEFAULT), "on");
        let mut begun = node.connect()?;
        run(&mut begun, "BEGIN; SELECT 1");
        let mut wants = node.connect()?;
        run(&mut wants, "BEGIN READ ONLY; SELECT 1");
        // One of them opens it.
        run(&mut all[0], "SELECT alter_system_read_write()");

        assert!(writes(&mut all[0]));
        assert!(writes(&mut all[1]));
        run(&mut all[2], "BEGIN; UPDATE served SET n = n + 1; COMMIT");
        run(
            &mut all[3],
            "BEGIN; SAVEPOINT a; UPDATE served SET n = n + 1; ROLLBACK TO a; UPDATE served SET n = n + 1; COMMIT",
        );
        run(
            &mut all[4],
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; UPDATE served SET n = n + 1; COMMIT",
        );
        run(&mut all[5], "DO $$ BEGIN UPDATE served SET n = n + 1; END $$");
        // The first write fails: what was taken back with it is taken back again.
        assert!(all[6].batch_execute("INSERT INTO served VALUES (1/0)").is_err());
        assert!(writes(&mut all[6]));
        assert!(all[7].batch_execute("BEGIN; UPDATE served SET n = n + 1; SELECT 1/0").is_err());
        run(&mut all[7], "ROLLBACK");
        assert!(writes(&mut all[7]));
        for client in &mut all {
            run(client, "SELECT 1");
            assert_eq!(value(client, DEFAULT), "off");
            run(client, "RESET ALL");
            assert_eq!(value(client, DEFAULT), "off");
            assert!(writes(client));
        }
        run(&mut begun, "UPDATE served SET n = n + 1; COMMIT");
        assert!(writes(&mut in_vain));
        // What somebody has asked for himself, or for a role, is still there.
        for client in [&mut reader, &mut own, &mut wants] {
            let error = readonly_tests::refusal(client, "UPDATE served SET n = 0");
            assert_eq!(error.message(), "cannot execute UPDATE in a read-only transaction");
        }
        run(&mut wants, "ROLLBACK");
        assert!(writes(&mut wants));
        run(&mut wants, "BEGIN READ ONLY; SELECT 1");
        let error = readonly_tests::refusal(&mut wants, "UPDATE served SET n = 0");
        assert_eq!(error.message(), "cannot execute UPDATE in a read-only transaction");
        assert_untouched(node)
    });
}

/// An operator who lets the node write again only by explicit wish, by the server's own setting, has it so for those
/// who were there meanwhile, too.
#[test]
fn what_is_set_meanwhile_for_all_sessions_counts_when_it_is_opened() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute(
            "CREATE ROLE reader LOGIN SUPERUSER;
             ALTER ROLE reader SET default_transaction_read_only = on",
        )?;
        let mut there = node.connect()?;
        let mut claims = node.connect_params().user("reader", None).connect()?;
        run(&mut claims, "SET default_transaction_read_only = off");
        close(node)?;
        for client in [&mut there, &mut claims] {
            run(client, "SELECT 1");
            assert_eq!(value(client, DEFAULT), "on");
        }
        node.execute("ALTER SYSTEM SET default_transaction_read_only = on")?;
        node.execute("SELECT pg_reload_conf()")?;
        open(node)?;
        let mut later = node.connect()?;
        wait_until("the setting", PATIENCE, || {
            run(&mut there, "SELECT 1");
            later = node.connect().ok()?;
            (value(&mut later, DEFAULT) == "on" && value(&mut there, DEFAULT) == "on").then_some(())
        })?;
        let error = readonly_tests::refusal(&mut there, "UPDATE served SET n = 0");
        assert_eq!(error.message(), "cannot execute UPDATE in a read-only transaction");
        // Who had said otherwise for himself has that back.
        run(&mut claims, "SELECT 1");
        assert_eq!(value(&mut claims, DEFAULT), "off");
        assert!(writes(&mut claims));
        node.execute("ALTER SYSTEM RESET default_transaction_read_only")?;
        node.execute("SELECT pg_reload_conf()")
    });
}

/// Those sessions are pooled by the nodes, and not told: what they are to do is written in what they are sent.
#[test]
fn sessions_between_nodes_are_as_they_were() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        for name in ["citus_internal gpid=10000000001", "citus_fence helper", "pg_dist gpid=1"] {
            let mut client = node.connect_params().application_name(name).connect()?;
            assert_eq!(value(&mut client, DEFAULT), "off", "{name}");
            refused(&mut client, "UPDATE served SET n = 0");
        }
        open(node)?;
        assert_untouched(node)
    });
}
