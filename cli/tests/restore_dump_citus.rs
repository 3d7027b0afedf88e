//! What only Citus has: numbers that each node draws by itself, shards of other ranges, several copies of a shard.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;

use common::restored::restore_command;
use common::{dump_command, manifest, run};
use fence_tests::{Cluster, Engine, Result};

#[test]
fn numbers_are_fresh_on_every_node_and_shards_of_any_kind_have_their_rows() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: what only Citus' tables have, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(3).fsync(false).build()?;
    let coordinator = source.coordinator();
    let statements = "CREATE TABLE numbered (id bigserial PRIMARY KEY, v text);
        SELECT create_distributed_table('numbered', 'id', shard_count := 4);
        CREATE TABLE halved (id int, v text);
        SELECT create_distributed_table('halved', 'id', shard_count := 4, colocate_with := 'none');
        INSERT INTO halved SELECT n, 'v' || n FROM generate_series(1, 200) n;
        SELECT citus_split_shard_by_split_points((SELECT min(shardid) FROM pg_dist_shard WHERE logicalrelid = 'halved'::regclass),
          ARRAY['-1600000000'], (SELECT array_agg(nodeid) FROM (SELECT nodeid FROM pg_dist_node WHERE groupid IN (1, 2)) x), 'block_writes');
        CREATE TABLE twice (id int, v text);
        SET citus.shard_replication_factor = 2; SELECT create_distributed_table('twice', 'id', shard_count := 4, colocate_with := 'none');
        INSERT INTO twice SELECT n, 'v' || n FROM generate_series(1, 100) n";
    statements.split(";\n").try_for_each(|statement| coordinator.execute(statement))?;
    for node in 0..4 {
        for _ in 0..5 {
            source.node(node).execute("INSERT INTO numbered (v) VALUES ('x')")?;
        }
    }
    let halves = coordinator
        .query("SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = 'halved'::regclass")?;
    assert_eq!(halves[0][0].as_deref(), Some("5"), "nothing was split, so this shows nothing");
    let hash = "SELECT md5(string_agg(x::text, ' ' ORDER BY x::text)) FROM halved x";
    let was = coordinator.query(hash)?;
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(coordinator.port(), &dir, &["--format", "binary"])).expect(0);
    drop(source);

    let mut target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let ended = run(&mut restore_command(target.coordinator().port(), &dir, &["--json"])).expect(0);
    // Each of the other two has four shards.
    assert!(ended.out.contains("\"direct\":8"), "{ended:?}");
    assert_eq!(target.coordinator().query(hash)?, was);
    let copies = target.read_all_shards("twice", "SELECT id FROM %s")?;
    assert_eq!(copies.len(), 200, "two copies of a hundred rows");
    let numbers: BTreeSet<_> = copies.iter().map(|row| row.values[0].clone()).collect();
    assert_eq!(numbers.len(), 100);

    for node in 0..3 {
        for _ in 0..3 {
            target.node(node).execute("INSERT INTO numbered (v) VALUES ('fresh')")?;
        }
    }
    // The third worker of the source had group 3, whose numbers are in use.
    let added = target.add_worker()?;
    let group = target.node(added).query("SELECT groupid FROM pg_dist_local_group")?;
    assert_eq!(group[0][0].as_deref(), Some("4"));
    target.node(added).execute("INSERT INTO numbered (v) VALUES ('fresh')")?;
    let all = target.coordinator().query("SELECT count(*), count(DISTINCT id) FROM numbered")?;
    assert_eq!((all[0][0].as_deref(), all[0][1].as_deref()), (Some("30"), Some("30")));

    // The control: numbers from the beginning of a node's range are in use.
    target.worker(1).execute("SELECT setval('numbered_id_seq', (1::bigint << 48) + 1, false)")?;
    let again = target.worker(1).execute("INSERT INTO numbered (v) VALUES ('again')");
    assert!(again.is_err_and(|error| error.to_string().contains("duplicate key")));
    Ok(())
}

#[test]
fn after_a_shard_was_moved_nothing_is_loaded_again() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: who moves shards, without Citus");
        return Ok(());
    }
    let source = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    source.create_distributed("CREATE TABLE t (id int)", "t", "id", 4)?;
    source.coordinator().execute("INSERT INTO t SELECT generate_series(1, 1000)")?;
    source.coordinator().execute("CREATE TABLE small (id int); INSERT INTO small VALUES (1)")?;
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
    drop(source);
    // The last file has too few rows for what is said of it, so that the restore stops there.
    let mut changed = manifest(&dir);
    let files = changed["files"].as_array_mut().expect("files");
    let small = files.iter_mut().find(|file| file["table"] == "small").expect("it");
    small["rows"] = 2.into();
    std::fs::write(dir.join("manifest.json"), changed.to_string()).expect("a manifest");

    let target = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = target.coordinator();
    let restore =
        |more: &[&str]| run(&mut restore_command(coordinator.port(), &dir, more)).expect(1);
    restore(&["--jobs", "1"]).complains_of(&["table public.small", "--resume"]);
    // The control: with the shards where they were it goes on, and comes to the same place.
    restore(&["--resume"]).complains_of(&["table public.small", "--resume"]);
    let rows = coordinator.query("SELECT count(*), count(DISTINCT id) FROM t")?;
    assert_eq!(rows[0], [Some("1000".to_owned()), Some("1000".to_owned())]);
    coordinator.execute(
        "SELECT citus_move_shard_placement(s.shardid, a.nodename, a.nodeport, b.nodename, b.nodeport, 'block_writes')
           FROM (SELECT min(shardid) AS shardid FROM pg_dist_shard WHERE logicalrelid = 't'::regclass) s
           JOIN pg_dist_placement p ON p.shardid = s.shardid JOIN pg_dist_node a ON a.groupid = p.groupid
           JOIN pg_dist_node b ON b.groupid IN (1, 2) AND b.groupid <> a.groupid",
    )?;
    restore(&["--resume"])
        .complains_of(&["have changed since this restore was begun", "begin anew"]);
    let rows = coordinator.query("SELECT count(*), count(DISTINCT id) FROM t")?;
    assert_eq!(rows[0], [Some("1000".to_owned()), Some("1000".to_owned())]);
    Ok(())
}
