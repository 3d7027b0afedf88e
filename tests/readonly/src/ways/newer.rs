//! What releases of PostgreSQL after 15 have brought.

use test_cluster::Engine;

use super::{Way, allowed, honest, refused};

pub(super) fn ways(engine: Engine) -> Vec<Way> {
    let mut ways = of_all_engines();
    // Citus, which looks itself at who may lock a table, does not know the privilege (14.0.1).
    if engine == Engine::Embedded {
        ways.push(maintained(
            "LOCK TABLE with MAINTAIN",
            &["SET ROLE keeper", "BEGIN", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE", "COMMIT"],
        ));
    }
    ways
}

fn of_all_engines() -> Vec<Way> {
    vec![
        honest("pg_log_standby_snapshot", &["SELECT pg_log_standby_snapshot()"]).from(16),
        refused("MERGE RETURNING in a CTE", &[
            "WITH m AS (
                 MERGE INTO t USING (VALUES (1)) w (id) ON t.id = w.id
                 WHEN MATCHED THEN UPDATE SET n = 1 RETURNING t.n)
             SELECT * FROM m",
        ])
        .from(17),
        refused("COPY of MERGE RETURNING", &[
            "COPY (MERGE INTO t USING (VALUES (1)) w (id) ON t.id = w.id
                   WHEN MATCHED THEN UPDATE SET n = 1 RETURNING t.n) TO '/dev/null'",
        ])
        .from(17),
        maintained("VACUUM with MAINTAIN", &["SET ROLE keeper", "VACUUM t"]),
        maintained("REINDEX with MAINTAIN", &["SET ROLE keeper", "REINDEX TABLE t"]),
        refused("logical message that is flushed", &[
            "SELECT pg_logical_emit_message(false, 'p', 'x', true)",
        ])
        .from(17),
        allowed("EXPLAIN with SERIALIZE", &["EXPLAIN (ANALYZE, SERIALIZE) SELECT * FROM t"]).from(17),
        refused("UPDATE RETURNING old and new", &[
            "UPDATE t SET n = 1 WHERE id = 1 RETURNING old.n, new.n",
        ])
        .from(18),
        refused("pg_restore_relation_stats", &[
            "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', 't',
                 'relpages', 7::integer)",
        ])
        .from(18),
        refused("pg_restore_attribute_stats", &[
            "SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', 't', 'attname', 'n',
                 'inherited', false, 'null_frac', 0.5::real)",
        ])
        .from(18),
        refused("pg_clear_relation_stats", &["SELECT pg_clear_relation_stats('public', 't')"])
            .undo(&["ANALYZE t"])
            .from(18),
        refused("pg_clear_attribute_stats", &[
            "SELECT pg_clear_attribute_stats('public', 't', 'n', false)",
        ])
        .undo(&["ANALYZE t"])
        .from(18),
        honest("pg_stat_reset_backend_stats", &[
            "SELECT pg_stat_reset_backend_stats(pg_backend_pid())",
        ])
        .from(18),
    ]
}

/// What a role does with a table that it may maintain, and nothing else.
fn maintained(name: &'static str, run: &'static [&'static str]) -> Way {
    refused(name, run)
        .setup(&["CREATE ROLE keeper", "GRANT MAINTAIN ON t TO keeper"])
        .undo(&["DROP OWNED BY keeper", "DROP ROLE keeper"])
        .from(17)
}
