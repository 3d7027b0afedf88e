//! Maintenance: VACUUM and its relatives, checkpoints, backups, files.

use super::{Expected, Way, allowed, honest, refused};

pub(super) fn ways() -> Vec<Way> {
    vec![
        refused("VACUUM", &["VACUUM t"]),
        refused("VACUUM of everything", &["VACUUM"]),
        refused("VACUUM FREEZE", &["VACUUM (FREEZE) t"]),
        refused("VACUUM FULL", &["VACUUM FULL t"]),
        refused("ANALYZE", &["ANALYZE t"]),
        refused("ANALYZE of everything", &["ANALYZE"]),
        refused("VACUUM ANALYZE", &["VACUUM (ANALYZE) t"]),
        refused("REINDEX INDEX", &["REINDEX INDEX t_pkey"]),
        refused("REINDEX TABLE", &["REINDEX TABLE t"]),
        refused("REINDEX CONCURRENTLY", &["REINDEX TABLE CONCURRENTLY t"]),
        refused("REINDEX SCHEMA", &["REINDEX SCHEMA public"]),
        refused("REINDEX SYSTEM", &["REINDEX SYSTEM postgres"]),
        refused("CLUSTER", &["CLUSTER t USING t_pkey"])
            .undo(&["ALTER TABLE t SET WITHOUT CLUSTER"]),
        refused("CLUSTER of everything", &["CLUSTER"])
            .setup(&["ALTER TABLE t CLUSTER ON t_pkey"])
            .undo(&["ALTER TABLE t SET WITHOUT CLUSTER"]),
        refused("gin_clean_pending_list", &["SELECT gin_clean_pending_list('listed_i')"])
            .setup(&[
                "CREATE TABLE listed (a int[]) WITH (autovacuum_enabled = off)",
                "CREATE INDEX listed_i ON listed USING gin (a)",
                "INSERT INTO listed SELECT ARRAY[i] FROM generate_series(1, 50) i",
            ])
            .undo(&["DROP TABLE listed"]),
        refused("brin_summarize_new_values", &["SELECT brin_summarize_new_values('ranged_i')"])
            .setup(&[
                "CREATE TABLE ranged (n int) WITH (autovacuum_enabled = off)",
                "CREATE INDEX ranged_i ON ranged USING brin (n) WITH (pages_per_range = 1)",
                "INSERT INTO ranged SELECT generate_series(1, 5000)",
            ])
            .undo(&["DROP TABLE ranged"]),
        refused("brin_desummarize_range", &["SELECT brin_desummarize_range('ranged_i', 0)"])
            .setup(&[
                "CREATE TABLE ranged (n int) WITH (autovacuum_enabled = off)",
                "INSERT INTO ranged SELECT generate_series(1, 5000)",
                "CREATE INDEX ranged_i ON ranged USING brin (n) WITH (pages_per_range = 1)",
            ])
            .undo(&["DROP TABLE ranged"]),
        honest("CHECKPOINT", &["CHECKPOINT"]),
        honest("pg_switch_wal", &["SELECT pg_switch_wal()"]),
        honest("pg_create_restore_point", &["SELECT pg_create_restore_point('here')"]),
        honest(
            "low-level backup",
            &["SELECT pg_backup_start('b', true)", "SELECT pg_backup_stop(false)"],
        ),
        honest("ALTER SYSTEM", &["ALTER SYSTEM SET log_duration = off", "SELECT pg_reload_conf()"])
            .undo(&["ALTER SYSTEM RESET log_duration"]),
        honest("pg_stat_reset", &["SELECT pg_stat_reset()"]),
        honest("file of COPY TO", &["COPY t TO '{folder}/rows'"]),
        honest("COPY TO PROGRAM", &["COPY t TO PROGRAM 'cat >/dev/null'"]),
        honest(
            "pg_log_backend_memory_contexts",
            &["SELECT pg_log_backend_memory_contexts(pg_backend_pid())"],
        ),
        honest(
            "pruning by a reader",
            &[
                "SET enable_indexscan = off; SET enable_bitmapscan = off",
                "SELECT count(*) FROM bloated",
            ],
        )
        .setup(&[
            "CREATE TABLE bloated (n int, pad text) WITH (autovacuum_enabled = off)",
            "INSERT INTO bloated SELECT 1, repeat('x', 500) FROM generate_series(1, 100)",
            "UPDATE bloated SET n = 2",
            "UPDATE bloated SET n = 3",
        ])
        .undo(&["DROP TABLE bloated"]),
        allowed(
            "pg_prewarm, amcheck, pgstattuple",
            &[
                "SELECT pg_prewarm('t')",
                "SELECT bt_index_check('t_pkey', true)",
                "SELECT * FROM pgstattuple('t')",
            ],
        )
        .needs(&["pg_prewarm", "amcheck", "pgstattuple"])
        .setup(&[
            "CREATE EXTENSION pg_prewarm; CREATE EXTENSION amcheck; CREATE EXTENSION pgstattuple",
        ])
        .undo(&["DROP EXTENSION pg_prewarm, amcheck, pgstattuple"]),
        refused("pg_truncate_visibility_map", &["SELECT pg_truncate_visibility_map('t')"])
            .expected(Expected::Late(&["Storage TRUNCATE"]))
            .needs(&["pg_visibility"])
            .setup(&["CREATE EXTENSION pg_visibility", "VACUUM t"])
            .undo(&["DROP EXTENSION pg_visibility"]),
        honest("heap_force_freeze", &["SELECT heap_force_freeze('t', ARRAY['(0,1)']::tid[])"])
            .expected(Expected::Honest(&["XLOG FPI"]))
            .needs(&["pg_surgery"])
            .setup(&["CREATE EXTENSION pg_surgery"])
            .undo(&["DROP EXTENSION pg_surgery"]),
        refused("pg_import_system_collations", &["SELECT pg_import_system_collations('visited')"])
            .setup(&["CREATE SCHEMA visited"])
            .undo(&["DROP SCHEMA visited CASCADE"]),
    ]
}
