//! Faults at every step of a split: see `matrix`. The usual run has a row per step, the whole matrix every fault
//! before and in each.

use clone_tests::matrix::{self, Case};
use clone_tests::{Bed, Engine, Result, on_each_engine, ours_exists};
use test_cluster::whole_matrix;

#[test]
fn every_fault_ends_as_before_or_done() {
    on_each_engine(|engine: Engine| {
        if !ours_exists(&Bed::make(engine, false)?)? {
            return Ok(());
        }
        let cases = if whole_matrix() { matrix::whole() } else { matrix::usual() };
        let ends = cases.iter().map(|case| case.run(engine)).collect::<Result<Vec<_>>>()?;
        for (Case { before, midst, fault }, end) in cases.iter().zip(ends) {
            let moment = if *midst { "in" } else { "before" };
            println!("| {moment} {before} | {fault:?} | {end:?} |");
        }
        Ok(())
    });
}

/// The usual run leaves no step and no victim out.
#[test]
fn the_usual_rows_touch_every_step_and_every_victim() {
    let usual = matrix::usual();
    for step in &clone_tests::stand::STEPS[1..] {
        assert!(usual.iter().any(|case| case.before == *step), "{step}");
    }
    for victim in clone_tests::Victim::ALL {
        let of_him = format!("({victim:?})");
        assert!(
            usual.iter().any(|case| format!("{:?}", case.fault).contains(&of_him)),
            "{victim:?}"
        );
    }
}
