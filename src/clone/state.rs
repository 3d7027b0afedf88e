//! The steps of a split, and where each leads.
//!
//! ```text
//! registered ─▶ checked ─▶ near ─▶ prepared ─▶ caught_up ─▶ promoting ─▶ promoted ─▶ committing ─▶ released ─▶ cleaned
//!     ▲                      └─────────┬────────────┘           └──────── from here only forward ────────┘
//!     └───── back: ROLLBACK PREPARED, the clone streams on ─────┘
//! ```
//!
//! A step is written to the registry, and committed there, before the first thing that belongs to it is done.  So
//! whoever finds a step there knows that nothing of the later ones has begun, and that this one may be done in
//! part: everything that belongs to a step can be done again.
//!
//! Everything here is plain: no server.

/// How far a split has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The clone is known, and no split has begun.
    Registered,
    /// Clone and source are being looked at; nothing is changed.
    Checked,
    /// The clone is made harmless, and comes close to its source.
    Near,
    /// Writers are held back, and the new metadata is prepared on every node.
    Prepared,
    /// The clone replays what it lacks.
    CaughtUp,
    /// The clone has been, or is about to be, told to end its recovery.
    Promoting,
    /// The clone gets its own identity.
    Promoted,
    /// The nodes take the new metadata.
    Committing,
    /// Writers go on; what is left is to tidy up.
    Released,
    /// Done.
    Cleaned,
}

/// Where an interrupted split goes from a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing has been done that would have to be undone.
    Start,
    /// What was done is undone: the clone has not been promoted.
    Back,
    /// It is finished: the clone may be a server of its own, which no standby becomes again.
    Forward,
    /// There is nothing left to do.
    Done,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 10] = [
        Self::Registered,
        Self::Checked,
        Self::Near,
        Self::Prepared,
        Self::CaughtUp,
        Self::Promoting,
        Self::Promoted,
        Self::Committing,
        Self::Released,
        Self::Cleaned,
    ];

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Checked => "checked",
            Self::Near => "near",
            Self::Prepared => "prepared",
            Self::CaughtUp => "caught_up",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::Committing => "committing",
            Self::Released => "released",
            Self::Cleaned => "cleaned",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// Where an interrupted split goes from here.
    pub fn way(self) -> Way {
        match self {
            Self::Registered | Self::Checked => Way::Start,
            Self::Near | Self::Prepared | Self::CaughtUp => Way::Back,
            // pg_promote() may have been heard although no answer came, so this one already leads forward.
            Self::Promoting | Self::Promoted | Self::Committing | Self::Released => Way::Forward,
            Self::Cleaned => Way::Done,
        }
    }

    /// Whether others that need the cluster to themselves are refused: something is changed somewhere.
    pub fn is_under_way(self) -> bool {
        match self.way() {
            Way::Back | Way::Forward => true,
            Way::Start | Way::Done => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, Way};

    #[test]
    fn names_are_read_as_they_are_written() {
        for step in Step::ALL {
            assert_eq!(Step::parse(step.name()), Some(step));
        }
        assert_eq!(Step::parse("nowhere"), None);
    }

    #[test]
    fn once_forward_there_is_no_way_back() {
        let ways: Vec<Way> = Step::ALL.into_iter().map(Step::way).collect();
        let first = ways.iter().position(|way| *way == Way::Forward).expect("a way forward");
        assert_eq!(Step::ALL[first], Step::Promoting);
        assert!(ways[first..].iter().all(|way| matches!(way, Way::Forward | Way::Done)));
        assert!(Step::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
