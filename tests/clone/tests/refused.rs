//! What is not fit is refused, when it is registered and again when it is to be split, each time with words of its own, and
//! nothing is changed by that. What two servers on one machine cannot have is judged in `src/clone/checks_tests.rs`.

use clone_tests::words::{refusal, words};
use clone_tests::{
    Bed, Engine, How, OTHER, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists,
    replica_of, wait_until,
};
use test_cluster::postgres::Client;
use test_cluster::{Cluster, HOST, Replica, Server};

const UNFIT: &str = "55000";
const TAKEN: &str = "42710";

fn add_call(cluster: &Cluster, port: u16, source: usize) -> String {
    format!(
        "SELECT public.citus_add_clone_node('{HOST}', {port}, '{HOST}', {})",
        cluster.catalog_port(source)
    )
}

/// Refused with these words, a detail and a hint.
fn is_refused(cluster: &Cluster, call: &str, code: &str, about: &str) -> Result<()> {
    let error = refusal(cluster, 0, call)?;
    let said = words(&error);
    assert!(error.code().code() == code && said.contains(about), "{call}, {about}: {said}");
    assert!(error.detail().is_some() && error.hint().is_some(), "{about}: {said}");
    Ok(())
}

/// Something that is wrong, and how it is put right again.
struct Wrong {
    about: &'static str,
    make: fn(&Cluster, &Replica) -> Result<Option<Client>>,
    mend: fn(&Cluster, &Replica) -> Result<()>,
}

fn set(server: &Server, name: &str, value: &str) -> Result<()> {
    server.alter_system(name, value)?;
    wait_until("a setting", PATIENCE, || {
        (server.query_value(&format!("SHOW {name}")).ok()? == value).then_some(())
    })
}

fn reset(server: &Server, name: &str) -> Result<()> {
    server.execute(&format!("ALTER SYSTEM RESET {name}"))?;
    server.reload()
}

fn on_source(cluster: &Cluster, replica: &Replica, sql: &str) -> Result<()> {
    cluster.node(SOURCE).execute(sql)?;
    cluster.wait_in_step(replica, PATIENCE)
}

const NOTHING: fn(&Cluster, &Replica) -> Result<()> = |_, _| Ok(());

/// What can be made wrong with a fit replica of the source.
fn all() -> Vec<Wrong> {
    vec![
        Wrong {
            about: "has paused its replay",
            make: |_, replica| {
                replica.server().execute("SELECT pg_wal_replay_pause()").map(|()| None)
            },
            mend: |_, replica| replica.server().execute("SELECT pg_wal_replay_resume()"),
        },
        Wrong {
            about: "delays its replay",
            make: |_, replica| {
                set(replica.server(), "recovery_min_apply_delay", "1min").map(|()| None)
            },
            mend: |_, replica| reset(replica.server(), "recovery_min_apply_delay"),
        },
        Wrong {
            about: "is a synchronous standby",
            make: |cluster, replica| {
                let name = format!("\"{}\"", replica.server().name());
                set(cluster.node(SOURCE), "synchronous_standby_names", &name)?;
                let sync = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
                wait_until("a synchronous standby", PATIENCE, || {
                    (cluster.node(SOURCE).query_value(sync).ok()? == "t").then_some(None)
                })
            },
            mend: |cluster, _| {
                reset(cluster.node(SOURCE), "synchronous_standby_names")?;
                let sync = "SELECT count(*) = 0 FROM pg_stat_replication WHERE sync_state = 'sync'";
                wait_until("no synchronous standby", PATIENCE, || {
                    (cluster.node(SOURCE).query_value(sync).ok()? == "t").then_some(())
                })
            },
        },
        Wrong {
            about: "would wait for standbys that it does not have",
            make: |_, replica| {
                set(replica.server(), "synchronous_standby_names", "nobody").map(|()| None)
            },
            mend: |_, replica| reset(replica.server(), "synchronous_standby_names"),
        },
        Wrong {
            about: "is managed by Patroni",
            make: |_, replica| {
                replica
                    .server()
                    .connect_params()
                    .application_name("Patroni heartbeat")
                    .connect()
                    .map(Some)
            },
            mend: NOTHING,
        },
        Wrong {
            about: "is managed by repmgr",
            make: |_, replica| {
                replica.server().connect_params().application_name("repmgrd").connect().map(Some)
            },
            mend: NOTHING,
        },
        Wrong {
            about: "archives its WAL as",
            make: |_, replica| {
                // As a copy of the source has it, whose settings file came with it.
                replica.server().alter_system("archive_mode", "on")?;
                replica.server().alter_system("archive_command", "/bin/true")?;
                replica.server().restart()?;
                Ok(None)
            },
            mend: |_, replica| {
                reset(replica.server(), "archive_mode")?;
                reset(replica.server(), "archive_command")?;
                replica.server().restart()
            },
        },
        Wrong {
            about: "would start to apply the subscriptions",
            make: |cluster, replica| {
                on_source(
                    cluster,
                    replica,
                    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
                         WITH (connect = false, slot_name = NONE)",
                )?;
                let enable =
                    "ALTER SUBSCRIPTION s SET (slot_name = 's'); ALTER SUBSCRIPTION s ENABLE";
                on_source(cluster, replica, enable)?;
                Ok(None)
            },
            mend: |cluster, replica| {
                let disable =
                    "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE)";
                on_source(cluster, replica, disable)?;
                on_source(cluster, replica, "DROP SUBSCRIPTION s")
            },
        },
        Wrong {
            about: "the default of the database",
            make: |cluster, replica| {
                let sql = "UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()";
                on_source(cluster, replica, sql).map(|()| None)
            },
            mend: |cluster, replica| {
                let sql = "UPDATE pg_database SET datcollversion = NULL WHERE datname = current_database()";
                on_source(cluster, replica, sql)
            },
        },
        Wrong {
            about: "collations on",
            make: |cluster, replica| {
                let sql = "UPDATE pg_collation SET collversion = '0' WHERE collname = 'ucs_basic'";
                on_source(cluster, replica, sql).map(|()| None)
            },
            mend: |cluster, replica| {
                let sql = "UPDATE pg_collation SET collversion = NULL WHERE collname = 'ucs_basic'";
                on_source(cluster, replica, sql)
            },
        },
        Wrong {
            about: "cannot load $libdir/not_there",
            make: |cluster, replica| {
                let sql = "SET citus.enable_ddl_propagation = off;
                    CREATE FUNCTION missing() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
                    UPDATE pg_proc SET probin = '$libdir/not_there' WHERE proname = 'missing'";
                on_source(cluster, replica, sql).map(|()| None)
            },
            mend: |cluster, replica| {
                on_source(
                    cluster,
                    replica,
                    "SET citus.enable_ddl_propagation = off; DROP FUNCTION missing()",
                )
            },
        },
        Wrong {
            about: "other servers stream from",
            make: |_, replica| {
                // A walsender of its own for as long as the session lives.
                let params = replica.server().connect_params();
                let slot = "SELECT pg_create_physical_replication_slot('cascaded', true)";
                params.connect()?.batch_execute(slot).expect("a slot");
                start_streaming(replica.server())?;
                Ok(None)
            },
            mend: |_, replica| {
                let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication";
                replica.server().execute(end)?;
                wait_until("no walsender", PATIENCE, || {
                    let drop = "SELECT pg_drop_replication_slot('cascaded')";
                    replica.server().execute(drop).ok()
                })
            },
        },
    ]
}

/// A receiver that streams until its walsender is ended.
fn start_streaming(server: &Server) -> Result<()> {
    let program = test_cluster::Installation::current()?.program("pg_receivewal");
    let folder = server.data_dir().with_file_name("received");
    let _ = std::fs::create_dir_all(&folder);
    let child = std::process::Command::new(program)
        .args(["-n", "--slot=cascaded", "-D"])
        .arg(&folder)
        .args(["-h", HOST, "-p", &server.port().to_string(), "-U", test_cluster::SUPERUSER])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("pg_receivewal");
    drop(child);
    let look = "SELECT count(*) > 0 FROM pg_stat_replication";
    wait_until("a walsender", PATIENCE, || (server.query_value(look).ok()? == "t").then_some(()))
}

#[test]
fn what_is_not_fit_is_refused_with_its_own_words() {
    on_each_engine(|engine: Engine| {
        let builder = Bed::builder(engine).node_setting(SOURCE, "archive_mode", "on").node_setting(
            SOURCE,
            "archive_command",
            "/bin/true",
        );
        let bed = Bed::of(builder)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let replica = bed.replica()?;
        let add = add_call(cluster, replica.catalog_port(), SOURCE);
        // Two rounds: before it is registered, and after.
        let mut id = None;
        for registered in [false, true] {
            let call = match registered {
                false => add.clone(),
                true => How::Ours.call(*id.insert(How::Ours.register(cluster, &replica)?)),
            };
            for Wrong { about, make, mend } in all() {
                let kept = make(cluster, &replica)?;
                is_refused(cluster, &call, UNFIT, about)?;
                drop(kept);
                mend(cluster, &replica)?;
                cluster.wait_streaming(&replica, PATIENCE)?;
            }
        }
        let id = id.expect("a clone");
        // Registered, or a node, already.
        is_refused(cluster, &add, TAKEN, &format!("It is clone {id}"))?;
        let node = add_call(cluster, cluster.catalog_port(OTHER), SOURCE);
        is_refused(cluster, &node, TAKEN, "of pg_dist_node")?;
        // No replica, and one of another node, which may tell by its system or by its stream.
        let spare = cluster.start_spare("spare")?;
        let call = add_call(cluster, spare.port(), SOURCE);
        is_refused(cluster, &call, UNFIT, "is not a streaming replica")?;
        let others = replica_of(cluster, OTHER)?;
        let call = add_call(cluster, others.catalog_port(), SOURCE);
        is_refused(cluster, &call, UNFIT, &format!("{HOST}:{}", cluster.catalog_port(SOURCE)))?;
        if engine == Engine::Citus {
            refused_by_citus_catalog(cluster, &replica, id)?;
        }
        // All is mended, and nothing was changed by it.
        let settings = "SELECT count(*) FROM pg_file_settings
            WHERE sourcefile LIKE '%postgresql.auto.conf' AND name LIKE 'citus.%'";
        assert_eq!(replica.server().query_value(settings)?, "0");
        How::Ours.split(cluster, id).end().outcome.expect("the split");
        Ok(())
    });
}

/// What only Citus knows of.
fn refused_by_citus_catalog(cluster: &Cluster, replica: &Replica, id: i32) -> Result<()> {
    let promote = How::Ours.call(id);
    let coordinator = cluster.coordinator();
    coordinator.execute(
        "INSERT INTO pg_catalog.pg_dist_background_job (state, job_type, description) VALUES ('running', 'x', 'x')",
    )?;
    is_refused(cluster, &promote, UNFIT, "a background job of Citus is running")?;
    coordinator.execute("DELETE FROM pg_catalog.pg_dist_background_job")?;

    let other = format!("'{HOST}', {}", cluster.catalog_port(OTHER));
    coordinator.execute(&format!("SELECT stop_metadata_sync_to_node({other})"))?;
    is_refused(cluster, &promote, UNFIT, "start_metadata_sync_to_node")?;
    coordinator.execute(&format!("SELECT start_metadata_sync_to_node({other})"))?;

    // A role as which Citus connects, and that nobody lets in.
    coordinator.execute("CREATE ROLE elsewhere LOGIN CONNECTION LIMIT 0")?;
    coordinator.execute(
        "INSERT INTO pg_catalog.pg_dist_authinfo (nodeid, rolename, authinfo) VALUES (0, 'elsewhere', 'password=x')",
    )?;
    cluster.node(SOURCE).execute(
        "INSERT INTO pg_catalog.pg_dist_authinfo (nodeid, rolename, authinfo) VALUES (0, 'elsewhere', 'password=x')
         ON CONFLICT DO NOTHING",
    )?;
    cluster.wait_in_step(replica, PATIENCE)?;
    is_refused(cluster, &promote, UNFIT, "as role elsewhere")?;
    cluster
        .node(SOURCE)
        .execute("DELETE FROM pg_catalog.pg_dist_authinfo WHERE rolename = 'elsewhere'")?;
    coordinator.execute("DELETE FROM pg_catalog.pg_dist_authinfo WHERE rolename = 'elsewhere'")?;
    coordinator.execute("DROP ROLE elsewhere")?;
    cluster.wait_in_step(replica, PATIENCE)?;

    // Citus' own registration is not ours, and says so.
    if How::CitusOwn.exists(cluster)? {
        let second = replica_of(cluster, SOURCE)?;
        let theirs = How::CitusOwn.register(cluster, &second)?;
        let error = refusal(cluster, 0, &How::Ours.call(theirs))?;
        let said = words(&error);
        assert!(said.contains("Citus' own citus_add_clone_node() has registered it"), "{said}");
        let call = add_call(cluster, second.catalog_port(), SOURCE);
        is_refused(cluster, &call, TAKEN, "pg_catalog.citus_remove_clone_node")?;
        coordinator.execute(&format!(
            "SELECT pg_catalog.citus_remove_clone_node('{HOST}', {})",
            second.catalog_port()
        ))?;
    }
    Ok(())
}

/// A clone that does not come near in time, or stops when writers wait for it: they are let go at once, and nothing is
/// changed.
#[test]
fn a_clone_that_lags_keeps_nobody_waiting() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let replica = bed.replica()?;
        let id = How::Ours.register(cluster, &replica)?;
        let pause = |yes: bool| {
            let function = if yes { "pause" } else { "resume" };
            replica.server().execute(&format!("SELECT pg_wal_replay_{function}()"))
        };
        let as_before = || {
            wait_until("everything as before", PATIENCE, || {
                clone_tests::matrix::is_as_before(&bed, &replica, id).ok()?.then_some(())
            })
        };
        let stopped_before_near = || -> Result<_> {
            let mut stand = Stand::before(cluster, "near")?;
            let call = clone_tests::Call::make(
                &cluster.coordinator().connect_params(),
                format!("SELECT public.citus_promote_clone_and_rebalance({id}, NULL, 2)"),
            );
            stand.wait(&call)?;
            pause(true)?;
            Ok((stand, call))
        };
        // Far behind, while writers go on.
        let (stand, call) = stopped_before_near()?;
        cluster.node(SOURCE).execute(
            "CREATE TABLE bulk (t text); SET max_parallel_workers = 0;
             INSERT INTO bulk SELECT repeat(md5(n::text), 60) FROM generate_series(1, 12000) n; DROP TABLE bulk",
        )?;
        stand.let_go()?;
        let error = call.end().outcome.expect_err("a clone that lags");
        assert!(error.contains("did not catch up") && error.contains("55000"), "{error}");
        pause(false)?;
        as_before()?;

        // A little behind, but it stands still: nobody waits for that.
        let (stand, call) = stopped_before_near()?;
        stand.let_go()?;
        let error = call.end().outcome.expect_err("a clone that stands still");
        assert!(error.contains("while writers went on"), "{error}");
        pause(false)?;
        as_before()?;

        // Close, and then it stops.
        let mut stand = Stand::before(cluster, "caught_up")?;
        let call = How::Ours.split(cluster, id);
        stand.wait(&call)?;
        pause(true)?;
        stand.let_go()?;
        let error = call.end().outcome.expect_err("a clone that stops");
        assert!(error.contains("within 10 s") && error.contains("while writers waited"), "{error}");
        pause(false)?;
        as_before()?;
        How::Ours.split(cluster, id).end().outcome.expect("the split");
        Ok(())
    });
}
