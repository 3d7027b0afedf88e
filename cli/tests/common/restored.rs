//! A cluster with every kind of table, and what has to be the same of it in a restored one.

use std::fs;
use std::path::Path;
use std::process::Command;

use fence_tests::{Cluster, Engine, Result};
use test_cluster::postgres::Client;

use super::{command, manifest};

/// `citus-fence restore-dump` of a directory into a port's database, with more words, and not yet run.
pub fn restore_command(port: u16, dir: &Path, more: &[&str]) -> Command {
    restore_command_of("postgres", port, dir, more)
}

/// The same into another database.
pub fn restore_command_of(database: &str, port: u16, dir: &Path, more: &[&str]) -> Command {
    let mut command = command(&["restore-dump", "-h", test_cluster::HOST, "-p", &port.to_string()]);
    command.args(["-U", test_cluster::SUPERUSER, "-d", database]).args(more);
    if !more.contains(&"--bindir") {
        let installation = test_cluster::Installation::current().expect("PostgreSQL");
        command.arg("--bindir").arg(installation.bindir());
    }
    command.arg(dir);
    command
}

/// What both engines have, one statement each.
const LOCAL: &str = r#"CREATE SCHEMA "Töne""#;

const LOCAL_TABLES: &str = r#"CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "Töne"."sel ect" ("from" int PRIMARY KEY, "Größe %s" text, b bytea, c text[], d jsonb, m mood);
INSERT INTO "Töne"."sel ect" SELECT n, E'a\tb\\.\n' || n, '\x00ff0a5c', ARRAY['x', NULL], '{"a": 1}', 'glad' FROM generate_series(1, 40) n;
INSERT INTO "Töne"."sel ect" VALUES (0, '\.', NULL, '{}', NULL, NULL);
CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c bigint GENERATED ALWAYS AS IDENTITY, p positive);
INSERT INTO generated (a, p) SELECT n, n FROM generate_series(1, 10) n;
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE parent (a int);
INSERT INTO parent SELECT generate_series(1, 5);
CREATE TABLE child (x int) INHERITS (parent);
INSERT INTO child VALUES (6, 1);
CREATE TABLE ranges (at date, v int) PARTITION BY RANGE (at);
CREATE TABLE ranges_2024 PARTITION OF ranges FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO ranges SELECT '2024-03-04', n FROM generate_series(1, 7) n;
CREATE TABLE row_security (a int);
INSERT INTO row_security VALUES (1), (2);
ALTER TABLE row_security ENABLE ROW LEVEL SECURITY;
ALTER TABLE row_security FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON row_security USING (false);
CREATE TABLE keyed (id bigserial PRIMARY KEY, other int UNIQUE);
INSERT INTO keyed (other) SELECT generate_series(1, 20);
CREATE TABLE pointing (id int REFERENCES keyed (other));
INSERT INTO pointing VALUES (1), (20);
CREATE MATERIALIZED VIEW z_first AS SELECT sum(a) AS s FROM parent;
CREATE MATERIALIZED VIEW a_second AS SELECT s + 1 AS s FROM z_first;
CREATE MATERIALIZED VIEW never AS SELECT 1 AS s WITH NO DATA;
CREATE SEQUENCE used;
SELECT nextval('used') FROM generate_series(1, 33);
CREATE TABLE fired (what text);
CREATE FUNCTION fire() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO public.fired VALUES (tg_tag); END $f$;
CREATE EVENT TRIGGER fire ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA', 'CREATE TABLE', 'DROP SCHEMA', 'REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION fire()"#;

/// What only Citus has.
const ONLY_CITUS: &str = r#"CREATE EXTENSION IF NOT EXISTS citus_columnar;
CREATE TABLE ref (id int PRIMARY KEY);
SELECT create_reference_table('ref');
INSERT INTO ref SELECT generate_series(1, 9);
CREATE TABLE single (id int PRIMARY KEY, r int REFERENCES ref (id));
SELECT create_distributed_table('single', NULL, colocate_with := 'none');
INSERT INTO single VALUES (4, 4);
CREATE TABLE single_too (id int);
SELECT create_distributed_table('single_too', NULL, colocate_with := 'single');
INSERT INTO single_too VALUES (5);
CREATE TABLE known (id int REFERENCES ref (id));
INSERT INTO known VALUES (1), (2);
CREATE TABLE added (id int);
SELECT citus_add_local_table_to_metadata('added');
INSERT INTO added VALUES (7);
CREATE TABLE parted (id bigint, at date, r int REFERENCES ref (id), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_2024 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parted_2025 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
SELECT create_distributed_table('parted', 'id', colocate_with := 'm_anchor');
INSERT INTO parted SELECT n, date '2024-02-03' + n * 20, n % 9 + 1 FROM generate_series(1, 30) n;
CREATE INDEX only_parent ON parted (r);
CREATE TYPE colour AS ENUM ('red', 'black', 'blue', 'white', 'pink');
CREATE TABLE by_enum (c colour, n int);
SELECT create_distributed_table('by_enum', 'c', shard_count := 8, colocate_with := 'none');
INSERT INTO by_enum SELECT c, n FROM unnest(enum_range(NULL::colour)) c, generate_series(1, 3) n;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE columns (id int, v text) USING columnar;
ALTER TABLE columns SET (columnar.compression = lz4, columnar.stripe_row_limit = 2000, columnar.chunk_group_row_limit = 1000);
SELECT create_distributed_table('columns', 'id', shard_count := 4, colocate_with := 'none');
INSERT INTO columns SELECT n, 'v' || n FROM generate_series(1, 100) n;
CREATE FUNCTION with_key(a bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1';
SELECT create_distributed_function('with_key(bigint)', 'a', colocate_with := 'm_anchor');
CREATE FUNCTION of_row(r ref) RETURNS int LANGUAGE sql AS 'SELECT r.id';
CREATE VIEW seen AS SELECT count(*) AS n FROM m_anchor;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM m_anchor;
ALTER DATABASE postgres SET citus.enable_unsafe_triggers = on;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.v := NEW.v || '!'; RETURN NEW; END $f$;
CREATE TRIGGER noted BEFORE INSERT ON m_anchor FOR EACH ROW EXECUTE FUNCTION noted();
SET citus.enable_schema_based_sharding = on; CREATE SCHEMA tenant; CREATE TABLE tenant.t (id bigserial PRIMARY KEY, v text);
INSERT INTO tenant.t (v) SELECT 'x' || n FROM generate_series(1, 11) n"#;

/// Distributed tables of both engines: three of one group whose first by name is not the one that the group was made
/// for, one of another number of shards, one by a text.
pub const HASHED: [(&str, &str, &str, &str); 4] = [
    (
        "m_anchor",
        "id",
        "CREATE TABLE m_anchor (id bigserial PRIMARY KEY, v text, n int DEFAULT 7)",
        "6",
    ),
    ("a_joined", "id", "CREATE TABLE a_joined (id bigint, v text)", "6"),
    (
        "z_joined",
        "id",
        "CREATE TABLE z_joined (id bigint PRIMARY KEY, g bigint GENERATED ALWAYS AS (id + 1) STORED)",
        "6",
    ),
    ("by_text", "k", "CREATE TABLE by_text (k text, at timestamptz)", "4"),
];

/// Makes the source.
pub fn create(cluster: &Cluster) -> Result<()> {
    let coordinator = cluster.coordinator();
    let citus = cluster.engine() == Engine::Citus;
    for (number, (name, column, ddl, shards)) in HASHED.iter().enumerate() {
        match citus {
            true => coordinator.execute(ddl)?,
            false => cluster.execute_everywhere(ddl)?,
        }
        let with = if matches!(number, 1 | 2) { "m_anchor" } else { "none" };
        let count = if citus && with != "none" {
            String::new()
        } else {
            format!(", shard_count := {shards}")
        };
        coordinator.execute(&format!(
            "SELECT create_distributed_table('{name}'::regclass, '{column}', colocate_with := '{with}'{count})"
        ))?;
    }
    let write = |table: &str, key: &str, sql: String| {
        coordinator.execute(&cluster.shard_sql(table, key, &sql))
    };
    for n in 1..=60 {
        let id = n.to_string();
        write("m_anchor", &id, format!("INSERT INTO %s (id, v) VALUES ({n}, 'v{n}')"))?;
        write("a_joined", &id, format!("INSERT INTO %s VALUES ({n}, E'a\\tb{n}')"))?;
        write("z_joined", &id, format!("INSERT INTO %s (id) VALUES ({n})"))?;
        write(
            "by_text",
            &format!("k{n}"),
            format!("INSERT INTO %s VALUES ('k{n}', '2024-06-01 00:00+02')"),
        )?;
    }
    coordinator.execute("SELECT setval('m_anchor_id_seq', 60)")?;
    if citus {
        ONLY_CITUS.split(";\n").try_for_each(|statement| coordinator.execute(statement))?;
    }
    coordinator.execute(LOCAL)?;
    LOCAL_TABLES.split(";\n").try_for_each(|statement| coordinator.execute(statement))
}

/// The coordinator's tables of both engines.
const PLAIN: [&str; 12] = [
    r#""Töne"."sel ect""#,
    "generated",
    "no_columns",
    "parent",
    "child",
    "ranges",
    "row_security",
    "keyed",
    "pointing",
    "z_first",
    "a_second",
    "fired",
];

const CITUS_TABLES: [&str; 15] = [
    "ref",
    "single",
    "single_too",
    "known",
    "added",
    "parted",
    "parted_2024",
    "parted_2025",
    "by_enum",
    "columns",
    "tenant.t",
    "m_anchor",
    "a_joined",
    "z_joined",
    "by_text",
];

/// A number of rows and a hash of all of them, in order.
fn content(client: &mut Client, table: &str) -> String {
    let sql = format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(t, E'\\n' ORDER BY t COLLATE \"C\")), '') FROM (SELECT x::text AS t FROM ONLY {table} x) y"
    );
    let sql = if table.contains("ranges") { sql.replace("ONLY ", "") } else { sql };
    let sql = if CITUS_TABLES.contains(&table) { sql.replace("ONLY ", "") } else { sql };
    client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{table}: {error:?}")).get(0)
}

/// All that has to be the same, a line each: the rows of every table as every node sees them, groups, numbers of
/// shards, constraints, indexes, functions.
pub fn portrait(cluster: &Cluster) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut coordinator = cluster.connect(0)?;
    coordinator.batch_execute("SET TimeZone = 'UTC'").expect("a setting");
    for table in PLAIN {
        lines.push(format!("{table}: {}", content(&mut coordinator, table)));
    }
    for (table, _, _, _) in HASHED.iter().filter(|_| cluster.engine() == Engine::Embedded) {
        let mut rows: Vec<String> = cluster
            .read_all_shards(table, "SELECT x::text FROM %s x")?
            .into_iter()
            .map(|row| format!("{:?}", row.values))
            .collect();
        rows.sort();
        lines.push(format!("{table}: {} {rows:?}", rows.len()));
    }
    if cluster.engine() == Engine::Citus {
        for table in CITUS_TABLES {
            let mut seen = Vec::new();
            for node in 0..cluster.nodes().len() {
                let mut client = cluster.connect(node)?;
                client.batch_execute("SET TimeZone = 'UTC'").expect("a setting");
                seen.push(content(&mut client, table));
            }
            seen.dedup();
            assert_eq!(seen.len(), 1, "{table} is not the same from every node: {seen:?}");
            lines.push(format!("{table}: {}", seen[0]));
        }
        for sql in [
            "SELECT string_agg(format('%s %s %s %s', table_name, citus_table_type, distribution_column, shard_count), E'\\n'
                      ORDER BY table_name::text) FROM citus_tables",
            "SELECT string_agg(t, ' ' ORDER BY t) FROM (SELECT string_agg(table_name::text, '+' ORDER BY table_name::text) AS t
                FROM citus_tables GROUP BY colocation_id, citus_table_type) x",
            "SELECT string_agg(schema_name::text, ' ') FROM citus_schemas",
            "SELECT string_agg(format('%s %s %s %s', relation, compression, stripe_row_limit, chunk_group_row_limit), ' ') FROM columnar.options
              WHERE relation::text = 'columns'",
            "SELECT string_agg(format('%s %s', objid::regprocedure, distribution_argument_index), ' ' ORDER BY objid::regprocedure::text)
               FROM pg_dist_object WHERE classid = 'pg_proc'::regclass AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = pg_dist_object.objid AND d.deptype = 'e')
                AND objid::regprocedure::text <> 'of_row(ref)'",
            "SELECT n::text FROM counted",
        ] {
            lines.push(coordinator.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get::<_, Option<String>>(0).unwrap_or_default());
        }
    }
    for sql in [
        "SELECT string_agg(format('%s %s %s %s', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid)), E'\\n'
                  ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE connamespace::regnamespace::text IN ('public', '\"Töne\"', 'tenant')
            AND conrelid::regclass::text !~ '_[0-9]{6}$'",
        "SELECT string_agg(indexdef, E'\\n' ORDER BY indexdef) FROM pg_indexes WHERE schemaname IN ('public', 'Töne', 'tenant') AND tablename !~ '_[0-9]{6}$'",
        "SELECT string_agg(evtname, ' ') FROM pg_event_trigger",
        "SELECT string_agg(pg_get_triggerdef(oid), ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = to_regclass('m_anchor') AND NOT tgisinternal
            AND tgname !~ '^truncate'",
        "SELECT string_agg(format('%s %s', relname, relispopulated), ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm'",
        "SELECT string_agg(format('%s %s %s', relname, relrowsecurity, relforcerowsecurity), ' ' ORDER BY relname) FROM pg_class
          WHERE relname = 'row_security'",
    ] {
        lines.push(coordinator.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get::<_, Option<String>>(0).unwrap_or_default());
    }
    Ok(lines)
}

/// Fails where two portraits differ, with the lines that do.
pub fn same(was: &[String], is: &[String]) {
    assert_eq!(was.len(), is.len());
    for (was, is) in was.iter().zip(is) {
        assert_eq!(was, is);
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

/// Changes the manifest.
pub fn edit(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = manifest(dir);
    change(&mut value);
    fs::write(dir.join("manifest.json"), value.to_string()).expect("a manifest");
}

/// Appends an entry to the schema that comes after the data, as pg_dump would have written it.
pub fn append(dir: &Path, sql: &str) {
    let path = dir.join("schema/post-data.sql");
    let mut text = fs::read_to_string(&path).expect("the schema");
    let end = text.rfind("--\n-- PostgreSQL database dump complete").expect("its end");
    let first = text.find("--\n-- Name: ").unwrap_or(end);
    text.insert_str(
        first,
        &format!("--\n-- Name: x; Type: RULE; Schema: public; Owner: x\n--\n\n{sql};\n\n"),
    );
    fs::write(&path, &text).expect("the schema");
    let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum").stdout;
    let sum = String::from_utf8(sum).expect("a sum")[..64].to_owned();
    edit(dir, |manifest| {
        let files = manifest["schema"].as_array_mut().expect("files");
        let file =
            files.iter_mut().find(|file| file["path"] == "schema/post-data.sql").expect("it");
        file["bytes"] = text.len().into();
        file["sha256"] = sum.into();
    });
}
