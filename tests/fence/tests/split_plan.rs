//! The plan of a clone split: which shards would go, shown without changing anything.

use std::collections::{BTreeMap, BTreeSet};

use fence_tests::{Client, Cluster, Engine, Result, on_each_engine, refusal};

const REPLICA: &str = "replica.example:6000";

/// A row of the plan: its table, shard, bytes and node.
struct Row {
    table: String,
    shardid: i64,
    size: i64,
    node: String,
}

/// Two workers, a pair of colocated tables of skewed sizes, a table of its own, and on Citus a reference table.
fn cluster(engine: Engine) -> Result<Cluster> {
    let cluster = Cluster::builder(engine).workers(2).build()?;
    for table in ["one", "two"] {
        let ddl = format!("CREATE TABLE {table} (id int PRIMARY KEY, filler text)");
        cluster.create_distributed(&ddl, table, "id", 16)?;
    }
    cluster.create_distributed("CREATE TABLE other (id bigint PRIMARY KEY)", "other", "id", 6)?;
    for key in 0..40 {
        let row = format!(
            "INSERT INTO %s (id, filler)
             SELECT {key}, (SELECT string_agg(md5(n::text || '{key}'), '') FROM generate_series(1, {}) n)",
            key * 200
        );
        cluster.coordinator().execute(&cluster.shard_sql("one", key, &row))?;
    }
    if engine == Engine::Citus {
        cluster.coordinator().execute("CREATE TABLE common (id int PRIMARY KEY)")?;
        cluster.coordinator().execute("SELECT create_reference_table('common')")?;
    }
    Ok(cluster)
}

fn call(cluster: &Cluster, node: usize, strategy: &str) -> Result<String> {
    let address = cluster.coordinator().query(&format!(
        "SELECT nodename, nodeport FROM pg_dist_node WHERE nodeport = {}",
        cluster.catalog_port(node)
    ))?;
    let value = |column: usize| address[0][column].clone().unwrap_or_default();
    let (host, port) = REPLICA.split_once(':').expect("an address");
    let strategy = if strategy.is_empty() { String::new() } else { format!(", '{strategy}'") };
    Ok(format!(
        "SELECT table_name::text, shardid, shard_size, placement_node
           FROM public.get_snapshot_based_node_split_plan('{}', {}, '{host}', {port}{strategy})",
        value(0),
        value(1)
    ))
}

fn plan(cluster: &Cluster, strategy: &str) -> Result<Vec<Row>> {
    let rows = cluster.connect(0)?.query(&call(cluster, 1, strategy)?, &[]);
    let rows = rows.unwrap_or_else(|error| panic!("{}", fence_tests::words(&error)));
    Ok(rows
        .iter()
        .map(|row| Row {
            table: row.get(0),
            shardid: row.get(1),
            size: row.get(2),
            node: row.get(3),
        })
        .collect())
}

/// The groups of shards that move together, by the first shard of each, as the catalog has them.
fn groups(client: &mut Client) -> BTreeMap<i64, i64> {
    let sql = "SELECT s.shardid, min(s.shardid) OVER (PARTITION BY p.colocationid, s.shardminvalue)
                 FROM pg_dist_shard s JOIN pg_dist_partition p USING (logicalrelid)
                WHERE p.partmethod = 'h'";
    client.query(sql, &[]).expect("groups").iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The least that the fuller side can have, of all ways there are.
fn by_force(costs: &[i64]) -> i64 {
    let all: i64 = costs.iter().sum();
    (0u32..1 << costs.len())
        .map(|bits| {
            let moved: i64 =
                (0..costs.len()).filter(|n| bits >> n & 1 == 1).map(|n| costs[n]).sum();
            moved.max(all - moved)
        })
        .min()
        .unwrap_or(0)
}

#[test]
fn the_sides_are_as_equal_as_can_be_and_groups_stay_whole() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let catalog =
            "SELECT md5(string_agg(p::text, ' ' ORDER BY placementid)) FROM pg_dist_placement p";
        let before = cluster.coordinator().query_value(catalog)?;
        let rows = plan(&cluster, "by_disk_size")?;
        assert_eq!(cluster.coordinator().query_value(catalog)?, before);

        // Each placement of the source has its row, and no other.
        let on_source = cluster.coordinator().query(&format!(
            "SELECT shardid FROM pg_dist_placement JOIN pg_dist_node USING (groupid)
              WHERE nodeport = {}",
            cluster.catalog_port(1)
        ))?;
        let on_source: BTreeSet<i64> = on_source
            .iter()
            .map(|row| row[0].as_ref().expect("a shard").parse().expect("a number"))
            .collect();
        assert_eq!(rows.iter().map(|row| row.shardid).collect::<BTreeSet<_>>(), on_source);
        let (common, rows): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| row.table == "common");
        assert_eq!(common.len(), if engine == Engine::Citus { 2 } else { 0 });
        assert_eq!(common.iter().filter(|row| row.node == REPLICA).count(), common.len() / 2);
        assert_eq!(rows.len(), on_source.len() - common.len() / 2);

        // The sizes are those that the node itself tells.
        let mut source = cluster.connect(1)?;
        if engine == Engine::Citus {
            source.batch_execute("SET citus.override_table_visibility = off").expect("a setting");
        }
        for row in &rows {
            let size = format!("SELECT pg_total_relation_size('{}_{}')", row.table, row.shardid);
            assert_eq!(source.query_one(&size, &[]).expect("a size").get::<_, i64>(0), row.size);
        }

        let groups = groups(&mut cluster.connect(0)?);
        let mut costs: BTreeMap<i64, (i64, BTreeSet<bool>)> = BTreeMap::new();
        for row in &rows {
            let (cost, moves) = costs.entry(groups[&row.shardid]).or_default();
            *cost += row.size;
            moves.insert(row.node == REPLICA);
        }
        assert!(costs.values().all(|(_, moves)| moves.len() == 1), "a group was torn");
        // What Citus adds to each group.
        let base = cluster.coordinator().query_value(
            "SELECT coalesce(pg_size_bytes(current_setting('citus.rebalancer_by_disk_size_base_cost', true)), 0)",
        )?;
        let base: i64 = base.parse().expect("a size");
        let all: Vec<i64> = costs.values().map(|(cost, _)| cost + base).collect();
        let moved: i64 = costs
            .values()
            .filter(|(_, moves)| moves.contains(&true))
            .map(|(cost, _)| cost + base)
            .sum();
        let fuller = moved.max(all.iter().sum::<i64>() - moved);
        assert_eq!(fuller, by_force(&all));

        // The default strategy, and one that counts.
        let nodes =
            |rows: Vec<Row>| -> Vec<String> { rows.into_iter().map(|row| row.node).collect() };
        assert_eq!(nodes(plan(&cluster, "")?), nodes(plan(&cluster, "by_disk_size")?));
        let by_count = plan(&cluster, "by_shard_count")?;
        let moving: BTreeSet<i64> = by_count
            .iter()
            .filter(|row| row.node == REPLICA && row.table != "common")
            .map(|row| groups[&row.shardid])
            .collect();
        assert_eq!(moving.len(), all.len() / 2);
        Ok(())
    });
}

#[test]
fn a_strategy_of_ones_own() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        // A clone with a row in pg_dist_node is told apart from its source.
        let (host, port) = REPLICA.split_once(':').expect("an address");
        cluster.coordinator().execute(&format!(
            "INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, noderole)
             SELECT 77, groupid, '{host}', {port}, 'secondary' FROM pg_dist_node WHERE nodeport = {}",
            cluster.catalog_port(1)
        ))?;
        // They are found by the caller's search path, as Citus' own plans find theirs.
        cluster.coordinator().execute(
            "CREATE FUNCTION three() RETURNS float4 LANGUAGE sql AS 'SELECT 3.0::float4';
             CREATE FUNCTION cost(bigint) RETURNS float4 LANGUAGE plpgsql AS
                'BEGIN RETURN three(); END';
             CREATE FUNCTION capacity(int) RETURNS float4 LANGUAGE sql AS
                'SELECT CASE $1 WHEN 77 THEN 3.0 ELSE 1.0 END::float4';
             CREATE FUNCTION no_capacity(int) RETURNS float4 LANGUAGE sql AS
                'SELECT CASE $1 WHEN 77 THEN 0.0 ELSE 1.0 END::float4';
             CREATE FUNCTION only_one(bigint, int) RETURNS bool LANGUAGE sql AS
                'SELECT $2 <> 77 OR logicalrelid = ''one''::regclass FROM pg_dist_shard WHERE shardid = $1';
             CREATE FUNCTION not_a_number(bigint) RETURNS float4 LANGUAGE sql AS
                'SELECT ''NaN''::float4';
             CREATE FUNCTION null_cost(bigint) RETURNS float4 LANGUAGE sql AS 'SELECT NULL::float4';
             INSERT INTO pg_dist_rebalance_strategy (name, shard_cost_function, node_capacity_function,
                    shard_allowed_on_node_function, default_threshold)
             VALUES ('mine', 'cost', 'capacity', 'citus_shard_allowed_on_node_true', 0),
                    ('full', 'cost', 'no_capacity', 'citus_shard_allowed_on_node_true', 0),
                    ('only', 'cost', 'citus_node_capacity_1', 'only_one', 0),
                    ('nan', 'not_a_number', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0),
                    ('null', 'null_cost', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0)",
        )?;
        let groups = groups(&mut cluster.connect(0)?);
        let moving = |strategy: &str| -> Result<(usize, usize, BTreeSet<String>)> {
            let rows = plan(&cluster, strategy)?;
            let of = |moves: Option<bool>| {
                let chosen = rows.iter().filter(|row| {
                    row.table != "common"
                        && moves.is_none_or(|moves| (row.node == REPLICA) == moves)
                });
                chosen.map(|row| groups[&row.shardid]).collect::<BTreeSet<_>>().len()
            };
            let tables = rows
                .iter()
                .filter(|row| row.node == REPLICA && row.table != "common")
                .map(|row| row.table.clone());
            Ok((of(Some(true)), of(None), tables.collect()))
        };
        let (moved, all, _) = moving("mine")?;
        assert_eq!(all, 11, "eight of the pair and three of the other");
        assert_eq!(moved, 8, "three quarters");
        assert_eq!(moving("full")?.0, 0);
        let (moved, _, tables) = moving("only")?;
        assert_eq!(moved, 5);
        assert_eq!(tables, BTreeSet::from(["one".to_owned(), "two".to_owned()]));

        let mut client = cluster.connect(0)?;
        for (strategy, value) in [("nan", "NaN"), ("null", "NULL")] {
            let error = refusal(&mut client, &call(&cluster, 1, strategy)?);
            assert_eq!(error.code().code(), "22023", "{error:?}");
            assert!(error.message().contains(&format!("gives {value} for shard")), "{error:?}");
        }
        Ok(())
    });
}

/// They are empty on a promoted clone; what the source itself says of them counts.
#[test]
fn unlogged_shards_stay() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let moving = || -> Result<Vec<Row>> {
            let rows = plan(&cluster, "by_shard_count")?.into_iter();
            Ok(rows.filter(|row| row.node == REPLICA && row.table != "common").collect())
        };
        let first = moving()?.remove(0);
        let mut source = cluster.connect(1)?;
        if engine == Engine::Citus {
            source
                .batch_execute(
                    "SET citus.override_table_visibility = off;
                     SET citus.enable_manual_changes_to_shards = on;
                     SET citus.enable_ddl_propagation = off",
                )
                .expect("settings");
        }
        let unlogged = format!("ALTER TABLE {}_{} SET UNLOGGED", first.table, first.shardid);
        source.batch_execute(&unlogged).expect("unlogged");
        let groups = groups(&mut cluster.connect(0)?);
        let still = moving()?;
        assert!(!still.is_empty());
        assert!(still.iter().all(|row| groups[&row.shardid] != groups[&first.shardid]));

        // A sequence that would begin anew over there keeps the whole table here.
        cluster.coordinator().execute(
            "CREATE UNLOGGED SEQUENCE numbers; ALTER TABLE other ADD COLUMN n bigint;
             ALTER SEQUENCE numbers OWNED BY other.n",
        )?;
        assert!(moving()?.iter().all(|row| row.table != "other"));
        Ok(())
    });
}

#[test]
fn refusals() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let good = call(&cluster, 1, "")?;
        let mut client = cluster.connect(0)?;
        let mut refused = |sql: &str, code: &str, says: &str| {
            let error = refusal(&mut client, sql);
            let text = format!("{error:?}");
            assert_eq!(error.code().code(), code, "{text}");
            assert!(text.contains(says), "{says}: {text}");
        };
        refused(
            &call(&cluster, 1, "nobody's")?.replace("y's", "y''s"),
            "42704",
            "by_disk_size, by_shard_count",
        );
        let port = cluster.catalog_port(1).to_string();
        refused(&good.replace(&port, "1"), "22023", "there is no node");
        refused(&good.replace(&port, "NULL"), "22004", "primary_node_port");
        refused(&good.replace("6000", "NULL"), "22004", "replica_node_port");
        let itself = good.replace("'replica.example', 6000", &format!("'127.0.0.1', {port}"));
        let itself = itself.replace(
            "127.0.0.1",
            &cluster.coordinator().query_value(&format!(
                "SELECT nodename FROM pg_dist_node WHERE nodeport = {port}"
            ))?,
        );
        refused(&itself, "55000", "no replica");
        let set_active = |active: bool| {
            cluster.coordinator().execute(&format!(
                "UPDATE pg_dist_node SET isactive = {active} WHERE nodeport = {port}"
            ))
        };
        set_active(false)?;
        refused(&good, "55000", "is not active");
        set_active(true)?;
        let strategies = |default: bool| {
            cluster.coordinator().execute(&format!(
                "UPDATE pg_dist_rebalance_strategy SET default_strategy = {default} WHERE name = 'by_disk_size'"
            ))
        };
        strategies(false)?;
        refused(&good, "55000", "there is no default rebalance strategy");
        strategies(true)?;

        let elsewhere = refusal(&mut cluster.connect(2)?, &good);
        assert_eq!(elsewhere.code().code(), "55000", "{elsewhere:?}");
        cluster.coordinator().execute("CREATE ROLE nobody LOGIN")?;
        let error = cluster.coordinator().connect_as("nobody", None)?.batch_execute(&good);
        assert_eq!(error.expect_err("no right").code().map(|code| code.code()), Some("42501"));
        Ok(())
    });
}

/// The coordinator can be split, too, where it is a node like others; a node without shards has an empty plan.
#[test]
fn any_primary() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        for node in 0..2 {
            let rows = cluster.connect(0)?.query(&call(&cluster, node, "")?, &[]).expect("a plan");
            assert!(rows.is_empty());
        }
        Ok(())
    });
}
