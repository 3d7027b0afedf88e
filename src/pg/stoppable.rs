//! A wait that a cancel or a termination ends by a return, and not by an ERROR out of the middle.
//!
//! For those who hold remote sessions in a place of their own (in an ordinary wait the guards on the
//! stack let go of everything).  FATAL does not even unwind: `proc_exit` is called from where the
//! interrupt is served, and callbacks on the way out would find that place borrowed.

use std::time::Duration;

use pgrx::pg_sys;

use super::wait::{self, BackendWaiter};
use remote::{Interest, WaitEnd, Waiter};

/// Like [`wait::interruptible`], but ends with [`WaitEnd::Stopped`]; then call [`serve`].
pub struct Stoppable;

impl Waiter for Stoppable {
    fn now(&self) -> Duration {
        wait::monotonic_now()
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        if must_end() {
            return WaitEnd::Stopped;
        }
        let end = {
            let _held = HeldInterrupts::hold();
            BackendWaiter::new(must_end).wait(interests, timeout)
        };
        if !must_end() {
            // Others' requests (cache invalidations, barriers), which do not end anything.
            serve();
        }
        end
    }
}

/// Serves interrupts: raises the ERROR or ends the process if that is what is asked for.
pub fn serve() {
    pgrx::check_for_interrupts!();
}

/// Whether serving interrupts would end the statement or the process.
fn must_end() -> bool {
    // SAFETY: flags that signal handlers of this process set.
    let asked = unsafe {
        std::ptr::read_volatile(&raw const pg_sys::QueryCancelPending) != 0
            || std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0
            || std::ptr::read_volatile(&raw const pg_sys::ClientConnectionLost) != 0
    };
    asked || transaction_timed_out() || client_is_gone()
}

/// What serving interrupts would find out, and end the process for, where it is time to look
/// (`client_connection_check_interval`).
fn client_is_gone() -> bool {
    // SAFETY: as in must_end().
    let time_to_look =
        unsafe { std::ptr::read_volatile(&raw const pg_sys::CheckClientConnectionPending) != 0 };
    time_to_look && {
        let _held = HeldInterrupts::hold();
        wait::wait_latch_or_client_gone(Duration::ZERO)
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn transaction_timed_out() -> bool {
    false
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn transaction_timed_out() -> bool {
    // SAFETY: as in must_end().
    unsafe { std::ptr::read_volatile(&raw const pg_sys::TransactionTimeoutPending) != 0 }
}

/// What `HOLD_INTERRUPTS` and `RESUME_INTERRUPTS` are in C.
struct HeldInterrupts;

impl HeldInterrupts {
    fn hold() -> Self {
        // SAFETY: a counter of this process, changed by nobody else during this call.
        unsafe { pg_sys::InterruptHoldoffCount += 1 }
        Self
    }
}

impl Drop for HeldInterrupts {
    fn drop(&mut self) {
        // SAFETY: as in hold().  An ERROR on the way may have reset it.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) }
    }
}
