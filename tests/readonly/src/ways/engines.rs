//! Distributed writes, and what goes through the engine's own functions. The node under test is the
//! coordinator; its worker stays open.

use test_cluster::Engine;

use super::{Expected, Way, allowed, honest, refused};

pub(super) fn ways(engine: Engine) -> Vec<Way> {
    match engine {
        Engine::Embedded => vec![
            refused("write to a remote shard", &[
                "SELECT pg_dist_execute('spread'::regclass, '1', 'UPDATE %s SET n = n + 1')",
            ])
            // The worker refuses it: it is told that the transaction is a read-only one.
            .expected(Expected::RefusedAs("25006")),
            refused("write to two shards", &[
                "BEGIN",
                "SELECT pg_dist_execute('spread'::regclass, '1', 'UPDATE %s SET n = n + 1')",
                "SELECT pg_dist_execute('spread'::regclass, '2', 'UPDATE %s SET n = n + 1')",
                "COMMIT",
            ])
            .expected(Expected::RefusedAs("25006")),
        ],
        Engine::Citus => vec![
            allowed("read of a distributed table", &["SELECT count(*) FROM spread"]),
            refused("INSERT into a distributed table", &["INSERT INTO spread VALUES (1000, 1)"])
                .undo(&["DELETE FROM spread WHERE id = 1000"]),
            refused("UPDATE of one shard", &["UPDATE spread SET n = n + 1 WHERE id = 1"]),
            refused("UPDATE of all shards", &["UPDATE spread SET n = n + 1"]),
            refused("writable CTE over shards", &[
                "WITH w AS (UPDATE spread SET n = n + 1 RETURNING n) SELECT count(*) FROM w",
            ]),
            refused("SELECT FOR UPDATE of a distributed table", &[
                "SELECT * FROM spread WHERE id = 1 FOR UPDATE",
            ]),
            refused("COPY into a distributed table", &[
                "COPY spread FROM PROGRAM 'printf \"1001\\t1\\n\"'",
            ])
            .undo(&["DELETE FROM spread WHERE id = 1001"]),
            refused("TRUNCATE of a distributed table", &["TRUNCATE other"])
                .setup(&["CREATE TABLE other (id bigint)", "SELECT create_distributed_table('other', 'id')"])
                .undo(&["DROP TABLE other"]),
            refused("create_distributed_table", &["SELECT create_distributed_table('other', 'id')"])
                .setup(&["CREATE TABLE other (id bigint)"])
                .undo(&["DROP TABLE other"]),
            refused("create_reference_table", &["SELECT create_reference_table('other')"])
                .setup(&["CREATE TABLE other (id bigint)"])
                .undo(&["DROP TABLE other"]),
            refused("ALTER of a distributed table", &["ALTER TABLE spread ADD COLUMN made int"])
                .undo(&["ALTER TABLE spread DROP COLUMN IF EXISTS made"]),
            // A sequence that C code asks for a number, in a transaction that no statement has begun.
            refused("master_get_new_shardid after a COMMIT", &[
                "DO $$ DECLARE x bigint; BEGIN COMMIT; x := master_get_new_shardid(); ROLLBACK; END $$",
            ]),
            refused("master_get_new_placementid", &["SELECT master_get_new_placementid()"]),
            refused("citus_add_node", &["SELECT citus_set_node_property('127.0.0.1', {worker},
                 'shouldhaveshards', true)"]),
            // They write on the worker, which is open, and nothing here.
            honest("delegated function", &["SELECT delegated_f(1)"])
                .setup(&[
                    "CREATE FUNCTION delegated_f(k bigint) RETURNS void LANGUAGE plpgsql
                     AS 'BEGIN UPDATE spread SET n = n + 1 WHERE id = k; END'",
                    "SELECT create_distributed_function('delegated_f(bigint)', 'k', colocate_with := 'spread')",
                ])
                .undo(&["DROP FUNCTION delegated_f(bigint)"]),
            honest("delegated procedure", &["CALL delegated(1)"])
                .setup(&[
                    "CREATE PROCEDURE delegated(k bigint) LANGUAGE plpgsql
                     AS 'BEGIN UPDATE spread SET n = n + 1 WHERE id = k; END'",
                    "SELECT create_distributed_function('delegated(bigint)', 'k', colocate_with := 'spread')",
                ])
                .undo(&["DROP PROCEDURE delegated(bigint)"]),
            honest("run_command_on_workers", &["SELECT run_command_on_workers('SELECT 1')"]),
        ],
    }
}
