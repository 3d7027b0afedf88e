//! Whoever names himself like a connection between nodes passes another gate, and waits at that one.

use std::time::Duration;

use readonly_tests::{
    Client, Engine, PATIENCE, Result, Server, assert_untouched, on_each_engine, serve, single,
    try_write_in, wait_until,
};

const LIAR: &str = "citus_internal gpid=1";

/// Holds a gate until it is dropped.
fn hold(node: &Server, gates: &[&str]) -> Result<Client> {
    let mut holder = node.connect()?;
    holder.batch_execute("BEGIN").expect("BEGIN");
    for gate in gates {
        holder
            .batch_execute(&format!("SELECT citus_fence.lock_gate('{gate}')"))
            .unwrap_or_else(|error| panic!("{gate}: {}", test_cluster::describe(&error)));
    }
    Ok(holder)
}

#[test]
fn an_ordinary_client_that_names_itself_internal_waits_like_the_others() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let honest = || node.connect_params().application_name("an application");
        let liar = || node.connect_params().application_name(LIAR);
        let soon = Duration::from_millis(400);

        // Nothing is locked: both write.
        for params in [honest(), liar()] {
            assert!(try_write_in(&params, soon)?, "writes wait at an open gate");
        }
        // The control: with one gate closed, only those of that gate wait; there are two.
        let holder = hold(node, &["client"])?;
        assert!(!try_write_in(&honest(), soon)?, "a client passes the closed gate");
        assert!(try_write_in(&liar(), soon)?, "there are no two gates");
        drop(holder);
        let holder = hold(node, &["internal"])?;
        assert!(try_write_in(&honest(), soon)?);
        assert!(!try_write_in(&liar(), soon)?);
        drop(holder);

        // Both closed: both wait, until the gates are opened, and then go on without an error.
        let mut holder = hold(node, &["client", "internal"])?;
        let writers: Vec<_> = [honest(), liar()]
            .into_iter()
            .map(|params| {
                std::thread::spawn(move || {
                    let mut client = params.connect().expect("a connection");
                    client.batch_execute("INSERT INTO served VALUES (42)")
                })
            })
            .collect();
        wait_until("two writers at the gates", PATIENCE, || {
            let count = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted";
            (node.query_value(count).ok()? == "2").then_some(())
        })?;
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        assert_eq!(node.query_value("SELECT count(*) FROM served WHERE n = 42")?, "0");
        // Readers do not wait, whatever their name.
        for params in [honest(), liar()] {
            let mut client = params.connect()?;
            client.batch_execute("SELECT count(*) FROM served").expect("a read");
        }
        holder.batch_execute("COMMIT").expect("the end of the hold");
        for writer in writers {
            writer.join().expect("a thread").expect("a write");
        }
        assert_eq!(node.query_value("SELECT count(*) FROM served WHERE n = 42")?, "2");
        assert_untouched(node)
    });
}

/// A name that is changed in the middle changes nothing for who has passed, and the next transaction
/// passes by the name of then.
#[test]
fn a_change_of_name_is_no_way_round() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        client.batch_execute("SET lock_timeout = '300ms'").expect("a setting");
        let holder = hold(node, &["client", "internal"])?;
        for name in [LIAR, "an application", ""] {
            client.batch_execute(&format!("SET application_name = '{name}'")).expect("a name");
            let error = readonly_tests::refusal(&mut client, "INSERT INTO served VALUES (1)");
            assert_eq!(error.code().code(), "55P03", "{name}: {error:?}");
        }
        drop(holder);
        assert_untouched(node)
    });
}
