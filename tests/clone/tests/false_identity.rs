//! No commit is decided under a false identity: a promoted clone has its source's group, and would take what the source
//! has prepared on other nodes for its own. Transactions that the source coordinates between other workers go on, and
//! one of them is prepared all the time, while the clone is promoted and not yet somebody else. Control: Citus' own split, delayed at the same
//! place by a lock on another node, in which the clone's daemon rolls some of them back.

use std::time::Duration;

use clone_tests::{
    Bed, Call, Engine, How, PATIENCE, Result, SOURCE, Stand, ours_exists, wait_until,
};
use test_cluster::Audit;

/// The workers between which money moves; none of them is split.
const OTHERS: [usize; 2] = [2, 3];
const WRITERS: usize = 4;
const TRANSFERS: u64 = 20;
/// For how long the split is held up: more than the ten seconds that a daemon may sleep through a promotion.
const HELD: Duration = Duration::from_secs(15);
/// What a daemon says when it has decided something.
const DECIDED: &str = "maintenance daemon recovered";
/// A transfer that stands between PREPARE and COMMIT PREPARED all the time.
const STUCK: &str = "stuck";

fn bed() -> Result<Bed> {
    // The daemons look all the time.
    let builder = Bed::builder(Engine::Citus).workers(3);
    Bed::of(builder.setting("citus.recover_2pc_interval", "200ms"))
}

/// An account on each of the other workers.
fn stuck_accounts(bed: &Bed) -> Result<[String; 2]> {
    let accounts = bed.cluster.read_all_shards("accounts", "SELECT max(id) FROM %s")?;
    let on = |node: usize| {
        let mut here = accounts.iter().filter(|row| row.node == node);
        here.find_map(|row| row.values[0].clone()).expect("an account on every worker")
    };
    Ok(OTHERS.map(on))
}

/// Has the source begin a transfer whose COMMIT waits for a standby that nobody is, once it has prepared it on the
/// other workers and written down that it commits.
fn stick(bed: &Bed, accounts: &[String; 2]) -> Result<Call> {
    let source = bed.cluster.node(SOURCE);
    // Everybody else waits for none.
    source.alter_system("synchronous_commit", "local")?;
    source.alter_system("synchronous_standby_names", "nobody")?;
    wait_until("the setting to arrive", PATIENCE, || {
        (source.query_value("SHOW synchronous_standby_names").ok()? == "nobody").then_some(())
    })?;
    let moves: String = [(&accounts[0], 5), (&accounts[1], -5)]
        .iter()
        .map(|(id, amount)| {
            format!(
                "UPDATE accounts SET balance = balance + {amount} WHERE id = {id};
                 INSERT INTO entries (account_id, transfer_id, amount) VALUES ({id}, '{STUCK}', {amount});"
            )
        })
        .collect();
    // One after the other, as COMMIT is to be a statement of its own.
    let params = source.connect_params().application_name(STUCK);
    let call = Call::in_turn(
        &params,
        ["SET synchronous_commit = on".into(), format!("BEGIN; {moves}"), "COMMIT".into()],
    );
    wait_until("a commit that waits for a standby", PATIENCE, || {
        assert!(!call.has_ended(), "the commit did not wait");
        let look = format!(
            "SELECT count(*) FROM pg_stat_activity
              WHERE application_name = '{STUCK}' AND wait_event = 'SyncRep'"
        );
        (source.query_value(&look).ok()? == "1").then_some(())
    })?;
    Ok(call)
}

/// The source's transfers through a split that is held up by `hold` between promotion and identity, and let go by
/// `let_go`.
fn split_and_audit<H>(
    bed: &mut Bed,
    how: How,
    hold: impl FnOnce(&Bed) -> Result<H>,
    await_hold: impl FnOnce(&mut H, &Call) -> Result<()>,
    let_go: impl FnOnce(H) -> Result<()>,
) -> Result<Audit> {
    let replica = bed.replica()?;
    let id = how.register(&bed.cluster, &replica)?;
    let mut held = hold(bed)?;
    let call = how.split(&bed.cluster, id);
    await_hold(&mut held, &call)?;
    wait_until("the clone's promotion", PATIENCE, || {
        let in_recovery = replica.server().query_value("SELECT pg_is_in_recovery()").ok()?;
        assert!(!call.has_ended(), "the split was not held up");
        (in_recovery == "f").then_some(())
    })?;
    // Without accounts that move, so that nothing but a decision can make a transfer half.
    // And without those of the transfer that stands still, behind which all writers would come to stand, too.
    let accounts = stuck_accounts(bed)?;
    let ids = accounts.each_ref().map(|id| id.parse().expect("a number"));
    let bank = bed.tables.bank.between(&OTHERS).without(&ids);
    let writers = bank.start_writers_at(&bed.cluster, &[SOURCE], WRITERS)?;
    let stuck = stick(bed, &accounts)?;
    writers.wait_for_more(TRANSFERS, PATIENCE)?;
    let decided = wait_until("a decision", HELD, || {
        // A client's read, for a daemon begins with the first session.
        let _ = replica.server().query("SELECT count(*) FROM accounts");
        replica.server().log().contains(DECIDED).then_some(())
    });
    assert_eq!(
        decided.is_ok(),
        how == How::CitusOwn,
        "whether the clone's daemon decided anything: {}",
        replica.server().log()
    );
    writers.wait_for_more(TRANSFERS, PATIENCE)?;
    assert!(!call.has_ended(), "the split was not held up");
    let source = bed.cluster.node(SOURCE);
    source.alter_system("synchronous_standby_names", "")?;
    stuck.end().outcome.expect("the commit");
    let_go(held)?;
    wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
    call.end().outcome.expect("the split");
    bed.cluster.adopt(replica);
    writers.wait_for_more(TRANSFERS, PATIENCE)?;
    let summary = writers.stop();
    assert!(summary.hung.is_empty(), "{:?}", summary.hung);
    bed.recover()?;
    bed.tables.bank.audit(&bed.cluster, summary.transfers().chain([STUCK]))
}

#[test]
fn a_held_up_split_decides_nothing_for_its_source() -> Result<()> {
    // The embedded catalog has no daemon that could decide anything.
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = bed()?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let audit = split_and_audit(
        &mut bed,
        How::Ours,
        |bed| Stand::before(&bed.cluster, "promoted"),
        |stand, call| stand.wait(call),
        Stand::let_go,
    )?;
    assert!(audit.is_clean(), "{audit}");
    Ok(())
}

#[test]
fn citus_own_split_rolls_back_what_its_source_has_prepared() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = bed()?;
    if !How::CitusOwn.exists(&bed.cluster)? {
        return Ok(());
    }
    let hold = |bed: &Bed| {
        let mut holder = bed.cluster.connect(OTHERS[0])?;
        // Readers of the node list go on; who changes it waits.
        let lock = "BEGIN; LOCK pg_catalog.pg_dist_node IN SHARE MODE";
        holder.batch_execute(lock).expect("a lock");
        Ok(holder)
    };
    let audit = split_and_audit(
        &mut bed,
        How::CitusOwn,
        hold,
        |_, _| Ok(()),
        |holder| {
            drop(holder);
            Ok(())
        },
    )?;
    println!("Citus' own split, held up: {audit}");
    assert!(!audit.is_clean(), "nothing was rolled back: this test shows nothing");
    Ok(())
}
