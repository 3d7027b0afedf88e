//! The controls on servers: a rule taken out of a real split by giving a node another function of that name, and the test
//! of `nothing_lost.rs` finds what is lost. (`src/model/split` takes out every rule.)

use clone_tests::{Bed, Engine, How, Kind, OTHER, Result, SOURCE, ours_exists};

/// Writers are held on the coordinator alone.
const ONLY_THE_COORDINATOR: &str = "SET citus.enable_ddl_propagation = off;
    ALTER FUNCTION pg_catalog.lock_shard_metadata(int, bigint[]) RENAME TO lock_shard_metadata_of_citus;
    CREATE FUNCTION pg_catalog.lock_shard_metadata(int, bigint[]) RETURNS void LANGUAGE sql AS 'SELECT'";
/// What comes to the old place is let through.
const NO_SEAL: &str = "SET citus.enable_ddl_propagation = off;
    CREATE OR REPLACE FUNCTION citus_fence.shard_has_moved() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RETURN NULL; END'";
/// Within so many tries it shows: it is a matter of moments.
const TRIES: usize = 3;

/// Splits under load without these rules, until something shows.
fn shows(
    without: &[(usize, &str)],
    what: &str,
    look: impl Fn(&Bed, &clone_tests::Split) -> Result<bool>,
) -> Result<()> {
    // The embedded catalog has no writer that takes no lock.
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    for _ in 0..TRIES {
        let mut bed = Bed::make(Engine::Citus, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        for (node, sql) in without {
            bed.cluster.node(*node).execute(sql)?;
        }
        let split = bed.split_under_load(How::Ours)?;
        if look(&bed, &split)? {
            return Ok(());
        }
    }
    panic!("{what}: nothing shows in {TRIES} tries, so the test of what is lost shows nothing");
}

#[test]
fn with_locks_on_the_coordinator_alone_and_no_seal_writes_are_lost() -> Result<()> {
    let without =
        [(SOURCE, ONLY_THE_COORDINATOR), (OTHER, ONLY_THE_COORDINATOR), (SOURCE, NO_SEAL)];
    shows(&without, "locks on the coordinator alone", |bed, split| {
        let audit = bed.audit(&split.book)?;
        println!("without locks elsewhere and without the seal: {audit}");
        Ok(audit.lost.iter().any(|(kind, turns)| *kind != Kind::Merge && !turns.is_empty()))
    })
}

#[test]
fn with_locks_on_the_coordinator_alone_the_seal_refuses_writers() -> Result<()> {
    let without = [(SOURCE, ONLY_THE_COORDINATOR), (OTHER, ONLY_THE_COORDINATOR)];
    shows(&without, "locks on the coordinator alone", |bed, split| {
        let audit = bed.audit(&split.book)?;
        println!("without locks elsewhere: {audit}");
        // What the seal is not on is lost: reference tables.
        let kept = |kind: &Kind| *kind == Kind::Reference;
        assert!(audit.lost.keys().all(kept), "the seal lets nothing be lost: {audit}");
        let refused =
            split.book.complaints(|kind, code| kind == Some(Kind::Merge) || code != "40001");
        Ok(!refused.is_empty())
    })
}

#[test]
fn without_the_seal_merges_are_lost() -> Result<()> {
    shows(&[(SOURCE, NO_SEAL)], "no seal", |bed, split| {
        let audit = bed.audit(&split.book)?;
        println!("without the seal: {audit}");
        Ok(audit.lost.get(&Kind::Merge).is_some_and(|turns| !turns.is_empty()))
    })
}
