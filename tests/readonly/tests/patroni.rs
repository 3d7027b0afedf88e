//! Under the real Patroni, which starts every primary as a standby and promotes it: a read-only node stays one.

use std::io::Write as _;

use readonly_tests::{Engine, PATIENCE, on_each_engine, refused, value, wait_until, writes};
use test_cluster::Patroni;

#[test]
fn a_restart_and_a_crash_under_patroni_leave_it_read_only() {
    if !Patroni::is_installed() {
        // Past the capture of the test runner.
        let _ =
            writeln!(std::io::stderr(), "skipped: patroni and python3-pysyncobj are not installed");
        return;
    }
    on_each_engine(|engine: Engine| {
        let libraries = match engine {
            Engine::Citus => "citus,citus_fence",
            Engine::Embedded => "citus_fence",
        };
        let mut patroni = Patroni::start(libraries)?;
        let connect = |patroni: &Patroni| patroni.connect().expect("a session");
        let mut client = connect(&patroni);
        client
            .batch_execute("CREATE EXTENSION citus_fence; CREATE TABLE served (n bigint)")
            .expect("a table");
        // The control: it is promoted at each start, and writes.
        let timeline = |client: &mut test_cluster::postgres::Client| {
            value(client, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
        };
        let before = timeline(&mut client);
        patroni.stop()?;
        patroni.go_on()?;
        client = connect(&patroni);
        assert_ne!(timeline(&mut client), before, "it was not promoted");
        assert!(writes(&mut client));

        let lsn = value(&mut client, "SELECT alter_system_read_only()");
        for (round, crash) in [false, true, false, true].into_iter().enumerate() {
            if crash {
                patroni.crash()?;
            } else {
                patroni.stop()?;
            }
            patroni.go_on()?;
            client = connect(&patroni);
            refused(&mut client, "INSERT INTO served VALUES (1)");
            let state = "SELECT state || ' ' || read_only_lsn FROM citus_fence.stat_gate";
            assert_eq!(value(&mut client, state), format!("read-only {lsn}"));
            wait_until("the state to be written down", PATIENCE, || {
                let count = patroni.log().matches("system is still read only").count();
                (count == round + 1).then_some(())
            })?;
        }
        assert!(!patroni.log().contains("WARNING:  system is now read only"), "{}", patroni.log());
        client.batch_execute("SELECT alter_system_read_write()").expect("a switch");
        patroni.stop()?;
        patroni.go_on()?;
        assert!(writes(&mut connect(&patroni)));
        Ok(())
    });
}

/// The address that the coordinator has for a group.
const PORT_OF_GROUP: &str =
    "SELECT nodeport::text FROM pg_dist_node WHERE groupid = 1 AND noderole = 'primary'";

/// Patroni tells the coordinator where a worker has gone, in the middle of its own steps: a read-only cluster lets it,
/// and says what the new primary is.
#[test]
fn workers_change_under_patroni_in_a_read_only_cluster() {
    if !Patroni::is_installed() || !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: Patroni's Citus mode needs both of them");
        return;
    }
    let mut all = Patroni::start_citus("citus,citus_fence", &[0, 1, 1]).expect("a cluster");
    let coordinator = all.remove(0);
    let mut client = coordinator.connect().expect("a session");
    wait_until("a worker", PATIENCE, || {
        (value(&mut client, "SELECT count(*) FROM pg_dist_node WHERE groupid = 1") == "1")
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", coordinator.log()));
    client
        .batch_execute(
            "CREATE EXTENSION citus_fence;
             CREATE TABLE served (n bigint);
             SELECT create_distributed_table('served', 'n');
             INSERT INTO served SELECT generate_series(1, 100)",
        )
        .expect("a table");
    let is_first = all[0].is_primary();
    let [mut old, new]: [Patroni; 2] = all.try_into().map_err(|_| "two").expect("two workers");
    let new = if is_first { new } else { std::mem::replace(&mut old, new) };
    const STATES: &str =
        "SELECT string_agg(state, ' ' ORDER BY groupid) FROM citus_cluster_read_only_status()";
    const ROWS: &str = "SELECT count(*)::text FROM served";
    let close = |client: &mut test_cluster::postgres::Client| {
        client.batch_execute("SELECT citus_set_cluster_read_only()").expect("a closed cluster");
        assert_eq!(value(client, STATES), "read-only read-only");
        refused(client, "INSERT INTO served VALUES (0)");
    };
    let await_moved = |client: &mut test_cluster::postgres::Client, to: &Patroni| {
        let moved = wait_until("the coordinator to know of it", PATIENCE * 2, || {
            (to.is_primary() && value(client, PORT_OF_GROUP) == to.port().to_string()).then_some(())
        });
        moved.unwrap_or_else(|error| panic!("{error}: {}", coordinator.log()));
        // Only the new primary writes, and that is said, with what to do.
        assert_eq!(value(client, STATES), "read-only read-write");
        let told =
            "SELECT coalesce(string_agg(error, ' '), '') FROM citus_cluster_read_only_status()";
        let told = value(client, told);
        assert!(told.contains("citus_set_cluster_read_only()"), "{told}");
        refused(client, "INSERT INTO served VALUES (0)");
        assert_eq!(value(client, ROWS), "100");
    };

    let await_ready = |standby: &Patroni| {
        let ready = wait_until("a standby that may take over", PATIENCE * 2, || {
            standby.is_ready_to_take_over().ok()
        });
        ready.unwrap_or_else(|error| panic!("{error}: {}", standby.log()));
    };

    await_ready(&new);
    close(&mut client);
    old.switch_over_to(&new).expect("a switchover");
    await_moved(&mut client, &new);
    close(&mut client);
    // The other way round, and without a word.
    await_ready(&old);
    let mut new = new;
    new.crash().expect("a crash");
    await_moved(&mut client, &old);
    close(&mut client);

    client.batch_execute("SELECT citus_set_cluster_read_write()").expect("an open cluster");
    client.batch_execute("INSERT INTO served VALUES (0)").expect("a write");
    assert_eq!(value(&mut client, ROWS), "101");
}
