//! A backup role without superuser does the whole backup; nobody else does; the status is for all.

use fence_tests::{BLOCK, Cluster, Engine, UNBLOCK, call, on_each_engine, refusal, state};

/// The grants of the operations page.
const GRANTS: &str = "GRANT EXECUTE ON FUNCTION citus_block_writes_for_backup(int), \
    citus_unblock_writes_for_backup(), citus_extend_backup_block(int), citus_backup_block_nodes(), \
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
        assert!(call(&mut backup, BLOCK));
        let nodes =
            backup.query("SELECT * FROM citus_backup_block_nodes()", &[]).expect("a manifest");
        assert_eq!(nodes.len(), 3);
        backup.query("SELECT * FROM citus_backup_block_waiters()", &[]).expect("waiters");
        let points = backup
            .query("SELECT * FROM citus_backup_restore_point('nightly')", &[])
            .expect("points");
        assert_eq!(points.len(), 3);
        backup.query("SELECT citus_extend_backup_block(60000)", &[]).expect("an extension");
        assert_eq!(state(&mut backup), "active");

        let mut other = cluster.coordinator().connect_as("nobody_special", None)?;
        assert_eq!(state(&mut other), "active");
        for sql in [
            BLOCK,
            UNBLOCK,
            "SELECT citus_extend_backup_block(1000)",
            "SELECT * FROM citus_backup_block_nodes()",
            "SELECT * FROM citus_backup_block_waiters()",
            "SELECT * FROM citus_backup_restore_point('x')",
            "SELECT citus_fence.flush_wal()",
        ] {
            assert_eq!(refusal(&mut other, sql).code().code(), "42501", "{sql}");
        }
        assert_eq!(state(&mut backup), "active", "a refused call changed something");
        assert!(call(&mut backup, UNBLOCK));
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
