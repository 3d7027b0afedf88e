//! A split of nodes that reach each other through poolers in transaction mode, as `pg_dist_poolinfo` has them: what it holds
//! it holds in transactions, and finds again in other sessions.

use clone_tests::kind::Kind;
use clone_tests::{
    Bed, Engine, How, Load, OTHER, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists,
    wait_until,
};
use test_cluster::{HOST, Pooler};

const TURNS: u64 = 3;

/// How the sessions of a split call themselves.
const OF_SPLIT: &str = "citus_fence clone split";

/// How Citus' own sessions between nodes do.
const OF_CITUS: &str = "citus_internal";

/// Waits until some who call themselves so are with both nodes, by the pooler.
fn come_by(pooler: &Pooler, name: &str) -> Result<()> {
    wait_until(&format!("{name} to come by the pooler"), PATIENCE, || {
        let clients = pooler.clients().ok()?;
        let is_there = |node| clients.iter().any(|(to, by)| to == node && by.starts_with(name));
        (is_there("node0") && is_there("node1")).then_some(())
    })
}

#[test]
fn a_split_through_poolers_loses_nothing() {
    on_each_engine(|engine: Engine| {
        // No writer holds more than one of the pooler's few sessions with a node.
        let mut bed =
            Bed::of(Bed::builder(engine).setting("citus.max_adaptive_executor_pool_size", "1"))?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let nodes = [SOURCE, OTHER];
        let pooler = Pooler::start(&nodes.map(|node| cluster.node(node)), cluster.database())?;
        for server in cluster.nodes() {
            for (number, node) in nodes.into_iter().enumerate() {
                server.execute(&format!(
                    "INSERT INTO pg_dist_poolinfo
                     SELECT nodeid, 'host={HOST} port={} dbname=node{number}' FROM pg_dist_node
                      WHERE nodeport = {}",
                    pooler.port(),
                    cluster.catalog_port(node)
                ))?;
            }
        }
        let replica = bed.replica()?;
        let kinds = [Kind::Insert, Kind::Prepared, Kind::AllShards];
        let load = Load::start(cluster, &bed.tables, &[0, SOURCE, OTHER], &kinds, true)?;
        load.wait_for_each(TURNS, PATIENCE)?;
        if engine == Engine::Citus {
            come_by(&pooler, OF_CITUS)?;
        }
        let id = How::Ours.register(cluster, &replica)?;
        let mut stand = Stand::before(cluster, "promoting")?;
        let call = How::Ours.split(cluster, id);
        stand.wait(&call)?;
        come_by(&pooler, OF_SPLIT)?;
        stand.let_go()?;
        call.end().outcome.expect("the split");
        let node = bed.cluster.adopt(replica);
        load.wait_for_each(TURNS, PATIENCE)?;
        let at_new = Load::start(&bed.cluster, &bed.tables, &[node], &kinds, true)?;
        at_new.wait_for_each(TURNS, PATIENCE)?;
        let mut book = load.stop();
        book.add(at_new.stop());
        let complaints = book.complaints(|_, _| false);
        assert!(complaints.is_empty(), "{complaints:#?}");
        let pooled = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'citus_fence%' AND state <> 'idle'";
        assert_eq!(bed.cluster.node(OTHER).query_value(pooled)?, "0");
        let audit = bed.audit(&book)?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
}
