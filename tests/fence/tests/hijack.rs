//! The extension's sessions are a superuser's: nothing that an ordinary role can make may run in them.

use fence_tests::{
    BLOCK, Cluster, Engine, PATIENCE, Result, Server, Spread, UNBLOCK, call, in_background,
    on_each_engine, refusal, wait_until,
};

/// Operators that fit the types in the extension's queries better than the server's own do, and a
/// function of the name that the extension calls; each leaves a file if a superuser runs it.
const TRAPS: &str = "
    CREATE FUNCTION public.sprung() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('is_superuser') = 'on' THEN
            EXECUTE $q$COPY (SELECT session_user) TO PROGRAM 'cat > hijacked'$q$;
        END IF; END $$;
    CREATE FUNCTION public.minus(numeric, int) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.sprung(); RETURN $1 OPERATOR(pg_catalog.-) $2::numeric; END $$;
    CREATE OPERATOR public.- (leftarg = numeric, rightarg = int, function = public.minus);
    CREATE FUNCTION public.same(oid, regnamespace) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.sprung(); RETURN $1 OPERATOR(pg_catalog.=) $2::oid; END $$;
    CREATE OPERATOR public.= (leftarg = oid, rightarg = regnamespace, function = public.same);";

const FALSE_FLUSH: &str = "
    CREATE SCHEMA citus_fence;
    CREATE FUNCTION citus_fence.flush_wal() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.sprung(); RETURN '0/1'::pg_lsn; END $$;";

/// Runs on one node alone; returns with the node's own word on it.
fn locally(node: &Server, engine: Engine, sql: &str) -> Result<()> {
    match engine {
        Engine::Citus => node.execute(&format!("SET citus.enable_ddl_propagation = off; {sql}")),
        Engine::Embedded => node.execute(sql),
    }
}

fn sprung(cluster: &Cluster) -> Vec<&str> {
    cluster
        .nodes()
        .iter()
        .filter(|node| node.data_dir().join("hijacked").exists())
        .map(Server::name)
        .collect()
}

#[test]
fn traps_on_the_search_path_are_not_sprung() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        for node in cluster.nodes() {
            locally(node, engine, TRAPS)?;
        }
        // The control: a superuser's session that is not careful springs them.
        let worker = cluster.worker(1);
        worker.execute("SELECT 2::numeric - 1::int")?;
        assert_eq!(sprung(&cluster), [worker.name()]);
        std::fs::remove_file(worker.data_dir().join("hijacked")).expect("the trap's file");

        // A node without the extension, and with something of the same name.
        locally(worker, engine, "DROP EXTENSION citus_fence")?;
        locally(worker, engine, FALSE_FLUSH)?;

        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let writer = in_background(&cluster, 1, &spread.two_phase(&cluster));
        wait_until("a waiter", PATIENCE, || {
            let rows = client.query("SELECT * FROM citus_backup_block_waiters()", &[]);
            (!rows.expect("waiters").is_empty()).then_some(())
        })?;
        client.query("SELECT * FROM citus_backup_restore_point('x')", &[]).expect("points");
        let lsn: String = client
            .query_one(
                "SELECT max(wal_lsn)::text FROM citus_backup_block_nodes() WHERE groupid = 1",
                &[],
            )
            .expect("a manifest")
            .get(0);
        assert_ne!(lsn, "0/1", "a false flush was believed");
        assert!(call(&mut client, UNBLOCK));
        writer.join().expect("a thread").expect("the write goes on");

        // Somebody in the way, on a worker and here: both look-ups of blockers run.
        client
            .batch_execute(
                "SET citus_fence.lock_timeout = '200ms'; SET citus_fence.acquire_timeout = '600ms'",
            )
            .expect("settings");
        for node in [0, 1] {
            let mut in_the_way = cluster.connect(node)?;
            in_the_way
                .batch_execute("BEGIN; LOCK TABLE pg_dist_transaction IN ROW EXCLUSIVE MODE")
                .expect("a lock");
            let error = refusal(&mut client, BLOCK);
            assert!(
                error.detail().is_some_and(|detail| detail.contains("In the way")),
                "{error:?}"
            );
        }
        assert!(sprung(&cluster).is_empty(), "sprung on {:?}", sprung(&cluster));
        Ok(())
    });
}

/// What the cluster's switch and its status call on other nodes.
const FALSE_GATE: &str = "
    CREATE SCHEMA citus_fence;
    CREATE FUNCTION citus_fence.node_gate() RETURNS TABLE (state text, read_only_lsn pg_lsn)
        LANGUAGE plpgsql AS $$ BEGIN PERFORM public.sprung(); RETURN QUERY SELECT 'open', '0/1'::pg_lsn; END $$;
    CREATE VIEW citus_fence.stat_gate AS SELECT * FROM citus_fence.node_gate();
    CREATE FUNCTION citus_fence.node_read_write() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.sprung(); END $$;
    CREATE FUNCTION citus_fence.node_read_only() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.sprung(); RETURN '0/1'::pg_lsn; END $$;";

#[test]
fn nor_those_in_the_place_of_the_gate() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let worker = cluster.worker(1);
        locally(worker, engine, TRAPS)?;
        locally(worker, engine, "DROP EXTENSION citus_fence")?;
        locally(worker, engine, FALSE_GATE)?;
        locally(
            worker,
            engine,
            FALSE_FLUSH.trim_start().trim_start_matches("CREATE SCHEMA citus_fence;"),
        )?;
        let mut client = cluster.connect(0)?;
        let port = worker.port().to_string();
        let rows = client
            .query(
                "SELECT nodeport::text, state, error FROM citus_cluster_read_only_status()
                  WHERE state IS NULL",
                &[],
            )
            .expect("a status");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<_, String>(0), port);
        assert!(rows[0].get::<_, String>(2).contains("does not have the gate"), "{rows:?}");
        // Nothing was switched; and of what was to be opened, all but that one has been.
        for (call, code) in [
            ("citus_set_cluster_read_only()", "55000"),
            ("citus_set_cluster_read_write()", "58000"),
        ] {
            let error = refusal(&mut client, &format!("SELECT {call}"));
            assert_eq!(error.code().code(), code, "{error:?}");
            let text = format!("{} {}", error.message(), error.detail().unwrap_or_default());
            assert!(text.contains(&port), "{text} does not name the node");
        }
        assert!(sprung(&cluster).is_empty(), "sprung on {:?}", sprung(&cluster));
        // The control.
        worker.execute("SELECT * FROM citus_fence.stat_gate")?;
        assert_eq!(sprung(&cluster), [worker.name()]);
        Ok(())
    });
}

#[test]
fn the_status_shows_nobody_elses_query() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.coordinator().execute("CREATE ROLE curious LOGIN")?;
        let mut in_the_way = cluster.connect(0)?;
        in_the_way
            .batch_execute(
                "BEGIN; LOCK TABLE pg_dist_transaction IN ROW EXCLUSIVE MODE; SELECT 'hunter2'",
            )
            .expect("a lock");
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "SET citus_fence.lock_timeout = '200ms'; SET citus_fence.acquire_timeout = '500ms'",
            )
            .expect("settings");
        let error = refusal(&mut client, BLOCK);
        assert!(error.detail().is_some_and(|detail| detail.contains("hunter2")), "{error:?}");
        let status = "SELECT error FROM citus_backup_block_status()";
        let seen = |client: &mut fence_tests::Client| -> String {
            client.query_one(status, &[]).expect("a status").get(0)
        };
        assert!(seen(&mut client).contains("hunter2"), "the control: who may see it does");
        let mut curious = cluster.coordinator().connect_as("curious", None)?;
        let shown = seen(&mut curious);
        assert!(!shown.contains("hunter2") && shown.contains("could not lock"), "{shown}");
        Ok(())
    });
}
