//! `pg_upgrade` of a node: what belongs to the extension comes over, and a read-only state does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use test_cluster::{Installation, Result, Server, give_tree_to_server_user, say};

const PORT: &str = "5432";

/// A server without the harness, which knows one release at a time.
struct Older<'a> {
    installation: &'a Installation,
    folder: &'a Path,
}

impl Older<'_> {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.installation.run(program, arguments.iter().copied(), self.folder)
    }

    fn sql(&self, sql: &str) -> Result<String> {
        let folder = self.folder.display().to_string();
        let to = ["-h", &folder, "-p", PORT, "-U", "postgres", "-d", "postgres"];
        self.run("psql", &[&to[..], &["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]].concat())
    }

    fn control(&self, action: &[&str]) -> Result<String> {
        let log = self.folder.join("log").display().to_string();
        self.run("pg_ctl", &[&["-D", "old", "-w", "-l", &log], action].concat())
    }
}

fn initdb(installation: &Installation, folder: &Path, name: &str) -> Result<()> {
    let terms = ["-D", name, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"];
    let more = ["--data-checksums", "--no-sync", "--no-instructions"];
    installation.run("initdb", terms.into_iter().chain(more), folder)?;
    let configuration = folder.join(name).join("postgresql.conf");
    let mut text = fs::read_to_string(&configuration).expect("a configuration");
    text.push_str(&format!(
        "shared_preload_libraries = 'citus_fence'\nlisten_addresses = ''\nport = {PORT}\n\
         unix_socket_directories = '{}'\nfsync = off\n",
        folder.display()
    ));
    fs::write(&configuration, text).expect("a configuration");
    Ok(())
}

#[test]
fn pg_upgrade_takes_the_extension_over_and_not_a_read_only_state() -> Result<()> {
    let newer = Installation::current()?;
    let Some(older) = std::env::var_os("PG_CONFIG_OLDER") else {
        say("skipped: pg_upgrade: no older server was fetched");
        return Ok(());
    };
    let older = Installation::of(Path::new(&older))?;
    if !older.has_extension_for("citus_fence", "pg_upgrade") {
        return Ok(());
    }
    let root = tempfile::tempdir().expect("a folder");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    give_tree_to_server_user(root.path())?;
    let folder = root.path();

    let old = Older { installation: &older, folder };
    initdb(&older, folder, "old")?;
    old.control(&["start"])?;
    old.sql(
        "CREATE EXTENSION citus_fence; CREATE ROLE operator; CREATE TABLE t (n int); INSERT INTO t VALUES (1);
         REVOKE EXECUTE ON FUNCTION citus_unblock_writes_for_backup() FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION citus_block_writes_for_backup(int) TO operator;
         INSERT INTO citus_fence.clone (clone_nodeid, nodename, nodeport, source_nodeid, token)
             VALUES (7, 'clone', 5432, 2, 'word');
         INSERT INTO citus_fence.clone_journal (clone_nodeid, kind, sqlstate, message)
             VALUES (7, 'notice', '00000', 'kept')",
    )?;
    let read_only = "SELECT state FROM citus_fence.stat_gate";
    let granted = "SELECT has_function_privilege('operator', 'citus_block_writes_for_backup(int)', 'EXECUTE'), \
                          has_function_privilege('operator', 'alter_system_read_only(boolean)', 'EXECUTE')";
    let journal = "SELECT clone_nodeid, message FROM citus_fence.clone_journal";
    let before = [old.sql(granted)?, old.sql(journal)?];
    assert_eq!(before[0].trim(), "t|f");
    old.sql("SELECT alter_system_read_only()")?;
    assert_eq!(old.sql(read_only)?.trim(), "read-only");
    old.control(&["-m", "fast", "stop"])?;

    initdb(newer, folder, "new")?;
    let folders = [
        "--old-bindir",
        &older.bindir().display().to_string(),
        "--new-bindir",
        &newer.bindir().display().to_string(),
        "--socketdir",
        &folder.display().to_string(),
    ]
    .map(str::to_owned);
    let terms = ["--old-datadir", "old", "--new-datadir", "new", "--username", "postgres"];
    newer.run("pg_upgrade", folders.iter().map(String::as_str).chain(terms), folder)?;

    let server =
        Server::builder("upgraded").preload("citus_fence").start_copy(&folder.join("new"))?;
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'citus_fence'";
    assert_eq!(server.query_value(version)?, env!("CARGO_PKG_VERSION"));
    let joined = |sql: &str| -> Result<String> {
        let rows = server.query(sql)?.into_iter();
        Ok(rows.map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("|")).collect())
    };
    assert_eq!([joined(granted)?, joined(journal)?], before.map(|text| text.trim().to_owned()));
    // Its state file stays in the old directory.
    assert_eq!(server.query_value(read_only)?, "read-write");
    server.execute("INSERT INTO t VALUES (2)")?;
    server.execute("SELECT alter_system_read_only()")?;
    let refused = server.execute("INSERT INTO t VALUES (3)").expect_err("it is read-only");
    assert_eq!(refused.sqlstate(), Some("25006"), "{refused}");
    assert_eq!(server.query_value("SELECT count(*) FROM t")?, "2");
    Ok(())
}
