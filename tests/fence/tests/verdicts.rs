//! What the end of a block returns is the whole truth, for callers who hear no WARNING: true only if the block lasted
//! until this call and this call ended it.

use std::time::Duration;

use fence_tests::{
    BLOCK, Client, Cluster, Engine, PATIENCE, Result, UNBLOCK, call, in_background, on_each_engine,
    reason, start, state, wait_until, worker_pid,
};

/// How a caller says which block it means.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Unnamed,
    ByStart,
    ByNumber,
}

const WAYS: [Way; 3] = [Way::Unnamed, Way::ByStart, Way::ByNumber];

impl Way {
    /// Begins a block; what ends it.
    fn begin(self, client: &mut Client, timeout_ms: i32) -> String {
        if self == Self::ByNumber {
            let number = start(client, &timeout_ms.to_string());
            return format!("SELECT citus_backup_block_stop({number})");
        }
        assert!(call(client, &format!("SELECT citus_block_writes_for_backup({timeout_ms})")));
        if self == Self::Unnamed {
            return UNBLOCK.to_owned();
        }
        let began: String = client
            .query_one("SELECT block_start_time::text FROM citus_backup_block_status()", &[])
            .expect("a status")
            .get(0);
        format!("SELECT citus_unblock_backup_block('{began}')")
    }
}

/// What happens to the block before its caller ends it, and what the status then says of it.
struct Fault {
    timeout_ms: i32,
    happen: fn(&Cluster, &mut Client) -> Result<()>,
    reasons: &'static [&'static str],
}

const FAULTS: [Fault; 4] = [
    Fault {
        timeout_ms: 60_000,
        happen: |_, other| {
            let pid = worker_pid(other);
            assert!(call(other, &format!("SELECT pg_terminate_backend({pid})")));
            wait_until("its end", PATIENCE, || (state(other) == "error").then_some(()))
        },
        reasons: &["terminated"],
    },
    Fault {
        timeout_ms: 60_000,
        happen: |cluster, other| {
            cluster.worker(1).crash()?;
            wait_until("its end", PATIENCE, || (state(other) == "error").then_some(()))?;
            cluster.worker(1).start()
        },
        reasons: &["lost the connection to"],
    },
    Fault {
        timeout_ms: 300,
        happen: |_, other| {
            wait_until("its end", PATIENCE, || (state(other) == "inactive").then_some(()))
        },
        reasons: &["expired"],
    },
    // Just before the release: seen before it, or by it.
    Fault {
        timeout_ms: 60_000,
        happen: |cluster, other| {
            let pid: i32 = other
                .query_one(
                    "SELECT backend_pid FROM citus_backup_block_nodes() WHERE groupid = 1",
                    &[],
                )
                .expect("a manifest")
                .get(0);
            cluster.worker(1).execute(&format!("SELECT pg_terminate_backend({pid})"))
        },
        reasons: &["lost the connection to", "did not confirm the release"],
    },
];

/// A role to which no WARNING comes.
fn deaf(cluster: &Cluster) -> Result<Client> {
    cluster.coordinator().execute(
        "CREATE ROLE backup LOGIN; ALTER ROLE backup SET client_min_messages = error; \
         GRANT EXECUTE ON FUNCTION citus_block_writes_for_backup(int), \
             citus_unblock_writes_for_backup(), citus_unblock_backup_block(timestamptz), \
             citus_backup_block_start(int, text), citus_backup_block_stop(bigint), \
             citus_backup_block_extend(bigint, int) TO backup",
    )?;
    cluster.coordinator().connect_as("backup", None)
}

#[test]
fn a_block_that_did_not_last_is_false_however_it_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = deaf(&cluster)?;
        let mut other = cluster.connect(0)?;
        for way in WAYS {
            // The control: nothing happens.
            let end = way.begin(&mut client, 60_000);
            assert!(call(&mut client, &end), "{way:?}");
            assert_eq!(reason(&mut client), None, "{way:?}");
            assert!(!call(&mut client, &end), "{way:?}: it has been released already");

            for fault in &FAULTS {
                let end = way.begin(&mut client, fault.timeout_ms);
                (fault.happen)(&cluster, &mut other)?;
                let what = format!("{way:?}, {:?}", fault.reasons);
                assert!(!call(&mut client, &end), "{what}");
                assert_eq!(state(&mut client), "inactive", "{what}: the way is free");
                // To whom no WARNING comes, the status says why.
                let said = reason(&mut client).unwrap_or_default();
                assert!(fault.reasons.iter().any(|reason| said.contains(reason)), "{what}: {said}");
            }

            // Somebody else has released it.
            let end = way.begin(&mut client, 60_000);
            assert!(call(&mut other, UNBLOCK), "{way:?}: that one had lasted until then");
            assert!(!call(&mut client, &end), "{way:?}: another has released it");
            // And has begun another.
            let end = way.begin(&mut client, 60_000);
            assert!(call(&mut other, UNBLOCK));
            let theirs = start(&mut other, "60000");
            if way != Way::Unnamed {
                assert!(!call(&mut client, &end), "{way:?}: that is another's");
            }
            assert_eq!(state(&mut other), "active", "{way:?}: it goes on");
            assert!(call(&mut other, &format!("SELECT citus_backup_block_stop({theirs})")));
        }
        Ok(())
    });
}

/// Whoever says no name may mean a block that has ended unseen, and be given another's.
#[test]
fn a_later_block_does_not_vouch_for_one_that_ended_unseen() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let (mut mine, mut theirs) = (deaf(&cluster)?, cluster.connect(0)?);
        let end = Way::Unnamed.begin(&mut mine, 200);
        wait_until("its end", PATIENCE, || (state(&mut theirs) == "inactive").then_some(()))?;
        assert!(call(&mut theirs, BLOCK));
        assert!(!call(&mut mine, &end), "mine has expired");
        // The control: now that somebody has been told, the next one is as good as any.
        assert!(call(&mut theirs, BLOCK));
        assert!(call(&mut mine, &end));
        // And who names its own block hears nothing of others.
        let _ = Way::Unnamed.begin(&mut mine, 200);
        wait_until("its end", PATIENCE, || (state(&mut theirs) == "inactive").then_some(()))?;
        let number = start(&mut theirs, "60000");
        assert!(call(&mut theirs, &format!("SELECT citus_backup_block_stop({number})")));
        Ok(())
    });
}

#[test]
fn a_node_that_does_not_confirm_the_release_vouches_for_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = deaf(&cluster)?;
        let end = Way::ByNumber.begin(&mut client, 60_000);
        cluster.worker(1).freeze()?;
        assert!(!call(&mut client, &end));
        let said = reason(&mut client).unwrap_or_default();
        assert!(said.contains("did not confirm the release"), "{said}");
        cluster.worker(1).thaw()?;
        fence_tests::wait_until_free(&cluster, Duration::from_secs(5))
    });
}

#[test]
fn a_block_that_never_became_active_is_none() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = deaf(&cluster)?;
        let mut in_the_way = cluster.connect(1)?;
        in_the_way
            .batch_execute("BEGIN; LOCK TABLE pg_dist_transaction IN ROW EXCLUSIVE MODE")
            .expect("a lock");
        let caller = in_background(&cluster, 0, &[BLOCK.to_owned()]);
        wait_until("a start", PATIENCE, || (state(&mut client) == "starting").then_some(()))?;
        assert!(!call(&mut client, UNBLOCK));
        caller.join().expect("a thread").expect_err("it was given up");
        Ok(())
    });
}

/// Who hears no WARNING still finds, in a result, which nodes are not under the block.
#[test]
fn an_inactive_node_that_is_not_held_is_named_in_the_status() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        let warning = |client: &mut Client| -> Option<String> {
            let sql = "SELECT warning FROM citus_backup_block_status()";
            client.query_one(sql, &[]).expect("a row").get(0)
        };
        client.batch_execute("SET client_min_messages = error").expect("a setting");
        let number = start(&mut client, "60000");
        assert_eq!(warning(&mut client), None);
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        client.batch_execute("SELECT citus_add_inactive_node('127.0.0.1', 1)").expect("a node");
        let number = start(&mut client, "60000");
        let told = warning(&mut client).expect("a warning");
        assert!(told.contains("127.0.0.1:1"), "{told}");
        assert!(call(&mut client, &format!("SELECT citus_backup_block_stop({number})")));
        assert_eq!(warning(&mut client), None);
        Ok(())
    });
}
