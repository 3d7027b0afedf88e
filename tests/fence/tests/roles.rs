//! A backup role without superuser does the whole backup; nobody else does; the status is for all.

use fence_tests::{BLOCK, Cluster, Engine, UNBLOCK, call, on_each_engine, refusal, start, state};

/// The grants of the operations page.
const GRANTS: &str = "GRANT EXECUTE ON FUNCTION citus_backup_block_start(int, text), \
    citus_backup_block_stop(bigint), citus_backup_block_extend(bigint, int), citus_backup_block_nodes(), \
    citus_backup_block_waiters(), citus_backup_restore_point(text) TO backup";

#[test]
fn a_granted_role_does_the_whole_backup_and_others_do_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        cluster
            .coordinator()
            .execute("CREATE ROLE backup LOGIN; CREATE ROLE nobody_special LOGIN")?;
        cluster.coordinator().execute(GRANTS)?;

        let mut backup = cluster.coordinator().connect_as("backup", None)?;
        let is_superuser: bool = backup
            .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])
            .expect("a role")
            .get(0);
        assert!(!is_superuser);
        let number = start(&mut backup, "");
        let nodes =
            backup.query("SELECT * FROM citus_backup_block_nodes()", &[]).expect("a manifest");
        assert_eq!(nodes.len(), 3);
        backup.query("SELECT * FROM citus_backup_block_waiters()", &[]).expect("waiters");
        let points = backup
            .query("SELECT * FROM citus_backup_restore_point('nightly')", &[])
            .expect("points");
        assert_eq!(points.len(), 3);
        let extend = format!("SELECT citus_backup_block_extend({number}, 60000)");
        backup.query(&extend, &[]).expect("an extension");
        assert_eq!(state(&mut backup), "active");

        let mut other = cluster.coordinator().connect_as("nobody_special", None)?;
        assert_eq!(state(&mut other), "active");
        for sql in [
            BLOCK,
            UNBLOCK,
            "SELECT citus_extend_backup_block(1000)",
            "SELECT citus_backup_block_start()",
            &format!("SELECT citus_backup_block_stop({number})"),
            &format!("SELECT citus_backup_block_extend({number}, 1000)"),
            "SELECT citus_unblock_backup_block(now())",
            "SELECT * FROM citus_backup_block_nodes()",
            "SELECT * FROM citus_backup_block_waiters()",
            "SELECT * FROM citus_backup_restore_point('x')",
            "SELECT citus_fence.flush_wal()",
        ] {
            assert_eq!(refusal(&mut other, sql).code().code(), "42501", "{sql}");
        }
        assert_eq!(state(&mut backup), "active", "a refused call changed something");
        assert!(call(&mut backup, &format!("SELECT citus_backup_block_stop({number})")));
        Ok(())
    });
}

/// Who may call them is what EXECUTE says, as with pg_promote().
#[test]
fn switching_to_read_only_can_be_granted() {
    const SWITCHES: [&str; 4] = [
        "SELECT alter_system_read_only()",
        "SELECT alter_system_read_write()",
        "SELECT citus_set_cluster_read_only()",
        "SELECT citus_set_cluster_read_write()",
    ];
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE ROLE operator LOGIN; CREATE TABLE kept (n int)")?;
        let mut operator = coordinator.connect_as("operator", None)?;
        for sql in SWITCHES {
            assert_eq!(refusal(&mut operator, sql).code().code(), "42501", "{sql}");
        }
        coordinator.execute(
            "GRANT EXECUTE ON FUNCTION alter_system_read_only(boolean), alter_system_read_write(), \
             citus_set_cluster_read_only(), citus_set_cluster_read_write() TO operator",
        )?;
        let state = "SELECT state FROM citus_fence.stat_gate";
        for (sql, then) in SWITCHES.into_iter().zip(["read-only", "read-write"].into_iter().cycle())
        {
            // Whoever has it may end a superuser's session too.
            let mut writer = cluster.connect(0)?;
            if then == "read-only" && sql.contains("alter_system") {
                writer.batch_execute("BEGIN; INSERT INTO kept VALUES (1)").expect("a writer");
            }
            operator
                .batch_execute(sql)
                .unwrap_or_else(|error| panic!("{sql}: {}", fence_tests::words(&error)));
            for node in cluster.nodes().iter().take(if sql.contains("cluster") { 2 } else { 1 }) {
                assert_eq!(node.query_value(state)?, then, "{sql} on {}", node.name());
            }
        }
        Ok(())
    });
}

#[test]
fn restore_points_are_written_on_every_node() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let rows = client
            .query(
                "SELECT nodeport, restore_lsn::text FROM citus_backup_restore_point('it''s \\ here')",
                &[],
            )
            .expect("restore points");
        for node in cluster.nodes() {
            let lsn: String = rows
                .iter()
                .find(|row| row.get::<_, i32>(0) == i32::from(node.port()))
                .map(|row| row.get(1))
                .expect("a row per node");
            assert!(
                node.log().contains("restore point \"it's \\ here\" created at"),
                "{}",
                node.name()
            );
            assert!(node.log().contains(&lsn), "{lsn} is not what {} wrote", node.name());
        }
        assert_eq!(state(&mut client), "active");
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}
