//! Whose writes a fence holds back.

/// The two modes, as `citus_fence.block_mode` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Two-phase commits, DDL and changes of nodes.
    TwoPhase = 0,
    /// Every write.
    All,
}

impl Mode {
    /// The word that SQL shows.
    pub fn name(self) -> &'static str {
        match self {
            Mode::TwoPhase => "2pc",
            Mode::All => "all",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::TwoPhase, Self::All].into_iter().find(|mode| mode.name() == name)
    }
}
