//! How a block can fail those who rely on it.

use crate::exit::Exit;
use crate::failure::Failure;

/// What a shell says where it could not do its part.
const NO_BLOCK: u8 = 125;

/// Why what was made under a block is no use.
#[derive(Debug, thiserror::Error)]
pub enum BlockFailure {
    /// There was none.
    #[error("{0}")]
    NotBegun(Box<Failure>),
    /// It did not last.
    #[error("block {id} did not last until the command had ended: {why}")]
    Lost {
        /// Its number.
        id: i64,
        /// Why.
        why: String,
    },
    /// It was ended here, before the command was done.
    #[error("the command was ended, as writers had been held for all of --max")]
    Over,
    /// The command has ended before what it had started.
    #[error("the command has ended, and left processes behind that still ran: they were ended")]
    LeftBehind,
    /// The system does not run the command.
    #[error("the command {command} could not be run: {error}")]
    NotRun {
        /// Its name.
        command: String,
        /// Why.
        error: std::io::Error,
    },
}

impl BlockFailure {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            BlockFailure::NotBegun(why) => match why.exit() {
                Exit::WrongUse => Exit::WrongUse,
                _ => Exit::Of(NO_BLOCK),
            },
            BlockFailure::Lost { .. } | BlockFailure::Over | BlockFailure::LeftBehind => {
                Exit::Of(NO_BLOCK)
            }
            BlockFailure::NotRun { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
                Exit::Of(127)
            }
            BlockFailure::NotRun { .. } => Exit::Of(126),
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            BlockFailure::NotBegun(_) | BlockFailure::NotRun { .. } => None,
            BlockFailure::Lost { .. } => Some(
                "Do not rely on copies that were made under it; citus-fence status and the coordinator's log tell more."
                    .to_owned(),
            ),
            BlockFailure::LeftBehind => Some(
                "Do not rely on what they were making. Let the command end when all is done: without & and nohup, and \
                 with `wait`."
                    .to_owned(),
            ),
            BlockFailure::Over => Some(
                "Do not rely on copies that were made under it; a larger --max allows more time, a faster command needs \
                 less."
                    .to_owned(),
            ),
        }
    }
}
