//! What is legal in a cluster and stood in a restore's way, or was lost without a word: long names, a table that was
//! clustered, delegated functions, triggers on rows that are loaded.

mod common;

use std::io::Write as _;

use common::restored::restore_command;
use common::{dump_command, run};
use fence_tests::{Cluster, Engine, Result};

/// Of 63 bytes.
const LONG: &str = "a_very_long_table_name_that_is_close_to_the_sixty_three_limit_x";

#[test]
fn odd_tables_come_back_and_what_does_not_is_said() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: what only Citus' tables have, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = source.coordinator();
    for statement in [
        &format!("CREATE TABLE {LONG} (id int PRIMARY KEY, v text)"),
        &format!("SELECT create_distributed_table('{LONG}', 'id', shard_count => 8)"),
        &format!("INSERT INTO {LONG} SELECT n, 'v' FROM generate_series(1, 50) n"),
        "CREATE TABLE k (id int PRIMARY KEY, v int); CREATE INDEX k_v ON k (v); CLUSTER k USING k_v",
        "SELECT create_distributed_table('k', 'id', shard_count => 4)",
        "INSERT INTO k SELECT n, n FROM generate_series(1, 50) n",
        "CREATE FUNCTION f(k int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN 1; END$$",
        "SELECT create_distributed_function('f(int)', 'k', colocate_with => 'k', force_delegation => true)",
        "SET citus.enable_schema_based_sharding = on; CREATE SCHEMA tenant; CREATE TABLE tenant.t (id int)",
        "INSERT INTO tenant.t VALUES (1)",
    ] {
        coordinator.execute(statement)?;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(coordinator.port(), &dir, &[])).expect(0);
    let of = |cluster: &Cluster, sql: &str| cluster.coordinator().query_value(sql);
    let questions = [
        format!("SELECT md5(string_agg(x::text, ' ' ORDER BY id)) FROM {LONG} x"),
        "SELECT md5(string_agg(x::text, ' ' ORDER BY id)) FROM k x".to_owned(),
        "SELECT count(*) FROM tenant.t".to_owned(),
        "SELECT force_delegation FROM pg_dist_object WHERE objid = 'f(int)'::regprocedure"
            .to_owned(),
    ];
    let was: Vec<String> = questions.iter().map(|sql| of(&source, sql)).collect::<Result<_>>()?;
    assert_eq!(was[3], "t", "it is not delegated, so this shows nothing");
    drop(source);

    let target = Cluster::builder(Engine::Citus).workers(3).fsync(false).build()?;
    // With it Citus makes no tenant's schema.
    target
        .coordinator()
        .execute("ALTER DATABASE postgres SET citus.shard_replication_factor = 2")?;
    let ended = run(&mut restore_command(target.coordinator().port(), &dir, &[])).expect(3);
    assert!(ended.out.contains("CLUSTER ON k_v"), "{ended:?}");
    let is: Vec<String> = questions.iter().map(|sql| of(&target, sql)).collect::<Result<_>>()?;
    assert_eq!(is, was);
    Ok(())
}

#[test]
fn triggers_that_fire_on_what_is_loaded_are_named() -> Result<()> {
    fence_tests::on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "CREATE TABLE tg (id int, v text)",
            "CREATE FUNCTION bang() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN new.v := new.v || '!'; RETURN new; END$$",
            "CREATE TRIGGER bang BEFORE INSERT ON tg FOR EACH ROW EXECUTE FUNCTION bang()",
            "INSERT INTO tg VALUES (1, 'a')",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (schema, data) = (folder.path().join("s"), folder.path().join("a"));
        let port = source.coordinator().port();
        run(&mut dump_command(port, &schema, &["-s"])).expect(0);
        run(&mut dump_command(port, &data, &["-a", "-t", "tg"])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        run(&mut restore_command(port, &schema, &[])).expect(0);
        let ended = run(&mut restore_command(port, &data, &[])).expect(3);
        assert!(ended.out.contains("public.tg: its triggers have fired"), "{ended:?}");
        // That they do is why they are named.
        assert_eq!(target.coordinator().query_value("SELECT v FROM tg")?, "a!!");
        Ok(())
    });
    Ok(())
}

/// A constraint that was never validated, of a table that was there before, is nobody's fault.
#[test]
fn what_was_not_valid_before_is_no_difference() {
    fence_tests::on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = source.coordinator();
        for statement in [
            "CREATE TABLE later (id int)",
            "ALTER TABLE later ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
            "INSERT INTO later VALUES (1)",
        ] {
            coordinator.execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (schema, data) = (folder.path().join("s"), folder.path().join("a"));
        let whole = folder.path().join("whole");
        run(&mut dump_command(coordinator.port(), &schema, &["-s"])).expect(0);
        run(&mut dump_command(coordinator.port(), &data, &["-a"])).expect(0);
        run(&mut dump_command(coordinator.port(), &whole, &["-t", "later"])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        run(&mut restore_command(port, &schema, &[])).expect(0);
        run(&mut restore_command(port, &data, &[])).expect(0);
        assert_eq!(target.coordinator().query_value("SELECT count(*) FROM later")?, "1");
        // Nor one of a table that is none of the dump's.
        for node in target.nodes() {
            node.execute("ALTER TABLE IF EXISTS later RENAME TO earlier")?;
        }
        run(&mut restore_command(port, &whole, &["--into-non-empty"])).expect(0);
        Ok(())
    });
}
