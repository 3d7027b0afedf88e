//! The same for each of many things, several at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Does something with each of many things, so many at a time, each thread with something of its own; what that has given,
/// in the order of the things. The first failure ends it, once those that are at work have ended theirs.
pub fn side_by_side<T: Sync, O, R: Send, E: Send>(
    threads: usize,
    things: &[T],
    own: impl Fn() -> O + Sync,
    what: impl Fn(&T, &mut O) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let do_some = || {
        let (mut own, mut done) = (own(), Vec::new());
        while !has_failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(at) else {
                break;
            };
            let result = what(thing, &mut own);
            has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((at, result?));
        }
        Ok(done)
    };
    let ends: Vec<Result<Vec<(usize, R)>, E>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads.min(things.len())).map(|_| scope.spawn(do_some)).collect();
        // One that has panicked takes this one with it.
        let end = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(end).collect()
    });
    let mut all = Vec::new();
    for done in ends {
        all.extend(done?);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_in_order_and_a_failure_ends_it() {
        let things: Vec<usize> = (0..100).collect();
        let twice = side_by_side(7, &things, || (), |thing, ()| Ok::<_, ()>(thing * 2));
        assert_eq!(twice, Ok(things.iter().map(|thing| thing * 2).collect()));
        let done = AtomicUsize::new(0);
        let failed = side_by_side(
            1,
            &things,
            || (),
            |thing, ()| {
                done.fetch_add(1, Ordering::Relaxed);
                if *thing == 3 { Err("no") } else { Ok(()) }
            },
        );
        assert_eq!((failed, done.into_inner()), (Err("no"), 4));
        assert_eq!(side_by_side(7, &[], || (), |(), ()| Ok::<(), ()>(())), Ok(vec![]));
    }
}
