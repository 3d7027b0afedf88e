//! `citus-fence restore-dump`: what was dumped is there again, in a cluster of another shape.

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::restored::{create, portrait, restore_command, same};
use common::{dump_command, manifest, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};

/// Which tables a new one joins by itself, of a key and a number of shards that several groups have.
fn joined(cluster: &Cluster) -> Result<Vec<Vec<Option<String>>>> {
    let coordinator = cluster.coordinator();
    coordinator.execute("SET citus.shard_count = 6; CREATE TABLE joining (id bigint); SELECT create_distributed_table('joining', 'id')")?;
    coordinator.query(
        "SELECT string_agg(table_name::text, ' ' ORDER BY table_name::text) FROM citus_tables
          WHERE colocation_id = (SELECT colocation_id FROM citus_tables WHERE table_name = 'joining'::regclass)",
    )
}

#[test]
fn every_kind_of_table_comes_back_in_a_cluster_of_another_shape() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(2).fsync(false).build()?;
        create(&source)?;
        let was = portrait(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &["--part-blocks", "1"]))
            .expect(0);
        let would_join = (engine == Engine::Citus).then(|| joined(&source)).transpose()?;
        drop(source);

        let target = Cluster::builder(engine).workers(3).fsync(false).build()?;
        let port = target.coordinator().port();
        let ended = run(&mut restore_command(port, &dir, &["--jobs", "3", "--json"])).expect(0);
        let said: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        println!("{engine}: {said}");
        assert_eq!(said["findings"].as_array().map(Vec::len), Some(0), "{said}");
        assert!(said["direct"].as_u64().expect("a number") > 10, "{said}");
        assert_eq!((&said["nodes"], &said["resumed"]), (&4.into(), &false.into()));
        same(&was, &portrait(&target)?);

        // Nothing of the command is left, and what is there now is refused.
        for node in 0..4 {
            let left = target
                .node(node)
                .query("SELECT 1 FROM pg_namespace WHERE nspname = 'citus_fence_restore'")?;
            assert!(left.is_empty(), "node {node}");
        }
        let again = run(&mut restore_command(port, &dir, &[])).expect(1);
        again.complains_of(&["is not empty", "public.", "--into-non-empty"]);
        same(&was, &portrait(&target)?);

        // Every node that gives numbers gives fresh ones.
        let nodes: Vec<usize> = match engine {
            Engine::Citus => (0..4).collect(),
            Engine::Embedded => vec![0],
        };
        for node in nodes {
            let sql = match engine {
                Engine::Citus => "INSERT INTO m_anchor (v) VALUES ('fresh')".to_owned(),
                Engine::Embedded => "INSERT INTO keyed (other) VALUES (1000)".to_owned(),
            };
            target.node(node).execute(&sql)?;
        }
        target.coordinator().execute("INSERT INTO generated (a, p) VALUES (99, 1)")?;
        let next = target.coordinator().query("SELECT nextval('used')")?;
        assert_eq!(next[0][0].as_deref(), Some("34"));
        if let Some(would_join) = would_join {
            assert_eq!(joined(&target)?, would_join);
        }
        Ok(())
    });
}

#[test]
fn roles_come_where_they_are_asked_for() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        match engine {
            Engine::Citus => source.coordinator().execute("CREATE ROLE app LOGIN NOSUPERUSER")?,
            Engine::Embedded => source.execute_everywhere("CREATE ROLE app LOGIN NOSUPERUSER")?,
        }
        source.create_distributed("CREATE TABLE owned (id bigint)", "owned", "id", 4)?;
        source.coordinator().execute("CREATE TABLE local (id int); ALTER TABLE local OWNER TO app; INSERT INTO local VALUES (1)")?;
        source.coordinator().execute("GRANT SELECT ON owned TO app")?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &["--roles"])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        let without = run(&mut restore_command(port, &dir, &[])).expect(1);
        let without = without.complains_of(&["role \"app\" does not exist", "--roles"]);
        // The schema is one transaction: nothing of it is there, and nothing to go on with.
        assert!(!without.err.contains("--resume"), "{without:?}");
        let made = "SELECT 1 FROM pg_class WHERE relname IN ('owned', 'local', 'progress')";
        for node in target.nodes() {
            assert!(node.query(made)?.is_empty());
        }
        run(&mut restore_command(port, &dir, &["--roles"])).expect(0);
        let owner = target.coordinator().query(
            "SELECT tableowner, has_table_privilege('app', 'owned', 'SELECT'), (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'app')
               FROM pg_tables WHERE tablename = 'local'",
        )?;
        let owner: Vec<_> = owner[0].iter().map(|value| value.as_deref()).collect();
        assert_eq!(owner, [Some("app"), Some("t"), Some("t")]);
        Ok(())
    });
}

#[test]
fn the_database_is_made_where_that_is_asked_for() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).database("shop").fsync(false).build()?;
        source.create_distributed("CREATE TABLE t (id bigint, v text)", "t", "id", 4)?;
        for id in 1..=20 {
            source.coordinator().execute(&source.shard_sql(
                "t",
                id,
                &format!("INSERT INTO %s VALUES ({id}, 'v{id}')"),
            ))?;
        }
        source
            .coordinator()
            .execute("CREATE TABLE local (id int); INSERT INTO local VALUES (1)")?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let mut dump = common::command(&[
            "dump",
            "-h",
            test_cluster::HOST,
            "-U",
            test_cluster::SUPERUSER,
            "-d",
            "shop",
        ]);
        let bindir = test_cluster::Installation::current()?.bindir().to_owned();
        dump.arg("-p")
            .arg(source.coordinator().port().to_string())
            .arg("--bindir")
            .arg(bindir)
            .arg(&dir);
        run(&mut dump).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        let there = |node: usize| {
            target.node(node).query("SELECT datcollate FROM pg_database WHERE datname = 'shop'")
        };
        // What cannot be restored leaves no database: its roles are not there.
        let needs = folder.path().join("needs");
        assert!(Command::new("cp").arg("-a").arg(&dir).arg(&needs).status().expect("cp").success());
        let mut changed = manifest(&needs);
        changed["postgresql"] = "99.1".into();
        std::fs::write(needs.join("manifest.json"), changed.to_string()).expect("a manifest");
        run(&mut restore_command(port, &needs, &["--create"]))
            .expect(1)
            .complains_of(&["PostgreSQL 99.1"]);
        for node in 0..3 {
            assert!(there(node)?.is_empty(), "node {node}");
        }
        run(&mut restore_command(port, &dir, &["--create"])).expect(0);
        let locale = manifest(&dir)["locale"]["collate"].as_str().map(str::to_owned);
        for node in 0..3 {
            assert_eq!(there(node)?, [[locale.clone()]], "node {node}");
        }
        let mut shop = target.coordinator().connect_params().database("shop").connect()?;
        let rows: i64 = shop.query_one("SELECT count(*) FROM local", &[]).expect("rows").get(0);
        let shards: i64 =
            shop.query_one("SELECT count(*) FROM pg_dist_shard", &[]).expect("shards").get(0);
        let nodes: i64 = shop
            .query_one("SELECT count(DISTINCT groupid) FROM pg_dist_placement", &[])
            .expect("nodes")
            .get(0);
        assert_eq!((rows, shards, nodes), (1, 4, 2));
        if engine == Engine::Citus {
            let rows: i64 = shop
                .query_one("SELECT count(*) FROM t WHERE v = 'v' || id", &[])
                .expect("rows")
                .get(0);
            assert_eq!(rows, 20);
        }
        run(&mut restore_command(port, &dir, &["--create"]))
            .expect(1)
            .complains_of(&["database \"shop\" exists on"]);
        Ok(())
    });
}

/// Values of an enum are hashed by numbers that another database gives them: rows that go straight to the shard of the
/// same range are there, and nobody finds them.
#[test]
fn every_value_of_an_enum_is_found_by_its_key_and_straight_to_the_shards_it_is_not() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: who finds rows by their key, without Citus");
        return Ok(());
    }
    let labels: Vec<String> = (0..24).map(|n| format!("v{n}")).collect();
    let source = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    source
        .coordinator()
        .execute(&format!("CREATE TYPE kind AS ENUM ('{}')", labels.join("', '")))?;
    source.coordinator().execute("CREATE TABLE by_kind (k kind, n int)")?;
    source
        .coordinator()
        .execute("SELECT create_distributed_table('by_kind', 'k', shard_count := 8)")?;
    source
        .coordinator()
        .execute("INSERT INTO by_kind SELECT k, 1 FROM unnest(enum_range(NULL::kind)) k")?;
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(source.coordinator().port(), &dir, &["--compress", "none"])).expect(0);
    drop(source);

    let target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = target.coordinator();
    // Its next numbers are others.
    coordinator.execute(&format!("CREATE TYPE spent AS ENUM ('{}')", labels.join("', '")))?;
    coordinator.execute("DROP TYPE spent")?;
    let ended = run(&mut restore_command(coordinator.port(), &dir, &["--json"])).expect(0);
    assert!(ended.out.contains("\"direct\":0"), "{ended:?}");
    let found = |node: usize, table: &str| -> Result<usize> {
        let mut client = target.connect(node)?;
        let mut found = 0;
        for label in &labels {
            let sql = format!("SELECT count(*) FROM {table} WHERE k = '{label}'");
            let count: i64 = client.query_one(&sql, &[]).expect("a count").get(0);
            found += usize::try_from(count).expect("a number");
        }
        Ok(found)
    };
    for node in 0..target.nodes().len() {
        assert_eq!(found(node, "by_kind")?, labels.len(), "node {node}");
    }

    // The control: each file into the shard of its range.
    coordinator.execute("CREATE TABLE forced (k kind, n int)")?;
    coordinator.execute(
        "SELECT create_distributed_table('forced', 'k', shard_count := 8, colocate_with := 'none')",
    )?;
    let installation = test_cluster::Installation::current()?;
    for file in manifest(&dir)["files"].as_array().expect("files") {
        let text = |field: &str| file[field].as_str().expect("a text").to_owned();
        let sql = format!(
            "SELECT shardid FROM pg_dist_shard WHERE logicalrelid = 'forced'::regclass AND shardminvalue = '{}' AND shardmaxvalue = '{}'",
            text("min_value"),
            text("max_value")
        );
        let shard = coordinator.query(&sql)?[0][0].clone().expect("a shard");
        let placement = target
            .placements("forced")?
            .into_iter()
            .find(|one| one.shardid.to_string() == shard)
            .expect("it");
        let conninfo = target.node(placement.node).connect_params().conninfo();
        let mut psql: Command = installation.command("psql")?;
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo, "-c"]);
        psql.arg(format!("\\copy {} FROM STDIN", placement.table));
        psql.stdin(Stdio::from(std::fs::File::open(dir.join(text("path"))).expect("the file")));
        assert!(psql.status().expect("psql").success());
    }
    let all = coordinator.query("SELECT count(*) FROM forced")?[0][0].clone();
    assert_eq!(all, Some(labels.len().to_string()), "every count is right");
    let found = found(0, "forced")?;
    println!("straight to the shards, {found} of {} values are found", labels.len());
    assert!(found < labels.len(), "nothing is lost: this test shows nothing");
    Ok(())
}
