//! No torn commit: copies that are taken under the block, whichever way, restore to one consistent
//! cluster.  The control takes the same copies without it, and must find damage.

use std::time::Instant;

use fence_tests::{BLOCK, Bank, Cluster, Engine, PATIENCE, Result, UNBLOCK, call, on_each_engine};
use test_cluster::{Audit, WalMethod, Writers};

/// Rounds that must all be clean.
const ROUNDS: usize = 20;
/// Rounds within which the control has to find damage.
const CONTROL_ROUNDS: usize = 5;
/// Transfers that are committed between two copies of the control: what makes its damage certain.
const BETWEEN_COPIES: u64 = 40;

struct Round<'a> {
    cluster: &'a Cluster,
    bank: &'a Bank,
    writers: &'a Writers,
    number: usize,
}

impl Round<'_> {
    /// Copies every node, restores the copies as the operations page says, and audits them.
    /// Transfers that were acknowledged `before` must all be there.
    fn copy_and_audit(
        &self,
        label: &str,
        before: Option<Instant>,
        between: impl Fn() -> Result<()>,
        done: impl FnOnce() -> Result<()>,
    ) -> Result<Audit> {
        let mut copies = Vec::new();
        for (number, node) in self.cluster.nodes().iter().enumerate() {
            if number > 0 {
                between()?;
            }
            let copy = self.cluster.copy_target(&format!("{label}{}", self.number), number)?;
            node.base_backup(&copy, WalMethod::Stream)?;
            copies.push(copy);
        }
        done()?;
        let acknowledged: Vec<String> = self
            .writers
            .marks()
            .into_iter()
            .filter(|mark| before.is_some_and(|moment| mark.acknowledged < moment))
            .map(|mark| mark.transfer)
            .collect();
        let restored = self.cluster.restore(&copies)?;
        self.bank.audit(&restored, acknowledged.iter().map(String::as_str))
    }
}

#[test]
fn copies_under_the_block_are_consistent_and_copies_without_it_are_not() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 2)?;
        writers.wait_for_more(200, PATIENCE)?;

        let mut client = cluster.connect(0)?;
        for number in 0..ROUNDS {
            writers.wait_for_more(30, PATIENCE)?;
            assert!(call(&mut client, BLOCK));
            let blocked = Instant::now();
            let round = Round { cluster: &cluster, bank: &bank, writers: &writers, number };
            let audit = round.copy_and_audit(
                "blocked",
                Some(blocked),
                || Ok(()),
                || {
                    assert!(call(&mut client, UNBLOCK), "the block did not last");
                    Ok(())
                },
            )?;
            assert!(audit.is_clean(), "round {number}: {audit}");
        }

        let damaged = (0..CONTROL_ROUNDS).any(|number| {
            let round = Round { cluster: &cluster, bank: &bank, writers: &writers, number };
            let between = || writers.wait_for_more(BETWEEN_COPIES, PATIENCE);
            let audit = round
                .copy_and_audit("control", None, between, || Ok(()))
                .expect("the control's copies restore");
            !audit.is_clean()
        });
        assert!(damaged, "copies without the block show no damage: this test shows nothing");

        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        assert!(summary.hung.is_empty());
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert!(audit.is_clean(), "production itself: {audit}");
        Ok(())
    });
}
