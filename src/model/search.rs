//! Searching a model for what must not be.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// What an exploration came to.
pub struct Found<A> {
    /// The claim that is broken, and the shortest way there.
    pub counterexample: Option<(&'static str, Vec<A>)>,
    /// What should be possible and was never seen.
    pub unseen: Vec<&'static str>,
}

/// Explores until a claim is broken or there is nothing left to explore.
pub fn search<M>(what: &str, model: M) -> Found<M::Action>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + Send + Sync + PartialEq + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    let properties = model.properties();
    // One thread searches breadth first in order, so the first counterexample is a shortest one.
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{what}: {} states, {} steps, at most {} deep, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f32()
    );
    let mut discoveries = checker.discoveries();
    let names = |expected: Expectation| {
        properties.iter().filter(move |one| one.expectation == expected).map(|one| one.name)
    };
    let counterexample = names(Expectation::Always).find_map(|claim| {
        let path = discoveries.remove(claim)?;
        Some((claim, path.into_actions()))
    });
    if let Some((claim, actions)) = &counterexample {
        println!("  not so: {claim}, after {} steps: {actions:?}", actions.len());
    } else {
        assert!(checker.is_done(), "{what}: the exploration was not complete");
    }
    let unseen = names(Expectation::Sometimes).filter(|sight| !discoveries.contains_key(sight));
    Found { counterexample, unseen: unseen.collect() }
}
