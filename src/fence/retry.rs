//! Attempt after attempt, until one holds or the time is over.

use std::time::Duration;

use remote::{Deadline, Pause, RemoteError, Waiter, pause};

use super::error::{Failed, FenceError, Reason};
use crate::pg::elog;

/// Shortest and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// With less time left than this no attempt is begun: it would only time out.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// Below this, running out of time says nothing of the nodes.
const LITTLE_TIME: Duration = Duration::from_secs(1);

/// What is tried.
pub trait Trial<W: Waiter> {
    /// What an attempt that succeeds gives.
    type Held;
    /// What log lines call an attempt.
    const ATTEMPT: &'static str;
    /// Makes one.
    fn attempt(&mut self, waiter: &mut W) -> Result<Self::Held, Failed>;
    /// Lets go of all that one has left, and awaits that; who did not confirm it.
    fn let_go(&mut self) -> Vec<RemoteError>;
    /// What is done between two.
    fn recover(&mut self, waiter: &mut W) -> Result<(), Failed>;
}

/// How long is tried.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// In all.
    pub time: Duration,
    /// By when that is over.
    pub deadline: Deadline,
}

impl Limit {
    /// From now on.
    pub fn from_now(waiter: &impl Waiter, time: Duration) -> Self {
        Self { time, deadline: Deadline::after(waiter, time) }
    }

    /// In milliseconds, for messages.
    pub fn ms(&self) -> i32 {
        i32::try_from(self.time.as_millis()).unwrap_or(i32::MAX)
    }
}

/// Why there will be no further attempt.
#[derive(Clone, Debug)]
pub enum GaveUp {
    /// The waiter was told to stop.
    Stopped,
    /// The time is over; of all that attempts ended with, the best reason.
    NotHeld(Reason),
    /// The time was over before anything could be found out.
    TooLittleTime(RemoteError),
    /// Another attempt would fail the same way.
    ForGood(FenceError),
}

/// What an attempt has come to hold, and how many there were.
pub struct Held<H> {
    /// What it holds.
    pub what: H,
    /// With that one.
    pub attempts: u32,
}

/// Tries until an attempt holds.  After an error that ends the tries the caller lets go of what is left.
pub fn until_held<W: Waiter, T: Trial<W>>(
    waiter: &mut W,
    trial: &mut T,
    limit: Limit,
) -> Result<Held<T::Held>, GaveUp> {
    let deadline = limit.deadline;
    let mut backoff = BACKOFF.0;
    let mut attempts = 0;
    let mut in_the_way = BestReason::default();
    // What the last attempt failed with, where it may pass by itself.
    let mut passing = None;
    loop {
        // Half of it: a wait that ends a moment late is no reason to give up.
        if deadline.remaining(waiter) < SHORTEST_ATTEMPT / 2 {
            if let Some(error) = passing {
                return Err(GaveUp::ForGood(error));
            }
            if in_the_way.is_some() {
                return Err(GaveUp::NotHeld(in_the_way.into_reason()));
            }
        }
        attempts += 1;
        match trial.attempt(waiter) {
            Ok(what) => return Ok(Held { what, attempts }),
            Err(Failed::Stopped) => return Err(GaveUp::Stopped),
            Err(Failed::ForNow(reason)) => {
                let who = match reason.blockers.as_slice() {
                    [] => String::new(),
                    blockers => format!("; in the way: {}", blockers.join("; ")),
                };
                let what = &reason.what;
                elog::log(&format!(
                    "citus_fence: attempt {attempts} at {} failed: {what}{who}",
                    T::ATTEMPT
                ));
                in_the_way.note(reason);
                passing = None;
            }
            // With no time left everything times out; what stood in the way before is the reason.
            Err(Failed::ForGood(_) | Failed::Passing(_))
                if (in_the_way.is_some() || passing.is_some()) && deadline.expired(waiter) => {}
            Err(
                Failed::ForGood(FenceError::Remote(error))
                | Failed::Passing(FenceError::Remote(error)),
            ) if limit.time < LITTLE_TIME && is_time_out(&error) && deadline.expired(waiter) => {
                return Err(GaveUp::TooLittleTime(error));
            }
            Err(Failed::Passing(error)) => {
                elog::log(&format!(
                    "citus_fence: attempt {attempts} at {} failed: {error}",
                    T::ATTEMPT
                ));
                passing = Some(error);
            }
            Err(Failed::ForGood(error)) => return Err(GaveUp::ForGood(error)),
        }
        for error in trial.let_go() {
            elog::log(&format!(
                "citus_fence: a node did not confirm the end of an attempt: {error}"
            ));
        }
        let left = deadline.remaining(waiter);
        match trial.recover(waiter) {
            Ok(()) => {}
            Err(Failed::Stopped) => return Err(GaveUp::Stopped),
            Err(Failed::ForNow(reason)) => in_the_way.note(reason),
            // The next attempt meets it, too.
            Err(Failed::Passing(_)) => {}
            Err(Failed::ForGood(error)) => return Err(GaveUp::ForGood(error)),
        }
        if pause(waiter, backoff.min(left.saturating_sub(SHORTEST_ATTEMPT))) == Pause::Stopped {
            return Err(GaveUp::Stopped);
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn is_time_out(error: &RemoteError) -> bool {
    matches!(error, RemoteError::ConnectTimeout { .. } | RemoteError::Timeout { .. })
}

/// The best reason so far: the last one that tells something, or else the last.  The last attempts have
/// little time left, and what they end with hides why there is none.
#[derive(Clone, Debug, Default)]
struct BestReason(Option<Reason>);

impl BestReason {
    /// Another attempt has failed.
    fn note(&mut self, reason: Reason) {
        match &self.0 {
            Some(known) if known.tells && !reason.tells => {}
            Some(_) | None => self.0 = Some(reason),
        }
    }

    fn is_some(&self) -> bool {
        self.0.is_some()
    }

    fn into_reason(self) -> Reason {
        self.0.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{BestReason, Reason};

    fn timed_out(blockers: &[&str]) -> Reason {
        let blockers: Vec<String> = blockers.iter().map(|text| (*text).to_owned()).collect();
        let tells = !blockers.is_empty();
        Reason { what: "canceling statement due to lock timeout".into(), blockers, tells }
    }

    fn best(reasons: impl IntoIterator<Item = Reason>) -> Reason {
        let mut best = BestReason::default();
        reasons.into_iter().for_each(|reason| best.note(reason));
        best.into_reason()
    }

    #[test]
    fn a_reason_that_names_somebody_is_not_hidden_by_a_time_out() {
        let named = timed_out(&["process 7"]);
        assert_eq!(best([named.clone(), timed_out(&[])]), named);
        assert_eq!(best([timed_out(&[]), named.clone()]), named);
        let changed = Reason { what: "the nodes changed".into(), blockers: vec![], tells: true };
        assert_eq!(best([changed.clone(), timed_out(&[])]), changed);
    }

    #[test]
    fn of_two_that_tell_something_the_later_counts() {
        let later = timed_out(&["process 8"]);
        assert_eq!(best([timed_out(&["process 7"]), later.clone()]), later);
    }
}
