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
