//! The command's memory does not grow with a table: rows go through it, and none stays.

mod common;

use std::process::Command;

use common::restored::restore_command;
use common::{dump_command, start};
use fence_tests::{Cluster, PATIENCE, Result, on_each_engine};
use test_cluster::{peak_memory, wait_until};

/// In kB.
const MOST: u64 = 64 << 10;

/// What a table that is eight times as large may add: buffers that were not full.
const MORE: u64 = 8 << 10;

/// The most memory that a command had, in kB, by looks at it until it has ended.
fn peak_of(command: &mut Command) -> Result<u64> {
    let mut running = start(command);
    let (mut peak, mut looks) = (0, 0);
    let pid = running.child().id();
    wait_until("the command to end", PATIENCE, || {
        if let Some(now) = peak_memory(pid) {
            (peak, looks) = (peak.max(now), looks + 1);
        }
        running.child().try_wait().expect("its state")
    })?;
    running.ended()?.expect(0);
    assert!(looks > 10, "{looks} looks show nothing");
    Ok(peak)
}

#[test]
fn memory_is_the_same_whatever_the_size() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut peaks = Vec::new();
        for (number, rows) in [80_000, 640_000].into_iter().enumerate() {
            let coordinator = cluster.coordinator();
            cluster.execute_everywhere("DROP TABLE IF EXISTS t")?;
            coordinator.execute(&format!(
                "CREATE TABLE t AS SELECT n AS id, md5(n::text) || md5((-n)::text) || md5((n + 1)::text) AS v
                   FROM generate_series(1, {rows}) n"
            ))?;
            let dir = folder.path().join(format!("dump{number}"));
            let dump =
                peak_of(&mut dump_command(coordinator.port(), &dir, &["--compress", "none"]))?;
            coordinator.execute("DROP TABLE t")?;
            let restore =
                peak_of(&mut restore_command(coordinator.port(), &dir, &["--into-non-empty"]))?;
            println!("{engine}: {rows} rows, dump {dump} kB, restore {restore} kB");
            peaks.push((dump, restore));
        }
        let [small, large] = peaks[..] else { unreachable!("two sizes") };
        assert!(large.0 <= MOST && large.1 <= MOST, "{peaks:?}");
        assert!(large.0 <= small.0 + MORE && large.1 <= small.1 + MORE, "{peaks:?}");
        Ok(())
    });
}
