//! Settings, transaction modes, users, prepared transactions.

use super::{Way, allowed, refused};

pub(super) fn ways() -> Vec<Way> {
    let mut ways = modes();
    ways.extend(prepared());
    ways.extend(settings());
    ways
}

fn modes() -> Vec<Way> {
    vec![
        refused(
            "SET transaction_read_only = off",
            &["BEGIN", "SET transaction_read_only = off", "INSERT INTO t (n) VALUES (1)", "COMMIT"],
        ),
        refused(
            "SET TRANSACTION READ WRITE",
            &["BEGIN", "SET TRANSACTION READ WRITE", "UPDATE t SET n = 1 WHERE id = 1", "COMMIT"],
        ),
        refused("BEGIN READ WRITE", &["BEGIN READ WRITE", "DELETE FROM t WHERE id = -1", "COMMIT"]),
        refused(
            "SET default_transaction_read_only = off",
            &["SET default_transaction_read_only = off", "INSERT INTO t (n) VALUES (1)"],
        ),
        refused(
            "SET SESSION CHARACTERISTICS",
            &[
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                "INSERT INTO t (n) VALUES (1)",
            ],
        ),
        refused(
            "reader that turns writer",
            &["BEGIN", "SELECT count(*) FROM t", "INSERT INTO t (n) VALUES (1)", "COMMIT"],
        ),
        refused(
            "write in a subtransaction",
            &["BEGIN", "SAVEPOINT a", "INSERT INTO t (n) VALUES (1)", "COMMIT"],
        ),
        refused(
            "session_replication_role = replica",
            &["SET session_replication_role = replica", "INSERT INTO t (n) VALUES (1)"],
        ),
        refused(
            "asynchronous commit",
            &["SET synchronous_commit = off", "INSERT INTO t (n) VALUES (1)"],
        ),
        refused(
            "ordinary user",
            &["SET SESSION AUTHORIZATION visitor", "INSERT INTO t (n) VALUES (1)"],
        ),
        refused(
            "several statements in one string",
            &["SELECT 1; INSERT INTO t (n) VALUES (1); SELECT 2"],
        ),
        refused(
            "SET LOCAL ROLE to a superuser",
            &["BEGIN", "SET LOCAL ROLE postgres", "NOTIFY c", "COMMIT"],
        ),
    ]
}

fn prepared() -> Vec<Way> {
    vec![
        refused(
            "PREPARE TRANSACTION of a write",
            &[
                "BEGIN",
                "INSERT INTO t (n) VALUES (1)",
                "PREPARE TRANSACTION 'made'",
                "ROLLBACK PREPARED 'made'",
            ],
        ),
        refused(
            "PREPARE TRANSACTION of a read",
            &[
                "BEGIN",
                "SELECT count(*) FROM t",
                "PREPARE TRANSACTION 'made'",
                "COMMIT PREPARED 'made'",
            ],
        ),
        refused(
            "PREPARE TRANSACTION of nothing",
            &["BEGIN", "PREPARE TRANSACTION 'made'", "ROLLBACK PREPARED 'made'"],
        ),
    ]
}

fn settings() -> Vec<Way> {
    vec![
        allowed("SET, SHOW, RESET", &["SET work_mem = '5MB'", "SHOW work_mem", "RESET ALL"]),
        allowed("SET LOCAL", &["BEGIN", "SET LOCAL work_mem = '5MB'", "COMMIT"]),
        allowed("DISCARD ALL without temporary tables", &["DISCARD ALL"]),
        allowed("LOAD", &["LOAD 'plpgsql'"]),
        allowed(
            "signals to other backends",
            &["SELECT pg_cancel_backend(1), pg_terminate_backend(1)"],
        ),
        allowed("BEGIN and COMMIT", &["BEGIN", "COMMIT"]),
        allowed("ROLLBACK of nothing", &["BEGIN", "SELECT 1", "ROLLBACK"]),
        allowed(
            "state of the node",
            &["SHOW citus_fence.system_is_read_only", "SELECT * FROM citus_fence.stat_gate"],
        ),
    ]
}
