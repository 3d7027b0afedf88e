//! Nothing is lost, from anywhere: writers of every kind at every node go through a split, and each acknowledged write
//! is there exactly once; every node is of one mind; nothing is left. Its control is in `control.rs`.

use clone_tests::audit::left;
use clone_tests::{Bed, Engine, How, Kind, Result, Split, on_each_engine, ours_exists};

/// What a client may be told because of a split: a MERGE that came to the old place; and a repartitioned INSERT
/// SELECT that had already put its rows in order for the old place when it was held.
fn is_expected(kind: Option<Kind>, sqlstate: &str) -> bool {
    matches!(
        (kind, sqlstate),
        (Some(Kind::Merge), "40001") | (Some(Kind::SelectRepartitioned), "CIINF")
    )
}

fn check(bed: &Bed, split: &Split) -> Result<()> {
    let complaints = split.book.complaints(is_expected);
    assert!(
        complaints.is_empty(),
        "{} complaints: {:#?}",
        complaints.len(),
        &complaints[..complaints.len().min(10)]
    );
    let audit = bed.audit(&split.book)?;
    let called = &split.called;
    println!("{}: split in {:.1?}: {audit}", bed.tables.engine(), called.ended - called.began);
    for (kind, longest) in split.book.longest_within(called.began, called.ended) {
        println!("  longest {kind:?}: {longest:.1?}");
    }
    for notice in &called.notices {
        println!("  {:.2?} {}", notice.at - called.began, notice.message);
    }
    assert!(audit.is_clean(), "{audit}");
    let left = left::of_splits(&bed.cluster)?;
    assert!(left.is_empty(), "{left:#?}");
    Ok(())
}

#[test]
fn a_split_under_load_loses_nothing_and_so_does_a_second_one() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let mut split = bed.split_under_load(How::Ours)?;
        check(&bed, &split)?;
        let moved = bed.cluster.placements("writes")?;
        assert!(moved.iter().any(|placement| placement.node == split.node), "nothing has moved");

        // On the grown cluster, with a twin of the first clone.
        let first = std::mem::take(&mut split.book);
        let mut second = bed.split_under_load(How::Ours)?;
        second.book.add(first);
        check(&bed, &second)
    });
}

/// Kinds of writers that are tried apart, for their number: the machine has them all at one time.
#[test]
fn a_split_under_other_writers_loses_nothing() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let builder = Bed::builder(Engine::Citus).setting("citus.enable_unsafe_triggers", "on");
    let mut bed = Bed::of(builder)?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    bed.tables.create_more(&bed.cluster)?;
    let split = bed.split_under(How::Ours, Kind::more())?;
    check(&bed, &split)?;
    for table in ["writes", "copied", "fired"] {
        let placements = bed.cluster.placements(table)?;
        assert!(
            placements.iter().any(|placement| placement.node == split.node),
            "nothing of {table} has moved"
        );
    }
    Ok(())
}
