//! Selection in `citus-fence dump`: the same tables as pg_dump takes for the same patterns, and only those.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::restored::restore_command;
use common::{dump_command, manifest, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};
use serde_json::Value;

/// Tables of the coordinator, in several schemas and with names that patterns have to be careful with.
const TABLES: [&str; 10] = [
    "public.orders",
    "public.\"Orders\"",
    "public.order_1",
    "public.orderx1",
    "shop.orders",
    "shop.log_1",
    "shop.log_2",
    "\"Shop\".\"a.b\"",
    "\"a$b\".\"c*d\"",
    "hidden.orders",
];

fn create(cluster: &Cluster) -> Result<()> {
    let coordinator = cluster.coordinator();
    for schema in ["shop", "\"Shop\"", "\"a$b\"", "hidden"] {
        // One after the other: the embedded catalog carries none of it.
        match cluster.engine() {
            Engine::Citus => coordinator.execute(&format!("CREATE SCHEMA {schema}"))?,
            Engine::Embedded => cluster.execute_everywhere(&format!("CREATE SCHEMA {schema}"))?,
        }
    }
    for table in TABLES {
        coordinator.execute(&format!("CREATE TABLE {table} (id bigserial, v int)"))?;
        coordinator.execute(&format!("INSERT INTO {table} (v) VALUES (1), (2)"))?;
    }
    cluster.create_distributed("CREATE TABLE shop.spread (id bigint)", "shop.spread", "id", 4)?;
    for id in 1..=9 {
        coordinator.execute(&cluster.shard_sql(
            "shop.spread",
            id,
            &format!("INSERT INTO %s VALUES ({id})"),
        ))?;
    }
    // The one that points is the larger one, and so the first that is loaded.
    coordinator.execute(
        "CREATE TABLE pointed (id int PRIMARY KEY); INSERT INTO pointed SELECT generate_series(1, 9);
         CREATE TABLE pointing (id int REFERENCES pointed, v text);
         INSERT INTO pointing SELECT n % 9 + 1, repeat('x', 99) FROM generate_series(1, 90) n",
    )?;
    coordinator.execute("ALTER ROLE postgres SET search_path = shop, public")
}

/// What the real pg_dump dumps rows of, among the coordinator's own tables.
fn pg_dump(cluster: &Cluster, words: &[&str]) -> BTreeSet<String> {
    let installation = test_cluster::Installation::current().expect("PostgreSQL");
    let mut command = installation.command("pg_dump").expect("pg_dump");
    let conninfo = cluster.coordinator().connect_params().conninfo();
    let output =
        command.args(["--data-only", "-d", &conninfo]).args(words).output().expect("pg_dump");
    let text = String::from_utf8(output.stdout).expect("text");
    let tables = text
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.split(" (").next().map(str::to_owned));
    tables.filter(|table| !table.contains("spread") && !table.contains("public.point")).collect()
}

/// What is in the manifest, in the same form.
fn dumped(manifest: &Value) -> BTreeSet<String> {
    let quoted = |name: &str| match name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    };
    let files = manifest["files"].as_array().expect("files");
    let name = |file: &Value| {
        format!(
            "{}.{}",
            quoted(file["schema"].as_str().unwrap_or("")),
            quoted(file["table"].as_str().unwrap_or(""))
        )
    };
    files
        .iter()
        .map(name)
        .filter(|table| !table.contains("spread") && !table.contains("public.point"))
        .collect()
}

fn dump(cluster: &Cluster, dir: &Path, words: &[&str]) -> Value {
    run(&mut dump_command(cluster.coordinator().port(), dir, words)).expect(0);
    manifest(dir)
}

#[test]
fn patterns_mean_what_they_mean_to_pg_dump() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&cluster)?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut some = 0;
        for (number, words) in [
            &["-t", "orders"][..],
            &["-t", "ORDERS"],
            &["-t", "\"Orders\""],
            &["-t", "order_1"],
            &["-t", "order?1"],
            &["-t", "*.orders"],
            &["-t", "public.o*", "-t", "shop.log_1"],
            &["-t", "s*.*", "-T", "*.orders", "-N", "shop"],
            &["-t", "\"Shop\".\"a.b\""],
            &["-t", "\"a$b\".\"c*d\""],
            &["-t", "a$b.*"],
            &["-t", "log_(1|2)"],
            &["-t", "shop.log_[12]"],
            &["-n", "shop"],
            &["-n", "SHOP"],
            &["-n", "\"Shop\""],
            &["-n", "sh*", "-T", "log_*"],
            &["-n", "[ps]*", "-n", "hidden", "-N", "pg*"],
            &["-N", "s*"],
            &["-T", "orders"],
            &["-T", "*.orders", "-N", "a$b"],
        ]
        .into_iter()
        .enumerate()
        {
            let theirs = pg_dump(&cluster, words);
            let dir = folder.path().join(number.to_string());
            let found = dump(&cluster, &dir, words);
            assert_eq!(dumped(&found), theirs, "{words:?}");
            some += theirs.len();
            // What is said of tables is what there is of them.
            let schema =
                std::fs::read_to_string(dir.join("schema/pre-data.sql")).expect("the schema");
            for table in found["tables"].as_array().expect("tables") {
                assert!(schema.contains(table["name"].as_str().expect("a name")), "{table}");
            }
            let sequences = found["sequences"].as_array().expect("sequences").iter();
            let of = sequences.filter(|sequence| sequence["groupid"] == 0).count();
            assert!(of >= theirs.len(), "{found}");
            assert!(!found["selection"].is_null());
        }
        assert!(some > 40, "{some} tables show nothing");
        let spread = dump(&cluster, &folder.path().join("spread"), &["-t", "spread"]);
        assert_eq!(
            (spread["tables"].as_array().map(Vec::len), spread["files"].as_array().map(Vec::len)),
            (Some(1), Some(4))
        );
        let all = dump(&cluster, &folder.path().join("all"), &[]);
        assert!(all["selection"].is_null() && dumped(&all).len() == TABLES.len());

        // What is selected can be restored by itself.
        let (whole, part) = (folder.path().join("whole"), folder.path().join("spread"));
        dump(&cluster, &whole, &["-n", "shop", "-T", "log_*"]);
        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        run(&mut restore_command(port, &whole, &[])).expect(0);
        assert_eq!(target.read_all_shards("shop.spread", "SELECT id FROM %s")?.len(), 9);
        let tables = target.coordinator().query(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(orders|log_|order_)'
            AND relnamespace::regnamespace::text IN ('shop', 'public', 'hidden')",
        )?;
        assert_eq!(tables, [[Some("orders".to_owned())]]);
        drop(target);
        // A table by itself goes into a schema that somebody has made.
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        let missing = run(&mut restore_command(port, &part, &[])).expect(1);
        missing.complains_of(&["schema \"shop\" does not exist"]);
        match engine {
            Engine::Citus => target.coordinator().execute("CREATE SCHEMA shop")?,
            Engine::Embedded => target.execute_everywhere("CREATE SCHEMA shop")?,
        }
        run(&mut restore_command(port, &part, &[]))
            .expect(1)
            .complains_of(&["is not empty", "schema shop"]);
        run(&mut restore_command(port, &part, &["--into-non-empty"])).expect(0);
        assert_eq!(target.read_all_shards("shop.spread", "SELECT id FROM %s")?.len(), 9);

        // What matches nothing is an error, and leaves nothing.
        for (words, said) in [
            (&["-t", "nothing"][..], "nothing matches --table nothing"),
            (&["-T", "\"ORDERS\""], "nothing matches --exclude-table \"ORDERS\""),
            (&["-n", "nothing"], "nothing matches --schema nothing"),
            (&["-N", "shop.orders"], "has too many parts"),
            (&["-t", "hidden_orders|x"], "nothing matches"),
        ] {
            let dir = folder.path().join("refused");
            let ended = run(&mut dump_command(cluster.coordinator().port(), &dir, words)).expect(2);
            ended.complains_of(&[said]);
            assert!(!dir.exists());
        }
        run(&mut dump_command(1, &folder.path().join("x"), &["-s", "-a"])).expect(2);
        Ok(())
    });
}

/// pg_dump leaves out the schema that every database has, but not where it is asked for it.
#[test]
fn the_schema_public_by_itself_goes_into_a_new_database() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        dump(&source, &dir, &["-n", "public"]);
        let schema = std::fs::read_to_string(dir.join("schema/pre-data.sql")).expect("the schema");
        assert!(schema.contains("CREATE SCHEMA public;"), "pg_dump does not say it any more");
        drop(source);

        for (words, tables) in [(&[][..], 6), (&["-n", "public", "-T", "order*"], 3)] {
            let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
            let port = target.coordinator().port();
            run(&mut restore_command(port, &dir, words)).expect(0);
            let count = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
                         AND relname ~ '^(order|Order|point)'";
            assert_eq!(target.coordinator().query(count)?, [[Some(tables.to_string())]]);
        }
        Ok(())
    });
}

#[test]
fn schema_and_data_can_be_dumped_and_restored_one_after_the_other() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let (schema, data) = (folder.path().join("schema"), folder.path().join("data"));
        let found = dump(&source, &schema, &["-s"]);
        assert_eq!(
            (found["files"].as_array().map(Vec::len), found["schema"].as_array().map(Vec::len)),
            (Some(0), Some(2))
        );
        assert_eq!(found["selection"]["schema_only"], true);
        let found = dump(&source, &data, &["-a"]);
        assert_eq!(found["schema"].as_array().map(Vec::len), Some(0));
        assert_eq!(dumped(&found).len(), TABLES.len());
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        // There are no tables yet.
        run(&mut restore_command(port, &data, &[]))
            .expect(1)
            .complains_of(&["is not in the database"]);
        run(&mut restore_command(port, &schema, &[])).expect(0);
        let rows = |table: &str| -> Result<Option<String>> {
            Ok(target.coordinator().query(&format!("SELECT count(*) FROM {table}"))?[0][0].clone())
        };
        assert_eq!(rows("shop.log_1")?.as_deref(), Some("0"));
        run(&mut restore_command(port, &data, &["--jobs", "1"])).expect(0);
        assert_eq!(rows("pointing")?.as_deref(), Some("90"));
        for table in TABLES {
            assert_eq!(rows(table)?.as_deref(), Some("2"), "{table}");
        }
        let spread = target.read_all_shards("shop.spread", "SELECT id FROM %s")?;
        assert_eq!(spread.len(), 9);
        let next = target.coordinator().query("SELECT nextval('shop.log_1_id_seq')")?;
        assert_eq!(next[0][0].as_deref(), Some("3"));
        // What has rows is not loaded into again.
        run(&mut restore_command(port, &data, &[])).expect(1).complains_of(&["has rows already"]);
        Ok(())
    });
}
