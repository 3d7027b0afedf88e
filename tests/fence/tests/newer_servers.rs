//! What releases of PostgreSQL after 15 have brought, and could get in the way of a fence.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fence_tests::{
    BLOCK, Bank, Client, Cluster, Engine, NoTls, PATIENCE, Result, UNBLOCK, call, on_each_engine,
    prove_usable, refusal, wait_until, wait_until_free,
};
use test_cluster::{
    Audit, Installation, WalMethod, Writers, give_tree_to_server_user, say, wait_for_sql,
};

/// Whether this server has what came with that release; says so in one line where it has not.
fn has(what: &str, release: u32) -> Result<bool> {
    let here = Installation::current()?.major();
    if here < release {
        say(&format!("skipped: {what}: PostgreSQL {here} does not have it"));
    }
    Ok(here >= release)
}

/// A server-wide `transaction_timeout` ends sessions, and neither a block nor a snapshot.
#[test]
fn a_hold_outlasts_the_timeout_of_transactions() {
    on_each_engine(|engine: Engine| {
        if !has("transaction_timeout", 17)? {
            return Ok(());
        }
        let cluster =
            Cluster::builder(engine).workers(2).setting("transaction_timeout", "1s").build()?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        // The control: begun after the block, and ended before it.
        for node in cluster.nodes() {
            let mut other = node.connect()?;
            let row = other.query_one("SELECT pg_backend_pid()", &[]).expect("a process id");
            let pid: i32 = row.get(0);
            other.batch_execute("BEGIN").expect("a transaction");
            let gone =
                format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
            wait_for_sql(&mut node.connect()?, &gone, PATIENCE)?;
            assert!(other.batch_execute("SELECT 1").is_err(), "it is over");
        }
        assert!(call(&mut client, UNBLOCK), "the block has not lasted");

        let export = "SELECT max(export_id) FROM citus_export_cluster_snapshot()";
        let id: i64 = client.query_one(export, &[]).expect("a cluster snapshot").get(0);
        for node in cluster.nodes() {
            let old = "SELECT max(now() - xact_start) > '2s' FROM pg_stat_activity
                        WHERE application_name LIKE 'citus_fence%' OR backend_type LIKE 'citus_fence%'";
            wait_for_sql(&mut node.connect()?, old, PATIENCE)?;
        }
        let release = format!("SELECT citus_release_cluster_snapshot({id})");
        assert!(call(&mut client, &release), "the snapshot has not lasted");
        wait_until_free(&cluster, PATIENCE)
    });
}

/// A trigger of logins on every node that writes, or that does so where it may.
fn log_logins(cluster: &Cluster, first: &str) -> Result<()> {
    let local = match cluster.engine() {
        Engine::Citus => "SET citus.enable_ddl_propagation = off;",
        Engine::Embedded => "",
    };
    cluster.execute_everywhere(&format!(
        "{local} CREATE TABLE IF NOT EXISTS logins (at timestamptz);
         CREATE OR REPLACE FUNCTION log_login() RETURNS event_trigger LANGUAGE plpgsql
         AS $$ BEGIN {first} INSERT INTO logins VALUES (now()); END $$;
         DROP EVENT TRIGGER IF EXISTS logins;
         CREATE EVENT TRIGGER logins ON login EXECUTE FUNCTION log_login()"
    ))
}

#[test]
fn triggers_of_logins_that_write_only_where_they_may_are_in_nobodys_way() {
    on_each_engine(|engine: Engine| {
        if !has("a trigger of logins", 17)? {
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        log_logins(
            &cluster,
            "IF current_setting('citus_fence.system_is_read_only')::bool THEN RETURN; END IF;",
        )?;
        drop(cluster.connect(1)?);
        assert_ne!(cluster.worker(1).query_value("SELECT count(*) FROM logins")?, "0");
        prove_usable(&cluster)?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        assert!(call(&mut client, BLOCK));
        assert!(call(&mut client, UNBLOCK));
        let switch = |client: &mut Client, sql: &str| client.batch_execute(sql);
        switch(&mut client, "SELECT citus_set_cluster_read_only()").expect("a switch");
        drop(cluster.connect(1)?);
        switch(&mut client, "SELECT citus_set_cluster_read_write()").expect("a switch back");

        // One that does not ask keeps everybody out of a read-only node, who is told so.
        log_logins(&cluster, "")?;
        switch(&mut client, "SELECT citus_set_cluster_read_only()").expect("a switch");
        let error = refusal(&mut client, "SELECT citus_set_cluster_read_write()");
        let told = format!("{} {}", error.code().code(), error.message());
        assert!(told.starts_with("08001 ") && told.contains("system is now read only"), "{told}");
        for node in cluster.nodes() {
            let mut config = node.connect_params().config();
            config.options("-c event_triggers=off");
            let mut past = config.connect(NoTls).expect("a session without the trigger");
            for sql in ["ALTER SYSTEM SET event_triggers = off", "SELECT pg_reload_conf()"] {
                past.batch_execute(sql).expect("a setting");
            }
            wait_until("the setting", PATIENCE, || node.connect().ok())?;
        }
        switch(&mut client, "SELECT citus_set_cluster_read_write()").expect("a switch back");
        prove_usable(&cluster)
    });
}

/// Incremental backups of all nodes, on top of full ones that were each taken when it suited.
struct Incremental<'a> {
    cluster: &'a Cluster,
    bank: &'a Bank,
    writers: &'a Writers,
    full: Vec<PathBuf>,
}

impl Incremental<'_> {
    /// Takes them, with so many transfers between two of them; `done` ends what they were taken under.  What they
    /// make together with the full ones is restored and audited.
    fn take(&self, label: &str, between: u64, done: impl FnOnce()) -> Result<Audit> {
        let mut parts = Vec::new();
        for (number, node) in self.cluster.nodes().iter().enumerate() {
            if between > 0 {
                self.writers.wait_for_more(between, PATIENCE)?;
            }
            let part = self.cluster.copy_target(&format!("{label}_part"), number)?;
            let manifest = self.full[number].join("backup_manifest");
            let base = format!("--incremental={}", manifest.display());
            node.base_backup_with(&part, WalMethod::Stream, &[&base])?;
            parts.push(part);
        }
        done();
        let mut whole = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let target = self.cluster.copy_target(label, number)?;
            combine(&self.full[number], part, &target)?;
            whole.push(target);
        }
        self.bank.audit(&self.cluster.restore(&whole)?, std::iter::empty())
    }
}

fn combine(full: &Path, part: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir(target).expect("a folder");
    std::fs::set_permissions(target, PermissionsExt::from_mode(0o700)).expect("permissions");
    give_tree_to_server_user(target)?;
    let mut command = Installation::current()?.command("pg_combinebackup")?;
    let output = command.arg(full).arg(part).arg("-o").arg(target).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn incremental_backups_under_the_block_are_of_one_moment() {
    on_each_engine(|engine: Engine| {
        if !has("incremental backups", 17)? {
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).setting("summarize_wal", "on").build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 2)?;
        let mut full = Vec::new();
        for (number, node) in cluster.nodes().iter().enumerate() {
            writers.wait_for_more(30, PATIENCE)?;
            let target = cluster.copy_target("full", number)?;
            node.base_backup(&target, WalMethod::Stream)?;
            full.push(target);
        }
        let backups = Incremental { cluster: &cluster, bank: &bank, writers: &writers, full };
        let mut client = cluster.connect(0)?;
        for round in 0..3 {
            writers.wait_for_more(30, PATIENCE)?;
            assert!(call(&mut client, BLOCK));
            let audit = backups.take(&format!("blocked{round}"), 0, || {
                assert!(call(&mut client, UNBLOCK), "the block did not last");
            })?;
            assert!(audit.is_clean(), "round {round}: {audit}");
        }
        let damaged = (0..5).any(|round| {
            let audit = backups.take(&format!("control{round}"), 40, || ()).expect("the control");
            !audit.is_clean()
        });
        assert!(damaged, "incremental backups without the block show no damage");
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        Ok(())
    });
}
