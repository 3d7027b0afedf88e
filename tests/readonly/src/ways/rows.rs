//! Rows: DML in all its clothes, COPY, row locks, materialised views, and reads beside them.

use super::{Way, allowed, refused};

pub(super) fn ways() -> Vec<Way> {
    let mut ways = writes();
    ways.extend(locks_and_cursors());
    ways.extend(copies_of_rows());
    ways.extend(reads());
    ways
}

fn writes() -> Vec<Way> {
    vec![
        refused("INSERT", &["INSERT INTO t (n) VALUES (1)"]),
        refused("INSERT of nothing", &["INSERT INTO t (n) SELECT 1 WHERE false"]),
        refused("INSERT RETURNING", &["INSERT INTO t (n) VALUES (1) RETURNING id"]),
        refused(
            "INSERT ON CONFLICT DO NOTHING",
            &["INSERT INTO t (id, n) VALUES (1, 1) ON CONFLICT (id) DO NOTHING"],
        ),
        refused(
            "INSERT ON CONFLICT DO UPDATE",
            &["INSERT INTO t (id, n) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = 2"],
        ),
        refused("UPDATE", &["UPDATE t SET n = n + 1 WHERE id = 1"]),
        refused("UPDATE of no row", &["UPDATE t SET n = 1 WHERE id = -1"]),
        refused("DELETE", &["DELETE FROM t WHERE id = 200"]).undo(&[
            "INSERT INTO t (id, n, body) VALUES (200, 200, 'row 200') ON CONFLICT DO NOTHING",
        ]),
        refused(
            "MERGE",
            &["MERGE INTO t USING (VALUES (1)) w (id) ON t.id = w.id
               WHEN MATCHED THEN UPDATE SET n = 1 WHEN NOT MATCHED THEN INSERT (n) VALUES (1)"],
        ),
        refused("INSERT through a view", &["INSERT INTO v (n) VALUES (1)"]),
        refused("INSERT into a partition", &["INSERT INTO parted VALUES (2, 2)"]),
        refused("UPDATE of a partitioned table", &["UPDATE parted SET n = n + 1"]),
        refused("INSERT into an unlogged table", &["INSERT INTO unlogged VALUES (1)"]),
        refused("writable CTE", &["WITH w AS (UPDATE t SET n = 1 WHERE id = 1 RETURNING n) SELECT * FROM w"]),
        refused(
            "writable CTE that nobody reads",
            &["WITH w AS (DELETE FROM t WHERE id = -1) SELECT 1"],
        ),
        refused("EXPLAIN ANALYZE of an INSERT", &["EXPLAIN ANALYZE INSERT INTO t (n) VALUES (1)"]),
        refused("EXECUTE of a prepared INSERT", &["EXECUTE w(1)"])
            .before(&["PREPARE w (bigint) AS INSERT INTO t (n) VALUES ($1)"]),
        refused("EXPLAIN ANALYZE EXECUTE", &["EXPLAIN ANALYZE EXECUTE w(1)"])
            .before(&["PREPARE w (bigint) AS INSERT INTO t (n) VALUES ($1)"]),
        refused("rule that writes", &["UPDATE ruled SET n = 1"])
            .setup(&[
                "CREATE VIEW ruled AS SELECT 1 AS n",
                "CREATE RULE w AS ON UPDATE TO ruled DO INSTEAD INSERT INTO t (n) VALUES (new.n)",
            ])
            .undo(&["DROP VIEW ruled"]),
        refused("view with an INSTEAD OF trigger", &["INSERT INTO watched VALUES (1)"])
            .setup(&[
                "CREATE VIEW watched AS SELECT 1::bigint AS n",
                "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN INSERT INTO t (n) VALUES (new.n); RETURN new; END'",
                "CREATE TRIGGER w INSTEAD OF INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch()",
            ])
            .undo(&["DROP VIEW watched", "DROP FUNCTION watch()"]),
        refused(
            "deferred trigger that writes",
            &["BEGIN", "INSERT INTO late VALUES (1)", "COMMIT"],
        )
        .setup(&[
            "CREATE TABLE late (n bigint)",
            "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN INSERT INTO t (n) VALUES (new.n); RETURN new; END'",
            "CREATE CONSTRAINT TRIGGER w AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later()",
        ])
        .undo(&["DROP TABLE late", "DROP FUNCTION later()"]),
        refused("write to a foreign table here", &["INSERT INTO abroad VALUES (1)"])
            .needs(&["postgres_fdw"])
            .setup(&[
                "CREATE EXTENSION IF NOT EXISTS postgres_fdw",
                "DO $$ BEGIN EXECUTE format('CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host ''127.0.0.1'', port %L, dbname %L)',
                 current_setting('port'), current_database()); END $$",
                "CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (password_required 'false')",
                "CREATE TABLE landing (n bigint)",
                "CREATE FOREIGN TABLE abroad (n bigint) SERVER here OPTIONS (table_name 'landing')",
            ])
            .undo(&[
                "DROP EXTENSION postgres_fdw CASCADE",
                "DROP TABLE landing",
            ]),
    ]
}

fn locks_and_cursors() -> Vec<Way> {
    vec![
        refused("SELECT FOR UPDATE", &["SELECT * FROM t WHERE id = 1 FOR UPDATE"]),
        refused("SELECT FOR NO KEY UPDATE", &["SELECT * FROM t WHERE id = 1 FOR NO KEY UPDATE"]),
        refused("SELECT FOR SHARE", &["SELECT * FROM t WHERE id = 1 FOR SHARE"]),
        refused("SELECT FOR KEY SHARE", &["SELECT * FROM t WHERE id = 1 FOR KEY SHARE"]),
        refused(
            "SELECT FOR UPDATE in a subquery",
            &["SELECT * FROM (SELECT id FROM t WHERE id = 1 FOR UPDATE) q"],
        ),
        refused(
            "cursor FOR UPDATE",
            &["BEGIN", "DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE", "FETCH c", "COMMIT"],
        ),
        refused(
            "UPDATE WHERE CURRENT OF",
            &[
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT * FROM t",
                "FETCH c",
                "UPDATE t SET n = 1 WHERE CURRENT OF c",
                "COMMIT",
            ],
        ),
        refused(
            "LOCK TABLE ACCESS EXCLUSIVE",
            &["BEGIN", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE", "COMMIT"],
        ),
        allowed(
            "LOCK TABLE ACCESS SHARE",
            &["BEGIN", "LOCK TABLE t IN ACCESS SHARE MODE", "COMMIT"],
        ),
    ]
}

fn copies_of_rows() -> Vec<Way> {
    vec![
        refused("COPY FROM PROGRAM", &["COPY t (n) FROM PROGRAM 'echo 1'"]),
        refused("COPY FROM a file", &["COPY t (n) FROM '{folder}/numbers'"])
            .setup(&["COPY (SELECT 1) TO '{folder}/numbers'"]),
        refused(
            "COPY of a writing query",
            &["COPY (INSERT INTO t (n) VALUES (1) RETURNING id) TO '/dev/null'"],
        ),
        refused("TRUNCATE", &["TRUNCATE unlogged"]),
        refused("TRUNCATE RESTART IDENTITY", &["TRUNCATE counted RESTART IDENTITY"])
            .setup(&["CREATE TABLE counted (id bigserial)"])
            .undo(&["DROP TABLE counted"]),
        refused("CREATE TABLE AS", &["CREATE TABLE made AS SELECT * FROM t"])
            .undo(&["DROP TABLE IF EXISTS made"]),
        refused(
            "CREATE TABLE IF NOT EXISTS AS, which exists",
            &["CREATE TABLE IF NOT EXISTS t AS SELECT 1"],
        ),
        refused(
            "EXPLAIN ANALYZE CREATE TABLE AS",
            &["EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1"],
        )
        .undo(&["DROP TABLE IF EXISTS made"]),
        refused("SELECT INTO", &["SELECT * INTO made FROM t"]).undo(&["DROP TABLE IF EXISTS made"]),
        refused("CREATE MATERIALIZED VIEW", &["CREATE MATERIALIZED VIEW made AS SELECT * FROM t"])
            .undo(&["DROP MATERIALIZED VIEW IF EXISTS made"]),
        refused("REFRESH MATERIALIZED VIEW", &["REFRESH MATERIALIZED VIEW seen"])
            .setup(&["CREATE MATERIALIZED VIEW seen AS SELECT id FROM t"])
            .undo(&["DROP MATERIALIZED VIEW seen"]),
        refused(
            "REFRESH MATERIALIZED VIEW CONCURRENTLY",
            &["REFRESH MATERIALIZED VIEW CONCURRENTLY seen"],
        )
        .setup(&[
            "CREATE MATERIALIZED VIEW seen AS SELECT id FROM t",
            "CREATE UNIQUE INDEX ON seen (id)",
        ])
        .undo(&["DROP MATERIALIZED VIEW seen"]),
    ]
}

fn reads() -> Vec<Way> {
    vec![
        allowed("SELECT", &["SELECT count(*) FROM t", "TABLE parted", "VALUES (1)"]),
        allowed("EXPLAIN of an INSERT", &["EXPLAIN INSERT INTO t (n) VALUES (1)"]),
        allowed("EXPLAIN ANALYZE of a SELECT", &["EXPLAIN ANALYZE SELECT count(*) FROM t"]),
        allowed(
            "parallel SELECT",
            &[
                "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
                 SET min_parallel_table_scan_size = 0;
                 SELECT set_config(name, 'on', false) FROM pg_settings
                  WHERE name IN ('force_parallel_mode', 'debug_parallel_query')",
                "SELECT sum(n) FROM t",
            ],
        ),
        allowed(
            "cursor",
            &[
                "BEGIN",
                "DECLARE c SCROLL CURSOR FOR SELECT * FROM t",
                "FETCH 5 FROM c",
                "MOVE c",
                "COMMIT",
            ],
        ),
        allowed(
            "cursor WITH HOLD",
            &[
                "BEGIN",
                "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t",
                "COMMIT",
                "FETCH c",
                "CLOSE c",
            ],
        ),
        allowed("PREPARE of an INSERT", &["PREPARE w AS INSERT INTO t (n) VALUES (1)"]),
        allowed("COPY TO", &["COPY t TO '/dev/null'"]),
        allowed(
            "serializable read",
            &[
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
                "SELECT count(*) FROM t",
                "COMMIT",
            ],
        ),
        allowed("savepoints", &["BEGIN", "SAVEPOINT a", "SELECT 1", "RELEASE a", "COMMIT"]),
        allowed(
            "read that spills to disk",
            &[
                "SET work_mem = '64kB'",
                "SELECT count(*) FROM (SELECT repeat('x', 500) || i FROM generate_series(1, 5000) i ORDER BY 1) q",
            ],
        ),
    ]
}
