//! Code that writes: functions, procedures, DO, other connections, messages, large objects.

use super::{Expected, Way, allowed, honest, refused};

pub(super) fn ways() -> Vec<Way> {
    let mut ways = code();
    ways.extend(messages());
    ways.extend(large_objects());
    ways.extend(origins_and_slots());
    ways
}

fn code() -> Vec<Way> {
    vec![
        refused("function that writes by SQL", &["SELECT writes_by_sql()"]),
        refused("function that writes by SPI", &["SELECT writes_by_spi()"]),
        refused("function in FROM that writes", &["SELECT * FROM writes_by_spi()"]),
        refused("function in a default of a read", &[
            "SELECT count(*) FROM t WHERE n = 1 AND writes_by_spi() = 1",
        ]),
        refused("function in EXPLAIN ANALYZE", &["EXPLAIN ANALYZE SELECT writes_by_sql()"]),
        refused("DO", &["DO $$ BEGIN INSERT INTO t (n) VALUES (1); END $$"]),
        refused("DO with dynamic DDL", &[
            "DO $$ BEGIN EXECUTE 'CREATE TABLE made (n int)'; END $$",
        ])
        .undo(&["DROP TABLE IF EXISTS made"]),
        refused("DO with commits inside", &[
            "DO $$ BEGIN PERFORM 1; COMMIT; INSERT INTO t (n) VALUES (1); COMMIT; END $$",
        ]),
        refused("CALL with commits inside", &["CALL in_steps()"])
            .setup(&[
                "CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
                 BEGIN
                     FOR i IN 1..3 LOOP INSERT INTO t (n) VALUES (i); COMMIT; END LOOP;
                 END $$",
            ])
            .undo(&["DROP PROCEDURE in_steps()"]),
        refused("CALL that reads, commits, and then writes", &["CALL late_writer()"])
            .setup(&[
                "CREATE PROCEDURE late_writer() LANGUAGE plpgsql AS $$
                 BEGIN
                     PERFORM count(*) FROM t; COMMIT; PERFORM 1; ROLLBACK;
                     UPDATE t SET n = 1 WHERE id = 1;
                 END $$",
            ])
            .undo(&["DROP PROCEDURE late_writer()"]),
        allowed("write whose error is caught", &[
            "DO $$ BEGIN INSERT INTO t (n) VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END $$",
        ]),
        refused("write beside one whose error is caught", &[
            "DO $$ BEGIN
                 BEGIN INSERT INTO t (n) VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO t (n) VALUES (2);
             END $$",
        ]),
        refused("the server's own function by another name", &["SELECT my_notify('news', 'text')"])
            .setup(&[
                "CREATE FUNCTION my_notify(text, text) RETURNS void LANGUAGE internal AS 'pg_notify'",
            ])
            .undo(&["DROP FUNCTION my_notify(text, text)"]),
        refused("SECURITY DEFINER function", &["SET ROLE visitor", "SELECT as_owner()"])
            .setup(&[
                "CREATE FUNCTION as_owner() RETURNS void LANGUAGE sql SECURITY DEFINER
                 AS 'INSERT INTO t (n) VALUES (1)'",
            ])
            .undo(&["DROP FUNCTION as_owner()"]),
        refused("function with SET transaction_read_only", &["SELECT as_writer()"])
            .expected(Expected::RefusedAs("25001"))
            .setup(&[
                "CREATE FUNCTION as_writer() RETURNS void LANGUAGE sql SET transaction_read_only = off
                 AS 'INSERT INTO t (n) VALUES (1)'",
            ])
            .undo(&["DROP FUNCTION as_writer()"])
            // Since 16 no function can be given this setting.
            .until(15),
        refused("another connection to this node", &[
            "SELECT dblink_exec('{conninfo}', 'INSERT INTO t (n) VALUES (1)')",
        ])
        .needs(&["dblink"])
        .setup(&["CREATE EXTENSION dblink"])
        .undo(&["DROP EXTENSION dblink"]),
        refused("lastval after a write by a function", &[
            "SELECT nextval('s'), lastval()",
        ]),
        refused("a transaction id and nothing else", &["SELECT txid_current()"]),
        refused("pg_current_xact_id", &["SELECT pg_current_xact_id()"]),
        allowed("pg_current_xact_id_if_assigned", &["SELECT pg_current_xact_id_if_assigned()"]),
        allowed("pg_export_snapshot", &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SELECT pg_export_snapshot()",
            "COMMIT",
        ]),
        allowed("advisory locks", &[
            "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
            "SELECT pg_advisory_xact_lock(2)",
        ]),
    ]
}

fn messages() -> Vec<Way> {
    vec![
        refused("NOTIFY", &["NOTIFY channel"]),
        refused(
            "NOTIFY with a payload, in a transaction",
            &["BEGIN", "NOTIFY channel, 'x'", "COMMIT"],
        ),
        refused("pg_notify", &["SELECT pg_notify('channel', 'x')"]),
        refused("pg_notify in DO", &["DO $$ BEGIN PERFORM pg_notify('channel', 'x'); END $$"]),
        refused(
            "trigger-like notify in a read transaction",
            &["BEGIN", "SELECT count(*) FROM t", "SELECT pg_notify('channel', 'y')", "COMMIT"],
        ),
        allowed("LISTEN and UNLISTEN", &["LISTEN channel", "UNLISTEN *"]),
        refused(
            "transactional logical message",
            &["SELECT pg_logical_emit_message(true, 'p', 'x')"],
        ),
        refused(
            "non-transactional logical message",
            &["SELECT pg_logical_emit_message(false, 'p', 'x')"],
        ),
        refused(
            "binary logical message",
            &["SELECT pg_logical_emit_message(false, 'p', 'x'::bytea)"],
        ),
    ]
}

fn large_objects() -> Vec<Way> {
    vec![
        refused("lo_create", &["SELECT lo_create(0)"]),
        refused("lo_creat", &["SELECT lo_creat(-1)"]),
        refused("lo_from_bytea", &["SELECT lo_from_bytea(0, 'x')"]),
        refused("lo_import", &["SELECT lo_import('{folder}/object')"])
            .setup(&["COPY (SELECT 1) TO '{folder}/object'"]),
        refused("lo_import with a number", &["SELECT lo_import('{folder}/object', 4001)"])
            .setup(&["COPY (SELECT 1) TO '{folder}/object'"])
            .undo(&["SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = 4001"]),
        refused("lo_put", &["SELECT lo_put(4002, 0, 'y')"])
            .setup(&["SELECT lo_from_bytea(4002, 'x')"])
            .undo(&["SELECT lo_unlink(4002)"]),
        refused(
            "lowrite",
            &["BEGIN", "SELECT lo_open(4002, 131072)", "SELECT lowrite(0, 'y')", "COMMIT"],
        )
        .setup(&["SELECT lo_from_bytea(4002, 'x')"])
        .undo(&["SELECT lo_unlink(4002)"]),
        refused(
            "lo_truncate",
            &["BEGIN", "SELECT lo_open(4002, 131072)", "SELECT lo_truncate(0, 0)", "COMMIT"],
        )
        .setup(&["SELECT lo_from_bytea(4002, 'x')"])
        .undo(&["SELECT lo_unlink(4002)"]),
        refused("lo_unlink", &["SELECT lo_unlink(4002)"])
            .setup(&["SELECT lo_from_bytea(4002, 'x')"])
            .undo(&["SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = 4002"]),
        refused("ALTER LARGE OBJECT OWNER", &["ALTER LARGE OBJECT 4002 OWNER TO visitor"])
            .setup(&["SELECT lo_from_bytea(4002, 'x')"])
            .undo(&["SELECT lo_unlink(4002)"]),
        refused("GRANT ON LARGE OBJECT", &["GRANT SELECT ON LARGE OBJECT 4002 TO visitor"])
            .setup(&["SELECT lo_from_bytea(4002, 'x')"])
            .undo(&["SELECT lo_unlink(4002)"]),
        allowed(
            "reading a large object",
            &[
                "SELECT lo_get(4002)",
                "BEGIN",
                "SELECT lo_open(4002, 262144)",
                "SELECT loread(0, 10)",
                "COMMIT",
            ],
        )
        .setup(&["SELECT lo_from_bytea(4002, 'x')"])
        .undo(&["SELECT lo_unlink(4002)"]),
        honest("lo_export", &["SELECT lo_export(4002, '{folder}/exported')"])
            .setup(&["SELECT lo_from_bytea(4002, 'x')"])
            .undo(&["SELECT lo_unlink(4002)"]),
    ]
}

fn origins_and_slots() -> Vec<Way> {
    vec![
        refused("pg_replication_origin_create", &["SELECT pg_replication_origin_create('made')"]).undo(
            &["SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = 'made'"],
        ),
        refused("pg_replication_origin_drop", &["SELECT pg_replication_origin_drop('doomed')"])
            .setup(&["SELECT pg_replication_origin_create('doomed')"])
            .undo(&["SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin"]),
        refused("pg_replication_origin_advance", &[
            "SELECT pg_replication_origin_advance('doomed', '0/1')",
        ])
        .setup(&["SELECT pg_replication_origin_create('doomed')"])
        .undo(&["SELECT pg_replication_origin_drop('doomed')"]),
        honest("physical slot", &[
            "SELECT pg_create_physical_replication_slot('made', true)",
            "SELECT pg_drop_replication_slot('made')",
        ]),
        honest("logical slot", &[
            "SELECT pg_create_logical_replication_slot('made', 'pgoutput')",
            "SELECT * FROM pg_logical_slot_get_binary_changes('made', NULL, NULL,
                 'proto_version', '1', 'publication_names', 'none')",
            "SELECT pg_replication_slot_advance('made', pg_current_wal_lsn())",
            "SELECT pg_drop_replication_slot('made')",
        ]),
    ]
}
