//! A caller that is gone changes nothing any more: the last thing that its session does is to take back what it has begun.

use readonly_tests::{
    Engine, PATIENCE, Result, SOON, Server, await_closing, is_read_only, on_each_engine, open,
    serve, single, wait_until,
};

const PATIENT: &str = "SELECT alter_system_read_only(false)";
/// So that prepared transactions are waited for.
const LONG: &str = "SET citus_fence.lock_timeout = '600s'";

/// Sessions that are in the call.
fn calls(node: &Server) -> Result<String> {
    node.query_value(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = '{PATIENT}' AND pid <> pg_backend_pid()"
    ))
}

fn await_calls(node: &Server, count: &str) -> Result<()> {
    wait_until(&format!("{count} sessions in the call"), SOON, || {
        (calls(node).ok()? == count).then_some(())
    })
}

/// What keeps a patient switch waiting: how it begins, and how it ends.
const IN_THE_WAY: [(&str, &str); 2] = [
    ("BEGIN; INSERT INTO served VALUES (1)", "COMMIT"),
    ("BEGIN; INSERT INTO served VALUES (1); PREPARE TRANSACTION 'left'", "COMMIT PREPARED 'left'"),
];

#[test]
fn a_switch_whose_caller_is_gone_does_not_happen() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for (begin, end) in IN_THE_WAY {
            let mut writer = node.connect()?;
            writer.batch_execute(begin).unwrap_or_else(|error| panic!("{begin}: {error}"));
            let gone = node.psql_call(LONG, PATIENT)?;
            await_closing(node)?;
            gone.kill();
            // While the writer is still there, and not when it has ended.
            await_calls(node, "0")?;
            assert_eq!(node.query_value("SELECT state FROM citus_fence.stat_gate")?, "read-write");
            writer.batch_execute(end).unwrap_or_else(|error| panic!("{end}: {error}"));
            assert!(!is_read_only(node)?, "{begin}");
            node.execute("INSERT INTO served VALUES (2)")?;

            // The control: one that stays has its way.
            writer.batch_execute(begin).unwrap_or_else(|error| panic!("{begin}: {error}"));
            let stays = node.psql_call(LONG, PATIENT)?;
            await_closing(node)?;
            writer.batch_execute(end).unwrap_or_else(|error| panic!("{end}: {error}"));
            assert!(stays.succeeds());
            assert!(is_read_only(node)?, "{begin}");
            open(node)?;
        }
        Ok(())
    });
}

/// He waits for another switch, in a wait of the server's own, which does not look for its client.
#[test]
fn one_that_was_gone_before_its_turn_does_nothing_when_that_comes() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut writer = node.connect()?;
        writer.batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a writer");
        let first = node.psql_call("", PATIENT)?;
        await_closing(node)?;
        let second = node.psql_call("", PATIENT)?;
        wait_until("the second to wait", PATIENCE, || {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            (node.query_value(waits).ok()? == "1").then_some(())
        })?;
        second.kill();
        node.execute(&format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
              WHERE query = '{PATIENT}' AND wait_event_type IS DISTINCT FROM 'Lock'"
        ))?;
        assert!(!first.succeeds(), "it was cancelled");
        await_calls(node, "0")?;
        writer.batch_execute("COMMIT").expect("its end");
        assert!(!is_read_only(node)?);
        Ok(())
    });
}
