//! Sequences, and temporary tables of all kinds.

use super::{Expected, Way, allowed, ended, refused};

pub(super) fn ways() -> Vec<Way> {
    let mut ways = sequences();
    ways.extend(temporary_tables());
    ways
}

fn sequences() -> Vec<Way> {
    vec![
        refused("nextval", &["SELECT nextval('s')"]),
        refused(
            "nextval in a read-write transaction",
            &["BEGIN READ WRITE", "SELECT nextval('s')", "COMMIT"],
        ),
        refused(
            "nextval after SET transaction_read_only = off",
            &["BEGIN", "SET transaction_read_only = off", "SELECT nextval('s')", "COMMIT"],
        ),
        refused(
            "nextval that turns read-write in between",
            &["DO $$ BEGIN
                 PERFORM set_config('transaction_read_only', 'off', true);
                 PERFORM nextval('s');
             END $$"],
        )
        .expected(Expected::RefusedAs("25001")),
        refused(
            "nextval beside set_config in one statement",
            &["SELECT set_config('transaction_read_only', 'off', true), nextval('s')"],
        ),
        refused("nextval in DO", &["DO $$ BEGIN PERFORM nextval('s'); END $$"]),
        refused("nextval many times", &["SELECT nextval('s') FROM generate_series(1, 100)"]),
        refused("nextval of an unlogged sequence", &["SELECT nextval('unlogged_s')"])
            .setup(&["CREATE UNLOGGED SEQUENCE unlogged_s"])
            .undo(&["DROP SEQUENCE unlogged_s"]),
        refused("nextval of cached values", &["SELECT nextval('cached')"])
            .setup(&["CREATE SEQUENCE cached CACHE 50"])
            .before(&["SELECT nextval('cached')"])
            .undo(&["DROP SEQUENCE cached"]),
        refused("setval", &["SELECT setval('s', 1000)"]),
        refused("setval, not called", &["SELECT setval('s', 1000, false)"]),
        refused("ALTER SEQUENCE RESTART", &["ALTER SEQUENCE s RESTART"]),
        refused("serial column", &["INSERT INTO counted DEFAULT VALUES"])
            .setup(&["CREATE TABLE counted (id bigserial)"])
            .undo(&["DROP TABLE counted"]),
        allowed(
            "currval, lastval, reading a sequence",
            &["SELECT currval('s'), lastval()", "SELECT * FROM s", "SELECT * FROM pg_sequences"],
        )
        .before(&["SELECT nextval('s')"]),
    ]
}

fn temporary_tables() -> Vec<Way> {
    vec![
        refused("CREATE TEMP TABLE", &["CREATE TEMP TABLE made (n int)"]),
        refused(
            "CREATE TEMP TABLE ON COMMIT DELETE ROWS",
            &["CREATE TEMP TABLE made (n int) ON COMMIT DELETE ROWS"],
        ),
        refused(
            "CREATE TEMP TABLE ON COMMIT DROP",
            &[
                "BEGIN",
                "CREATE TEMP TABLE made (n int) ON COMMIT DROP",
                "INSERT INTO made VALUES (1)",
                "COMMIT",
            ],
        ),
        refused("CREATE TEMP TABLE AS", &["CREATE TEMP TABLE made AS SELECT 1"]),
        refused(
            "INSERT into a temporary table, ON COMMIT PRESERVE ROWS",
            &["INSERT INTO own VALUES (1)"],
        )
        .before(&["CREATE TEMP TABLE own (n int)"]),
        refused(
            "INSERT into a temporary table, ON COMMIT DELETE ROWS",
            &["INSERT INTO own VALUES (1)"],
        )
        .before(&["CREATE TEMP TABLE own (n int) ON COMMIT DELETE ROWS"]),
        allowed("reading a temporary table, ON COMMIT DELETE ROWS", &["SELECT * FROM own"])
            .before(&["CREATE TEMP TABLE own (n int) ON COMMIT DELETE ROWS"]),
        allowed("reading a temporary table, ON COMMIT PRESERVE ROWS", &["SELECT * FROM own"])
            .before(&["CREATE TEMP TABLE own (n int)"]),
        refused("TRUNCATE of a temporary table", &["TRUNCATE own"])
            .before(&["CREATE TEMP TABLE own (n int)"]),
        refused("DROP of a temporary table", &["DROP TABLE own"])
            .before(&["CREATE TEMP TABLE own (n int)"]),
        refused("nextval of a temporary sequence", &["SELECT nextval('own')"])
            .before(&["CREATE TEMP SEQUENCE own"]),
        ended("DISCARD TEMP", &["DISCARD TEMP"]).before(&["CREATE TEMP TABLE own (n int)"]),
        ended("DISCARD ALL", &["DISCARD ALL"]).before(&["CREATE TEMP TABLE own (n int)"]),
    ]
}
