//! Who may dump and restore, and into what: what is lacking is said before anything is written.

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use common::restored::restore_command;
use common::{command, dump_command, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};

fn create(cluster: &Cluster) -> Result<()> {
    cluster.create_distributed("CREATE TABLE t (id bigint PRIMARY KEY)", "t", "id", 4)?;
    for id in 0..20 {
        let sql = cluster.shard_sql("t", id, &format!("INSERT INTO %s VALUES ({id})"));
        cluster.coordinator().execute(&sql)?;
    }
    cluster.coordinator().execute("CREATE TABLE l (id int); INSERT INTO l VALUES (1)")
}

/// Roles and what they may: Citus carries them, the embedded catalog does not.
fn everywhere(cluster: &Cluster, sql: &str) -> Result<()> {
    match cluster.engine() {
        Engine::Citus => cluster.coordinator().execute(sql),
        Engine::Embedded => cluster.execute_everywhere(sql),
    }
}

fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let left = "SELECT nspname FROM pg_namespace WHERE nspname = 'citus_fence_restore'
                     UNION SELECT relname FROM pg_class WHERE relname ~ '^(t|l)(_[0-9]+)?$'";
        assert!(node.query(left)?.is_empty());
    }
    Ok(())
}

/// The same words for another user.
fn as_user(user: &str, of: &Command) -> Command {
    let mut words: Vec<_> = of.get_args().map(|word| word.to_owned()).collect();
    let place = words.iter().position(|word| word == "-U").expect("a user");
    words[place + 1] = user.into();
    let mut other = command(&[]);
    other.args(words);
    other
}

#[test]
fn a_node_that_takes_no_writes_is_named_before_any_is_written_to() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        for (node, close, open) in [
            (2, "SELECT alter_system_read_only()", "SELECT alter_system_read_write()"),
            (0, "SELECT alter_system_read_only()", "SELECT alter_system_read_write()"),
            (0, "SELECT citus_set_cluster_read_only()", "SELECT citus_set_cluster_read_write()"),
        ] {
            target.node(node).execute(close)?;
            let ended = run(&mut restore_command(port, &dir, &[])).expect(1);
            let ended =
                ended.complains_of(&["nothing can be written to ", "read only", "read_write"]);
            assert!(!ended.err.contains("--resume"), "{ended:?}");
            nothing_is_left(&target)?;
            target.node(node).execute(open)?;
        }
        if engine == Engine::Citus {
            // Its own sessions are what a role's default ends.
            let set = "SET citus.enable_ddl_propagation = off; SET default_transaction_read_only = off; \
                       ALTER ROLE postgres";
            target.worker(2).execute(&format!("{set} SET default_transaction_read_only = on"))?;
            let ended = run(&mut restore_command(port, &dir, &[])).expect(1);
            let place = target.worker(2).port().to_string();
            let words =
                [&*place, "are read-only from the beginning", "RESET", "Nothing was written"];
            ended.complains_of(&words);
            nothing_is_left(&target)?;
            target.worker(2).execute(&format!(
                "SET transaction_read_only = off; {set} RESET default_transaction_read_only"
            ))?;
        }
        // A session of this program has its own word.
        if engine == Engine::Embedded {
            target
                .worker(1)
                .execute("ALTER ROLE postgres SET default_transaction_read_only = on")?;
        }
        run(&mut restore_command(port, &dir, &[])).expect(0);
        Ok(())
    });
}

#[test]
fn nodes_that_take_no_shards_are_not_counted() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: who takes shards, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    let coordinator = source.coordinator();
    coordinator.execute("CREATE TABLE r (id int PRIMARY KEY)")?;
    coordinator.execute("SELECT create_reference_table('r')")?;
    coordinator.execute("INSERT INTO r VALUES (1)")?;
    let folder = tempfile::tempdir().expect("a folder");
    let (reference, spread) = (folder.path().join("reference"), folder.path().join("spread"));
    let single = folder.path().join("single");
    run(&mut dump_command(coordinator.port(), &reference, &[])).expect(0);
    coordinator.execute("CREATE TABLE s (id int)")?;
    coordinator.execute("SELECT create_distributed_table('s', NULL, colocate_with := 'none')")?;
    run(&mut dump_command(coordinator.port(), &single, &[])).expect(0);
    create(&source)?;
    run(&mut dump_command(coordinator.port(), &spread, &[])).expect(0);
    drop(source);

    // A coordinator alone, which takes none; then one that does.
    let target = Cluster::builder(Engine::Citus).workers(0).fsync(false).build()?;
    let port = target.coordinator().port();
    for dir in [&spread, &single] {
        let ended = run(&mut restore_command(port, dir, &[])).expect(1);
        ended.complains_of(&[
            "knows 0 nodes for shards",
            "needs 1",
            "citus_add_node",
            "shouldhaveshards",
        ]);
    }
    nothing_is_left(&target)?;
    target.coordinator().execute(
        "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true) FROM pg_dist_node",
    )?;
    run(&mut restore_command(port, &spread, &[])).expect(0);
    drop(target);

    // A node that is being emptied; all of them.
    let target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let port = target.coordinator().port();
    let off = "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false) FROM pg_dist_node WHERE groupid";
    target.coordinator().execute(&format!("{off} > 0"))?;
    let ended = run(&mut restore_command(port, &spread, &[])).expect(1);
    ended.complains_of(&["knows 0 nodes for shards"]);
    // Those tables are on every node all the same.
    run(&mut restore_command(port, &reference, &[])).expect(0);
    for node in target.nodes() {
        assert_eq!(node.query_value("SELECT count(*) FROM r")?, "1");
    }
    drop(target);
    let target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    target.coordinator().execute(&format!("{off} = 1"))?;
    run(&mut restore_command(target.coordinator().port(), &spread, &[])).expect(0);
    let groups = "SELECT string_agg(DISTINCT groupid::text, ' ') FROM pg_dist_placement JOIN pg_dist_shard USING (shardid)
                   WHERE logicalrelid IN ('t'::regclass, 's'::regclass)";
    assert_eq!(target.coordinator().query_value(groups)?, "2");
    Ok(())
}

#[test]
fn who_is_no_superuser_is_told_what_is_lacking() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        everywhere(&source, "CREATE ROLE saver LOGIN")?;
        let folder = tempfile::tempdir().expect("a folder");
        let port = source.coordinator().port();
        let dump = |name: &str, more: &[&str]| {
            let dir = folder.path().join(name);
            (run(&mut as_user("saver", &dump_command(port, &dir, more))), dir)
        };
        let denied = |name: &str, word: &str| {
            let (ended, dir) = dump(name, &[]);
            let words = [word, "pg_read_all_data", "citus_export_cluster_snapshot", "BYPASSRLS"];
            ended.expect(1).complains_of(&words);
            assert!(!dir.exists());
        };
        denied("tables", "permission denied for table t");
        everywhere(&source, "GRANT pg_read_all_data TO saver")?;
        denied("function", "permission denied for function citus_export_cluster_snapshot");
        everywhere(
            &source,
            "GRANT EXECUTE ON FUNCTION citus_export_cluster_snapshot, citus_release_cluster_snapshot TO saver",
        )?;
        source.coordinator().execute("ALTER TABLE l ENABLE ROW LEVEL SECURITY")?;
        denied("filtered", "row-level security policy for table \"l\"");
        everywhere(&source, "ALTER ROLE saver BYPASSRLS")?;
        let (ended, dir) = dump("whole", &[]);
        ended.expect(0);
        let (ended, data) = dump("data", &["-a"]);
        ended.expect(0);
        let schema = folder.path().join("schema");
        run(&mut dump_command(port, &schema, &["-s"])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&target, "CREATE ROLE loader LOGIN BYPASSRLS; CREATE ROLE saver").or_else(
            |_| {
                ["CREATE ROLE loader LOGIN BYPASSRLS", "CREATE ROLE saver"]
                    .iter()
                    .try_for_each(|sql| everywhere(&target, sql))
            },
        )?;
        let port = target.coordinator().port();
        let restore = |dir: &Path| run(&mut as_user("loader", &restore_command(port, dir, &[])));
        restore(&dir).expect(1).complains_of(&["role \"loader\" is no superuser", "-U"]);
        run(&mut restore_command(port, &schema, &["--into-non-empty"])).expect(0);
        restore(&data).expect(1).complains_of(&["permission denied for table"]);
        everywhere(&target, "GRANT pg_read_all_data, pg_write_all_data TO loader")?;
        let ended = restore(&data).expect(1);
        ended.complains_of(&["nothing can be written to", "permission denied for database"]);
        target.execute_everywhere(
            "SET citus.enable_ddl_propagation = off; GRANT CREATE ON DATABASE postgres TO loader",
        )?;
        restore(&data).expect(0);
        assert_eq!(target.coordinator().query_value("SELECT count(*) FROM l")?, "1");
        Ok(())
    });
}

/// What is done on the other nodes is done by Citus' own sessions, which begin as a role's do.
#[test]
fn time_outs_of_roles_end_nothing_on_any_node() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let slow = "CREATE FUNCTION slow(a bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS \
                    'BEGIN PERFORM pg_sleep(0.02); RETURN a; END'";
        everywhere(&source, slow)?;
        let table = "CREATE TABLE s (id bigint CHECK (slow(id) > 0), k text)";
        source.create_distributed(table, "s", "id", 2)?;
        everywhere(&source, "CREATE INDEX s_slow ON s (slow(id))")?;
        for id in 1..=120 {
            let sql = source.shard_sql("s", id, &format!("INSERT INTO %s VALUES ({id}, 'k')"));
            source.coordinator().execute(&sql)?;
        }
        if engine == Engine::Citus {
            // Its rows go through the coordinator.
            for sql in [
                "CREATE TYPE kind AS ENUM ('a', 'b', 'c', 'd')",
                "CREATE TABLE e (k kind CHECK (slow(1) = 1), n int)",
                "SELECT create_distributed_table('e', 'k', shard_count := 2)",
                "INSERT INTO e SELECT k, n FROM unnest(enum_range(NULL::kind)) k, generate_series(1, 30) n",
                "CREATE MATERIALIZED VIEW m AS SELECT max(slow(n)) AS most FROM e",
            ] {
                source.coordinator().execute(sql)?;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for node in target.nodes() {
            let settings = "SET citus.enable_ddl_propagation = off; \
                            ALTER ROLE postgres SET idle_in_transaction_session_timeout = '300ms'; \
                            ALTER ROLE postgres SET lock_timeout = '300ms'; ALTER ROLE postgres SET statement_timeout = '600ms'";
            node.execute(settings)?;
        }
        let port = target.coordinator().port();
        run(&mut restore_command(port, &dir, &[])).expect(0);
        // The control: what a session of that role cannot do.
        let late = target.worker(1).execute("SELECT slow(n) FROM generate_series(1, 60) n");
        assert!(late.is_err_and(|error| error.to_string().contains("statement timeout")));
        Ok(())
    });
}

/// `pg_sequences` shows who may not read a sequence one that was never used, and so it does one that is set and waits to
/// be used.
#[test]
fn no_sequence_is_taken_for_one_that_was_never_used() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&source, "CREATE ROLE dumper LOGIN")?;
        let coordinator = source.coordinator();
        for statement in [
            "CREATE TABLE l (id int)",
            "CREATE SEQUENCE used; SELECT setval('used', 41)",
            "CREATE SEQUENCE set; ALTER SEQUENCE set RESTART WITH 5000",
            "CREATE SEQUENCE fresh START 7",
            "GRANT SELECT ON l, set, fresh TO dumper",
            "GRANT EXECUTE ON FUNCTION citus_export_cluster_snapshot, citus_release_cluster_snapshot TO dumper",
        ] {
            coordinator.execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (shy, dir) = (folder.path().join("shy"), folder.path().join("dump"));
        let dump = |more: &[&str]| as_user("dumper", &dump_command(coordinator.port(), &shy, more));
        run(&mut dump(&[]))
            .expect(1)
            .complains_of(&["permission denied for sequence used", "GRANT"]);
        assert!(!shy.exists());
        // Who does not ask for it need not be able to read it.
        run(&mut dump(&["-t", "l", "-t", "set"])).expect(0);
        let sequences = &common::manifest(&shy)["sequences"];
        assert_eq!(sequences[0]["name"], "set", "{sequences}");
        run(&mut dump_command(coordinator.port(), &dir, &["--roles"])).expect(0);
        let manifest = common::manifest(&dir);
        let all = manifest["sequences"].as_array().expect("a list");
        assert!(all.iter().all(|sequence| sequence["schema"] != "citus_fence"), "{all:?}");
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        run(&mut restore_command(target.coordinator().port(), &dir, &["--roles"])).expect(0);
        for (name, next) in [("used", "42"), ("set", "5000"), ("fresh", "7")] {
            let sql = format!("SELECT nextval('{name}')");
            assert_eq!(target.coordinator().query_value(&sql)?, next, "{name}");
        }
        Ok(())
    });
}
