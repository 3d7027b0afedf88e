//! Why a block could not be started, out of all that its attempts ended with.

use super::error::FenceError;

/// What an attempt ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// In its own words.
    pub what: String,
    /// Who was in the way.
    pub blockers: Vec<String>,
}

impl Reason {
    /// Whether it tells what stood in the way, and not merely that the time was over.
    fn tells(&self) -> bool {
        !self.blockers.is_empty() || self.what == FenceError::NodesChanged.to_string()
    }
}

/// The best reason so far: the last one that tells something, or else the last.  The last attempts have
/// little time left, and what they end with hides why there is none.
#[derive(Clone, Debug, Default)]
pub struct BestReason(Option<Reason>);

impl BestReason {
    /// Another attempt has failed.
    pub fn note(&mut self, reason: Reason) {
        match &self.0 {
            Some(known) if known.tells() && !reason.tells() => {}
            Some(_) | None => self.0 = Some(reason),
        }
    }

    /// Whether any attempt has failed.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The reason.
    pub fn into_reason(self) -> Reason {
        self.0.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{BestReason, FenceError, Reason};

    fn timed_out(blockers: &[&str]) -> Reason {
        let blockers = blockers.iter().map(|text| (*text).to_owned()).collect();
        Reason { what: "canceling statement due to lock timeout".into(), blockers }
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
        let changed = Reason { what: FenceError::NodesChanged.to_string(), blockers: vec![] };
        assert_eq!(best([changed.clone(), timed_out(&[])]), changed);
    }

    #[test]
    fn of_two_that_tell_something_the_later_counts() {
        let later = timed_out(&["process 8"]);
        assert_eq!(best([timed_out(&["process 7"]), later.clone()]), later);
    }
}
