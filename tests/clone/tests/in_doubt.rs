//! Transactions that are in doubt when writers are held: prepared on the source by another node that has not come back
//! since. Those that it has decided end up whole where the shard is then, the others leave nothing. Control: Citus' own
//! split, after which the decided ones are committed in the old place.

use std::collections::BTreeMap;

use clone_tests::{Bed, Engine, How, OTHER, PATIENCE, Result, SOURCE, ours_exists, wait_until};

/// The number of a turn; two for each shard.
const DECIDED: i64 = 1_000_000;
const UNDECIDED: i64 = 2_000_000;

/// Prepares two in each shard on the source; how many shards there are.
fn leave_in_doubt(bed: &Bed) -> Result<i64> {
    let here = bed.cluster.placements("writes")?;
    let mut count = 0;
    for placement in here.iter().filter(|placement| placement.node == SOURCE) {
        count += 1;
        for (number, base) in [DECIDED, UNDECIDED].into_iter().enumerate() {
            let op = base + placement.shardid;
            // As the second worker would have named it.
            let gid = format!("citus_{OTHER}_999999_{}_{number}", 7_000 + count);
            bed.cluster.node(SOURCE).execute(&format!(
                "BEGIN; SET LOCAL citus.enable_manual_changes_to_shards = on;
                 INSERT INTO {} (key, op, part) VALUES (1, {op}, 0);
                 PREPARE TRANSACTION '{gid}'",
                placement.table
            ))?;
            if base == DECIDED {
                bed.cluster.node(OTHER).execute(&format!(
                    "INSERT INTO pg_catalog.pg_dist_transaction (groupid, gid) VALUES ({SOURCE}, '{gid}')"
                ))?;
            }
        }
    }
    assert!(count > 1, "nothing to leave in doubt");
    Ok(count)
}

/// How many of the decided and of the others are there after a split.
fn there(how: How) -> Result<Option<(i64, i64, i64)>> {
    let builder = Bed::builder(Engine::Citus);
    let mut bed = Bed::of(builder.setting("citus.recover_2pc_interval", "-1"))?;
    if !how.exists(&bed.cluster)? || !ours_exists(&bed)? {
        return Ok(None);
    }
    let replica = bed.replica()?;
    let id = how.register(&bed.cluster, &replica)?;
    let count = leave_in_doubt(&bed)?;
    let call = how.split(&bed.cluster, id);
    wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
    call.end().outcome.expect("the split");
    bed.cluster.adopt(replica);
    bed.recover()?;
    let mut found: BTreeMap<bool, i64> = BTreeMap::new();
    let select = format!(
        "SELECT count(*) FILTER (WHERE op < {UNDECIDED}), count(*) FROM %s WHERE op >= {DECIDED}"
    );
    for row in bed.cluster.read_all_shards("writes", &select)? {
        let number = |column: usize| -> i64 {
            row.values[column].as_deref().unwrap_or("0").parse().expect("a number")
        };
        *found.entry(true).or_default() += number(0);
        *found.entry(false).or_default() += number(1) - number(0);
    }
    Ok(Some((count, found[&true], found[&false])))
}

#[test]
fn what_is_in_doubt_ends_up_whole() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    if let Some((count, decided, undecided)) = there(How::Ours)? {
        assert_eq!((decided, undecided), (count, 0));
    }
    Ok(())
}

#[test]
fn after_citus_own_split_it_is_in_the_old_place() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    if let Some((count, decided, _)) = there(How::CitusOwn)? {
        println!("Citus' own split: {decided} of {count} decided transactions are there");
        assert!(decided < count, "nothing is lost: this test shows nothing");
    }
    Ok(())
}
