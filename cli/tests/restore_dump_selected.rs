//! What is restored from a dump can be chosen: what comes then, what does not, and what is said of it.

mod common;

use common::restored::{append, copy, restore_command, restore_command_of};
use common::selected::{
    NEEDED, TABLES, distributed, everywhere, findings, pasted, rows, statements, value,
};
use common::{Gate, dump_command, run, start};
use fence_tests::{Cluster, Engine, PATIENCE, on_each_engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn a_lost_table_comes_back_alone_into_a_database_that_is_in_use() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        everywhere(&cluster, NEEDED)?;
        statements(&cluster, TABLES)?;
        distributed(&cluster)?;
        let lost = "SELECT md5(string_agg(x::text, ' ' ORDER BY id)) FROM shop.orders x";
        let was = value(&cluster, lost)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let port = cluster.coordinator().port();
        run(&mut dump_command(port, &dir, &[])).expect(0);

        // Life goes on, and then two tables are gone.
        statements(
            &cluster,
            "UPDATE shop.customers SET name = 'new' WHERE id > 10;\nINSERT INTO shop.customers VALUES (21, 'later')",
        )?;
        cluster.coordinator().execute("DROP TABLE shop.orders CASCADE")?;
        match engine {
            Engine::Citus => cluster.coordinator().execute("DROP TABLE d_first CASCADE")?,
            Engine::Embedded => {
                for placement in cluster.placements("d_first")? {
                    let drop = format!("DROP TABLE {}", placement.table);
                    cluster.node(placement.node).execute(&drop)?;
                }
                for table in [
                    "placement p USING pg_dist_shard s WHERE p.shardid = s.shardid AND s",
                    "shard s WHERE s",
                    "partition s WHERE s",
                ] {
                    everywhere(
                        &cluster,
                        &format!("DELETE FROM pg_dist_{table}.logicalrelid = 'd_first'::regclass"),
                    )?;
                }
                everywhere(&cluster, "DROP TABLE d_first")?;
            }
        }
        let others = ["shop.customers", "shop.items", "behind"];
        let theirs = rows(&cluster, &others)?;

        let words = ["-t", "shop.orders", "-t", "D_FIRST", "--json"];
        let refused = run(&mut restore_command(port, &dir, &words)).expect(1);
        refused.complains_of(&["is not empty", "--into-non-empty"]);
        let words = [&words[..], &["--into-non-empty"]].concat();
        let ended = run(&mut restore_command(port, &dir, &words)).expect(3);
        let said = findings(&ended.out);
        println!("{engine}: {said:#?}");

        assert_eq!(value(&cluster, lost)?, was);
        assert_eq!(rows(&cluster, &others)?, theirs);
        // What belongs to it is there.
        for sql in [
            "SELECT obj_description('shop.\"on\"'::regclass)",
            "SELECT stxname FROM pg_statistic_ext WHERE stxrelid = 'shop.orders'::regclass",
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'shop.orders'::regclass AND NOT tgisinternal AND tgname !~ '^trunc'",
            "SELECT polname FROM pg_policy WHERE polrelid = 'shop.orders'::regclass",
            "SELECT 1 FROM pg_class WHERE oid = 'shop.orders'::regclass AND relrowsecurity AND relacl::text ~ '=r/'",
            "SELECT 1 WHERE obj_description('shop.orders'::regclass) LIKE '%Type: INDEX%'",
            "SELECT 1 FROM pg_constraint WHERE conrelid = 'shop.orders'::regclass AND conname = 'orders_code_check'",
        ] {
            value(&cluster, sql)?;
        }
        let next =
            "INSERT INTO shop.orders (customer, code) VALUES (1, 99) RETURNING id || ' ' || own";
        assert_eq!(value(&cluster, next)?, "51 51");
        assert_eq!(
            value(
                &cluster,
                "SELECT count(DISTINCT colocationid) FROM pg_dist_partition WHERE logicalrelid::text IN ('d_first', 'd_second')"
            )?,
            "1"
        );
        assert_eq!(cluster.read_all_shards("d_first", "SELECT id FROM %s")?.len(), 30);
        assert_eq!(cluster.read_all_shards("d_second", "SELECT id FROM %s")?.len(), 30);
        // Nothing else was looked at or raised: neither a number that is behind, nor statistics.
        assert_eq!(value(&cluster, "SELECT last_value FROM behind_id_seq")?, "1");
        let analyzed = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_stat_user_tables WHERE analyze_count > 0 AND schemaname IN ('shop', 'public')";
        let analyzed = value(&cluster, analyzed)?;
        assert!(analyzed.contains("orders"), "{analyzed}");
        for other in ["customers", "items", "behind", "second"] {
            assert!(!analyzed.contains(other), "{other} in {analyzed}");
        }

        // The keys from it and to it are named, with statements that make them again.
        let named =
            |words: &[&str]| said.iter().any(|one| words.iter().all(|word| one.contains(word)));
        assert!(
            named(&["left out", "shop.customers", "ADD CONSTRAINT orders_customer_fkey"]),
            "{said:?}"
        );
        assert!(named(&["shop.items no longer points to shop.orders", "\"to order\""]), "{said:?}");
        if engine == Engine::Citus {
            assert!(named(&["public.d_second no longer points", "second_first"]), "{said:?}");
        }
        let pasted = pasted(&said);
        assert_eq!(pasted.len(), said.len(), "{said:?}");
        pasted.iter().try_for_each(|sql| cluster.coordinator().execute(sql))?;
        let keys = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text ~ '^(shop[.].*|d_second)$'";
        let all = if engine == Engine::Citus {
            "orders_customer_fkey second_first to order"
        } else {
            "orders_customer_fkey to order"
        };
        assert_eq!(value(&cluster, keys)?, all);
        // And nothing of the command is left.
        let left = "SELECT 1 FROM pg_namespace WHERE nspname = 'citus_fence_restore'";
        assert!(cluster.coordinator().query(left)?.is_empty());
        Ok(())
    });
}

/// What a database has, by pg_dump, an entry each.
fn entries(cluster: &Cluster, database: &str, words: &[&str]) -> Vec<String> {
    let installation = test_cluster::Installation::current().expect("PostgreSQL");
    let conninfo = cluster.coordinator().connect_params().database(database).conninfo();
    let mut found = Vec::new();
    for section in ["pre-data", "post-data"] {
        let mut command = installation.command("pg_dump").expect("pg_dump");
        command.args(["-s", "--section", section, "-d", &conninfo]).args(words);
        let output = command.output().expect("pg_dump");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let entries = text.split("\n--\n-- Name: ").skip(1);
        let is_said = |line: &&str| {
            !line.is_empty()
                && !line.starts_with("SET ")
                && !line.starts_with('\\')
                && *line != "--"
        };
        found.extend(
            entries.map(|entry| entry.lines().filter(is_said).collect::<Vec<_>>().join("\n")),
        );
    }
    found.retain(|entry| !entry.contains("database dump complete") || entry.contains("; Type: "));
    let mut found: Vec<String> = found
        .into_iter()
        .map(|entry| entry.replace("\n-- PostgreSQL database dump complete", ""))
        .collect();
    found.sort();
    found
}

/// More of what pg_dump has entries for, with names that are hard to read.
const ODD: &str = r#"CREATE SCHEMA "Tö.n; e";
CREATE TABLE "Tö.n; e"."sel""ect; Type: INDEX; Schema: x; Owner: y" ("Fr. om" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, x serial, t text DEFAULT ';--');
INSERT INTO "Tö.n; e"."sel""ect; Type: INDEX; Schema: x; Owner: y" (t) SELECT 'n' FROM generate_series(1, 7);
COMMENT ON COLUMN "Tö.n; e"."sel""ect; Type: INDEX; Schema: x; Owner: y"."Fr. om" IS E'multi\n;\n--\n-- Name: z; Type: INDEX; Schema: a; Owner: b\n--\n';
CREATE TABLE "Tö.n; e".orders (a int);
INSERT INTO "Tö.n; e".orders VALUES (1), (2);
COMMENT ON SCHEMA "Tö.n; e" IS 'a schema';
GRANT USAGE ON SCHEMA "Tö.n; e" TO PUBLIC;
CREATE VIEW shop.v AS SELECT id, note FROM shop.orders GROUP BY id;
COMMENT ON COLUMN shop.v.id IS 'a column';
CREATE MATERIALIZED VIEW shop.mv AS SELECT id, note FROM shop.orders GROUP BY id;
CREATE UNIQUE INDEX ON shop.mv (id);
CREATE RULE ru AS ON UPDATE TO shop.items WHERE OLD.id > 5 DO ALSO (SELECT 1; SELECT 2);
ALTER TABLE shop.orders DISABLE TRIGGER stamp;
CREATE TYPE ct AS (a int, b text);
COMMENT ON COLUMN ct.a IS 'of a type';
CREATE TABLE ranges (at date, v int, PRIMARY KEY (at)) PARTITION BY RANGE (at);
CREATE TABLE ranges_24 PARTITION OF ranges FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE INDEX rv ON ranges (v);
INSERT INTO ranges SELECT date '2024-03-01' + n, n FROM generate_series(1, 9) n;
CREATE SEQUENCE used;
COMMENT ON SEQUENCE used IS 'a sequence';
CREATE FUNCTION shop.rowf(shop.orders) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE dp(a int) LANGUAGE sql BEGIN ATOMIC INSERT INTO public.ranges VALUES (now(), a); SELECT CASE WHEN a > 1 THEN 1 ELSE 2 END; END"#;

#[test]
fn what_comes_is_what_pg_dump_takes_for_the_same_patterns() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&cluster, NEEDED)?;
        statements(&cluster, TABLES)?;
        // Citus takes no view that relies on a key.
        let by_key =
            if engine == Engine::Citus { "GROUP BY id, note;\n" } else { "GROUP BY id;\n" };
        statements(&cluster, &ODD.replace("GROUP BY id;\n", by_key))?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let port = cluster.coordinator().port();
        run(&mut dump_command(port, &dir, &[])).expect(0);
        let theirs = |words: &[&str]| entries(&cluster, "postgres", words);

        for (needed, words, tables) in [
            (NEEDED, &["-t", "shop.orders", "-t", "shop.customers", "-t", "shop.items"][..], 3),
            (NEEDED, &["-t", "shop.*", "-T", "shop.mv"], 3),
            ("", &["-n", "shop"], 3),
            ("", &["-n", "\"Tö.n; e\"", "-n", "SHOP"], 5),
            (
                "CREATE SCHEMA \"Tö.n; e\"",
                &["-t", "*.\"sel\"\"ect; Type: INDEX; Schema: x; Owner: y\""],
                1,
            ),
            ("", &["-t", "ranges*", "-t", "used"], 2),
            ("", &["-N", "\"T\"*", "-T", "items", "-T", "behind", "-T", "shop.item*"], 4),
            ("", &["-n", "public", "-s", "-T", "used"], 3),
        ] {
            drop(common::second_cluster(&cluster, false)?);
            let mut second = cluster.coordinator().connect_params().database("second").connect()?;
            second.batch_execute(needed).expect("what is needed");
            if engine == Engine::Embedded {
                let mut there = cluster.worker(1).connect_params().database("second").connect()?;
                there.batch_execute(needed).expect("what is needed");
            }
            let before = entries(&cluster, "second", &[]);
            let mut command = restore_command_of("second", port, &dir, words);
            command.args(["--into-non-empty", "--json"]);
            let ended = run(&mut command);
            let said: Value =
                serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{words:?}: {ended:?}"));
            assert_eq!(said["tables"], tables, "{words:?}: {said}");
            let left_out = pasted(&findings(&ended.out));
            assert_eq!(
                ended.code,
                Some(if said["findings"] == Value::Array(vec![]) { 0 } else { 3 }),
                "{ended:?}"
            );
            let mut is: Vec<String> = entries(&cluster, "second", &[]);
            is.retain(|entry| !before.contains(entry));
            // What is left out is named, and is what pg_dump has more.
            let mut expected = theirs(words);
            if words.contains(&"-N") {
                // Of the whole of a database pg_dump has its extensions.
                expected.retain(|entry| !before.contains(entry));
            }
            // Every database has it, and so the dump of all does not make it.
            expected.retain(|entry| {
                !entry.starts_with("public; Type: SCHEMA") && !entry.starts_with("SCHEMA public;")
            });
            // Extended statistics come with their table, which pg_dump forgets where tables are named.
            if is.iter().any(|entry| entry.starts_with("orders; Type: TABLE; Schema: shop"))
                && words.contains(&"-t")
            {
                let all = theirs(&[]).into_iter();
                expected.extend(all.filter(|entry| entry.starts_with("st; Type: STATISTICS")));
                expected.sort();
            }
            let named = |entry: &String| {
                let statement =
                    entry.lines().skip(1).map(str::trim_start).collect::<Vec<_>>().join(" ");
                left_out.contains(&statement)
            };
            expected.retain(|entry| !named(entry));
            assert_eq!(is, expected, "{words:?}");
            assert!(!is.is_empty(), "{words:?} shows nothing");
            if !words.contains(&"-s") && words.contains(&"\"Tö.n; e\"") {
                let sql = "SELECT count(*) FROM \"Tö.n; e\".\"sel\"\"ect; Type: INDEX; Schema: x; Owner: y\"";
                assert_eq!(second.query_one(sql, &[]).expect("rows").get::<_, i64>(0), 7);
                let sql = "SELECT count(*) FROM shop.mv";
                assert_eq!(second.query_one(sql, &[]).expect("rows").get::<_, i64>(0), 50);
            }
            drop(second);
            for node in cluster.nodes() {
                node.execute("DROP DATABASE second WITH (FORCE)")?;
            }
        }
        Ok(())
    });
}

#[test]
fn rows_alone_and_the_schema_alone_come_where_that_is_asked_for() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&source, NEEDED)?;
        statements(&source, TABLES)?;
        distributed(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let (dir, schema) = (folder.path().join("dump"), folder.path().join("schema"));
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        run(&mut dump_command(source.coordinator().port(), &schema, &["-s"])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        run(&mut restore_command(port, &schema, &["-a"])).expect(2).complains_of(&["has no rows"]);
        run(&mut restore_command(port, &dir, &["-a", "-t", "d_first"]))
            .expect(1)
            .complains_of(&["public.d_first is not in the database"]);
        run(&mut restore_command(port, &dir, &["-s"])).expect(0);
        let count = |table: &str| value(&target, &format!("SELECT count(*) FROM {table}"));
        assert_eq!(target.read_all_shards("d_first", "SELECT id FROM %s")?.len(), 0);
        assert_eq!(
            (count("shop.orders")?, value(&target, "SELECT last_value FROM shop.orders_id_seq")?),
            ("0".into(), "1".into())
        );
        run(&mut restore_command(port, &dir, &["-a", "-n", "shop", "-T", "shop.items"]))
            .expect(3)
            .complains_of(&[]);
        assert_eq!((count("shop.orders")?, count("shop.items")?), ("50".into(), "0".into()));
        assert_eq!(value(&target, "SELECT last_value FROM shop.orders_id_seq")?, "50");
        run(&mut restore_command(port, &dir, &["-a", "-t", "orders"]))
            .expect(1)
            .complains_of(&["shop.orders", "has rows already"]);
        run(&mut restore_command(port, &dir, &["-a", "-t", "d_*", "-t", "items"])).expect(0);
        assert_eq!(
            (target.read_all_shards("d_second", "SELECT id FROM %s")?.len(), count("shop.items")?),
            (30, "50".into())
        );
        run(&mut restore_command(port, &dir, &["-a", "--create"])).expect(2);
        Ok(())
    });
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_written() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&source, NEEDED)?;
        statements(&source, TABLES)?;
        distributed(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let (dir, odd) = (folder.path().join("dump"), folder.path().join("odd"));
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        for (words, code, said) in [
            (
                &["-t", "nothing"][..],
                2,
                &["nothing matches --table nothing", "names in the dump"][..],
            ),
            (
                &["-t", "orders", "-T", "\"ORDERS\""],
                2,
                &["nothing matches --exclude-table \"ORDERS\""],
            ),
            (&["-n", "none"], 2, &["nothing matches --schema none"]),
            (&["-N", "shop.orders"], 2, &["too many parts"]),
            (&["-t", "(o)rders\\1"], 2, &["is not known here"]),
            (&["-t", "a", "-n", "b"], 2, &["cannot be used with"]),
            (&["-s", "-a"], 2, &["cannot be used with"]),
            // Its schema is not there; its trigger's function comes after the rows.
            (&["-t", "shop.orders"], 1, &["schema \"shop\" does not exist", "TABLE shop.orders"]),
        ] {
            run(&mut restore_command(port, &dir, words)).expect(code).complains_of(said);
        }
        everywhere(&target, "CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('sad', 'glad')")?;
        let words = ["-t", "shop.orders", "--into-non-empty"];
        let ended = run(&mut restore_command(port, &dir, &words)).expect(1);
        let ended = ended.complains_of(&[
            "TRIGGER shop.orders stamp",
            "shop.stamp() does not exist",
            "schema/post-data.sql, line ",
        ]);
        assert!(!ended.err.contains("--resume"), "{ended:?}");
        for node in target.nodes() {
            let made = "SELECT relname FROM pg_class WHERE relname IN ('orders', 'progress')
                UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'citus_fence_restore'";
            assert!(node.query(made)?.is_empty());
        }

        // An entry that is not understood is no guess; where all is restored, nobody has to understand it.
        copy(&dir, &odd);
        append(&odd, "CREATE TABLE public.made_by_it ()");
        run(&mut restore_command(port, &odd, &["-t", "d_first", "--into-non-empty"]))
            .expect(1)
            .complains_of(&[
                "schema/post-data.sql, line ",
                "cannot be told",
                "Name: x; Type: RULE",
            ]);
        everywhere(&target, "DROP SCHEMA shop CASCADE")?;
        run(&mut restore_command(port, &odd, &[])).expect(0);
        value(&target, "SELECT 1 FROM pg_class WHERE relname = 'made_by_it'")?;
        Ok(())
    });
}

#[test]
fn a_selection_is_gone_on_with_by_the_same_one_alone() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        everywhere(&source, NEEDED)?;
        statements(&source, TABLES)?;
        distributed(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        let gate = Gate::of("psql");
        let words = ["-t", "d_second", "-t", "d_first", "--bindir", gate.bindir()];
        let mut running = start(&mut restore_command(port, &dir, &words));
        gate.wait(&mut running)?;
        let pid = Pid::from_raw(i32::try_from(running.child().id()).expect("a number"));
        kill(pid, Signal::SIGTERM).expect("told");
        running.ended()?.expect(1);
        test_cluster::wait_until("its sessions to end", PATIENCE, || {
            let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'citus-fence'";
            target.coordinator().query(sql).ok().filter(Vec::is_empty)
        })?;
        gate.open();
        for words in [&["-t", "d_first"][..], &[], &["-t", "d_first", "-t", "d_second", "-s"]] {
            let words = [words, &["--resume"]].concat();
            run(&mut restore_command(port, &dir, &words))
                .expect(1)
                .complains_of(&["was begun with --table=d_first --table=d_second", "the same"]);
        }
        run(&mut restore_command(port, &dir, &["-t", "d_first", "-t", "d_second"]))
            .expect(1)
            .complains_of(&["was begun and not ended"]);
        let words = ["-t", "d_first", "-t", "d_second", "--resume", "--json"];
        let ended = run(&mut restore_command(port, &dir, &words)).expect(0);
        assert!(
            ended.out.contains("\"resumed\":true") && ended.out.contains("\"tables\":2"),
            "{ended:?}"
        );
        assert_eq!(target.read_all_shards("d_second", "SELECT id FROM %s")?.len(), 30);
        assert!(
            target
                .coordinator()
                .query("SELECT 1 FROM pg_namespace WHERE nspname = 'shop'")?
                .is_empty()
        );
        Ok(())
    });
}
