//! The thread that renews a block, and sees when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use remote::RemoteError;
use tracing::debug;

use super::{SERVER_TIME, Terms, Trouble, milliseconds};
use crate::connection::Destination;
use crate::failure::Failure;
use crate::output::Output;
use crate::rows::only_row;
use crate::signals::Stop;
use crate::talk::Talk;
use crate::units::spell;

/// How often the coordinator is asked whether the block is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nobody has to have answered before that is told: a connection may be made anew meanwhile.
const SILENCE: Duration = Duration::from_secs(3);
/// How long to wait before a renewal is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// What the thread and its owner both see.
pub struct Shared {
    /// What has gone wrong, once something has.
    pub trouble: Mutex<Option<Trouble>>,
    /// The owner is about to end the block.
    pub ending: AtomicBool,
    /// Stops a question that is under way.
    pub leave: Arc<AtomicBool>,
    valid_until: Mutex<Instant>,
}

impl Shared {
    /// Of a block whose lease lasts until then.
    pub fn new(valid_until: Instant) -> Shared {
        Shared {
            trouble: Mutex::new(None),
            ending: AtomicBool::new(false),
            leave: Arc::new(AtomicBool::new(false)),
            valid_until: Mutex::new(valid_until),
        }
    }

    /// Until when the block lives at the least, if nobody has ended it: counted from before the renewal was asked for.
    pub fn valid_until(&self) -> Instant {
        *self.valid_until.lock()
    }
}

/// What the thread knows.
pub struct Keeper {
    pub id: i64,
    pub home: String,
    pub destination: Destination,
    pub terms: Terms,
    pub began: Instant,
    pub shared: Arc<Shared>,
    pub output: Output,
}

impl Keeper {
    /// Renews until told to leave, or until there is nothing to renew any more.
    pub fn keep(&self) {
        let stop = Stop::of_flag(Arc::clone(&self.shared.leave));
        let third = self.terms.lease / 3;
        let mut talk: Option<Talk<'_>> = None;
        let mut renewed = self.began;
        let mut pause = LOOK_EVERY.min(third);
        let mut heard = Instant::now();
        let mut is_told = false;
        while self.sleep(pause) {
            if self.began.elapsed() >= self.terms.max {
                return self.tell(Trouble::Over);
            }
            let asked = Instant::now();
            let renew = renewed.elapsed() >= third;
            match self.question(&mut talk, renew, &stop) {
                Ok(None) => {
                    heard = Instant::now();
                    if std::mem::take(&mut is_told) {
                        self.output.progress("it answers again, and the block goes on");
                    }
                    if renew {
                        renewed = asked;
                        *self.shared.valid_until.lock() = asked + self.terms.lease;
                    }
                    pause = LOOK_EVERY.min(third);
                }
                Ok(Some(why)) => return self.tell(Trouble::Lost(why)),
                Err(error) => {
                    debug!("block {}: {error}; trying again", self.id);
                    talk = None;
                    let valid_until = self.shared.valid_until();
                    let left = valid_until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let why =
                            format!("it could not be renewed while its lease lasted: {error}");
                        return self.tell(Trouble::Lost(why));
                    }
                    if !is_told && heard.elapsed() >= SILENCE.min(third) {
                        is_told = true;
                        self.output.progress(&format!(
                            "block {} cannot be renewed: {error}; it is lost unless that works within {}",
                            self.id,
                            spell(left)
                        ));
                    }
                    pause = AGAIN_AFTER.min(third);
                }
            }
        }
    }

    /// Lets time pass, but never past the end of what the block may last. False if the owner is about to end it.
    fn sleep(&self, pause: Duration) -> bool {
        let left = self.terms.max.saturating_sub(self.began.elapsed());
        let end = Instant::now() + pause.min(left);
        loop {
            if self.shared.ending.load(Ordering::Acquire) {
                return false;
            }
            match end.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => std::thread::park_timeout(rest),
                _ => return true,
            }
        }
    }

    /// Renews the block, or only looks at it. Gives why it is lost; an error means that nobody knows.
    fn question<'a>(
        &self,
        talk: &mut Option<Talk<'a>>,
        renew: bool,
        stop: &'a Stop,
    ) -> Result<Option<String>, Failure> {
        let session = match talk {
            Some(session) => session,
            None => talk.insert(Talk::to(&self.bounded(), self.terms.lease / 4, stop)?),
        };
        if renew {
            let sql = format!(
                "{SERVER_TIME}SELECT {}.citus_backup_block_extend({}, {})",
                self.home,
                self.id,
                milliseconds(self.terms.lease)
            );
            match session.ask("renewal", &sql) {
                Ok(_) => return Ok(None),
                // Maybe not there any more; only the status knows.
                Err(Failure::Remote(RemoteError::Query { .. })) => *talk = None,
                Err(other) => return Err(other),
            }
            return match self.question(talk, false, stop)? {
                Some(why) => Ok(Some(why)),
                None => Err(Failure::Remote(RemoteError::Unexpected {
                    node: self.destination.target.node.clone(),
                    command: "renewal",
                    what: "a refusal, although the block is there",
                })),
            };
        }
        let sql = format!(
            "{SERVER_TIME}SELECT state IN ('active', 'releasing') AND block_id = {} AS there, block_id, state, error \
             FROM {}.citus_backup_block_status()",
            self.id, self.home
        );
        let reply = session.ask("block's status", &sql)?;
        let row = only_row(&reply)?;
        if row.is_true("there")? {
            return Ok(None);
        }
        let error =
            row.maybe::<String>("error")?.filter(|_| row.maybe("block_id") == Ok(Some(self.id)));
        Ok(Some(error.unwrap_or_else(|| "somebody has released it".to_owned())))
    }

    /// Connecting must leave time for another attempt.
    fn bounded(&self) -> Destination {
        let mut destination = self.destination.clone();
        destination.connect_timeout = destination.connect_timeout.min(self.terms.lease / 4);
        destination
    }

    fn tell(&self, trouble: Trouble) {
        debug!("block {}: {trouble:?}", self.id);
        *self.shared.trouble.lock() = Some(trouble);
    }
}
