//! Sessions that only wait are spoken to: some links forget one that is silent for minutes, and a restore needs its own
//! again when hours of loading are over.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::dump::NodeSession;
use crate::failure::Failure;

/// How often.
const TALK_EVERY: Duration = Duration::from_secs(2);

/// Does something long, and speaks to these sessions meanwhile. One that is lost is told of once that has ended.
pub fn while_talking<T: Send>(
    sessions: &mut [NodeSession],
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let (at_work, over) = channel::<()>();
    std::thread::scope(|scope| {
        let work = scope.spawn(move || {
            let _at_work = at_work;
            work()
        });
        let mut lost = None;
        while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(TALK_EVERY) {
            if lost.is_none() {
                lost = sessions.iter_mut().find_map(|one| one.ask("stay there", "SELECT 1").err());
            }
        }
        let end = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (end, lost) {
            (Ok(_), Some(error)) => Err(error.into()),
            (end, _) => end,
        }
    })
}
