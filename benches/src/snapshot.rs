//! How long a cluster snapshot takes, beside a block on the same cluster, in turns; and how long writers are held for it,
//! by the coordinator's log.

use std::time::{Duration, Instant};

use test_cluster::{Cluster, Error, Result};

use crate::figures::Table;

/// Rounds that count for nothing: what is new to everybody.
const WARM_UP: usize = 3;

/// Blocks and snapshots in turns.
pub fn measure(cluster: &Cluster, rounds: usize, table: &mut Table) -> Result<()> {
    let mut client = cluster.connect(0)?;
    let (mut blocks, mut exports, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..WARM_UP + rounds {
        let mut timed = |sql: &str, end: &str| -> Result<Duration> {
            let began = Instant::now();
            let row =
                client.query(sql, &[]).map_err(|error| Error::Environment(error.to_string()))?;
            let took = began.elapsed();
            let end =
                end.replace("$1", &row[0].try_get::<_, i64>(0).unwrap_or_default().to_string());
            client.batch_execute(&end).map_err(|error| Error::Environment(error.to_string()))?;
            Ok(took)
        };
        let block = timed(
            "SELECT citus_block_writes_for_backup()",
            "SELECT citus_unblock_writes_for_backup()",
        )?;
        let export = timed(
            "SELECT * FROM citus_export_cluster_snapshot(mode => '2pc')",
            "SELECT citus_release_cluster_snapshot($1)",
        )?;
        if round >= WARM_UP {
            blocks.push(block);
            exports.push(export);
            ratios.push(export.as_secs_f64() / block.as_secs_f64());
        }
    }
    table.times("block, in turns with snapshots", &blocks, "");
    table.times("cluster snapshot, mode 2pc", &exports, "p50 <= block + 10 ms");
    table.ratios("cluster snapshot / block", ratios, "");
    let log = cluster.coordinator().log();
    let held: Vec<Duration> = log
        .lines()
        .filter_map(|line| {
            line.split_once("in mode 2pc: writers were held for ")?.1.split_once(" ms")
        })
        .filter_map(|(ms, _)| Some(Duration::from_secs_f64(ms.parse::<f64>().ok()? / 1e3)))
        .collect();
    assert_eq!(held.len(), WARM_UP + rounds, "the log tells of every snapshot");
    table.times("cluster snapshot: writers held", &held[WARM_UP..], "p50 <= 20 ms");
    Ok(())
}
