//! INT, TERM, HUP and QUIT: told to stop, the program cancels what it has asked for, closes its session
//! and ends. Told a second time, it ends at once.
//!
//! A signal that is ignored when the program starts (HUP under nohup, INT in a script's
//! background) stays ignored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use crate::exit::Exit;

/// The signals that end the program.
const ENDING: [(i32, &str); 4] =
    [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP"), (SIGQUIT, "SIGQUIT")];

/// Whether, and by which signal, the program was told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    told: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Listens from here on. A second signal ends the program at once.
    pub fn listen() -> io::Result<Stop> {
        Self::listening(true)
    }

    /// The same for who has processes and a block to end: that takes a bounded time, and a second signal, which would
    /// leave them behind, changes nothing.
    pub fn listen_once() -> io::Result<Stop> {
        Self::listening(false)
    }

    /// One that somebody else's flag tells.
    pub fn of_flag(told: Arc<AtomicBool>) -> Stop {
        Stop { told, signal: Arc::default() }
    }

    fn listening(at_once: bool) -> io::Result<Stop> {
        let stop = Stop::default();
        let ignored = ignored_signals();
        for (signal, _) in ENDING {
            if is_in(ignored, signal) {
                continue;
            }
            // In this order: the first signal must not find the flag that it sets itself.
            if at_once {
                let code = i32::from(Exit::Failed.code());
                flag::register_conditional_shutdown(signal, code, Arc::clone(&stop.told))?;
            }
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&stop.signal), number)?;
            flag::register(signal, Arc::clone(&stop.told))?;
        }
        Ok(stop)
    }

    /// The flag that a waiter watches.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.told)
    }

    /// The number of the signal, once there was one.
    pub fn number(&self) -> Option<i32> {
        let number = self.signal.load(Ordering::Relaxed);
        i32::try_from(number).ok().filter(|number| *number > 0)
    }

    /// The name of the signal, once there was one.
    pub fn signal(&self) -> Option<&'static str> {
        let number = self.signal.load(Ordering::Relaxed);
        ENDING
            .into_iter()
            .find(|(signal, _)| usize::try_from(*signal).is_ok_and(|signal| signal == number))
            .map(|(_, name)| name)
    }
}

/// The signals that this process ignores, a bit each. Only Linux says so without unsafe code;
/// elsewhere none is taken to be ignored.
fn ignored_signals() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| mask(&status, "SigIgn:"))
        .unwrap_or_default()
}

/// A mask of signals in the text of /proc/self/status.
fn mask(status: &str, name: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(text.trim(), 16).ok()
}

/// Whether a signal is in a mask.
fn is_in(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).ok().and_then(|shift| mask.checked_shr(shift)).unwrap_or(0) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_masks() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        let ignored = mask(status, "SigIgn:").expect("a mask");
        assert!(is_in(ignored, SIGHUP));
        assert!(!is_in(ignored, SIGINT));
        assert!(!is_in(ignored, SIGTERM));
        assert_eq!(mask(status, "SigCgt:"), None);
    }

    #[test]
    fn nothing_has_been_said_at_first() {
        assert_eq!(Stop::default().signal(), None);
    }
}
