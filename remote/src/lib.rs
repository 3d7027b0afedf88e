//! Sessions with other nodes, over libpq, none of whose calls can block.
//!
//! This crate is the only one that knows libpq, and it knows nothing of the server it may run
//! in: whatever waits does so through [`Waiter`], which is a WaitEventSet in a backend, poll(2) in
//! a command ([`PollWaiter`]) and a script in tests.
//!
//! # The life of a call
//!
//! ```text
//!  ConnParams ──connect_all──> Session: Idle ──run_all──> Busy ──answer──> Idle
//!                 │                      │                 │ ├─ FATAL, EOF, COPY ──> Broken
//!                 │ failed, refused,     │ watch: EOF or   │ └─ deadline, stop ────> still Busy
//!                 │ deadline, stop       │ FATAL           │                             │
//!                 v                      v                 │               cancel_and_drain
//!              no session              Broken              v                 │           │
//!                                                     (Query error:    answered: Idle   else: Broken
//!                                                      Idle again)
//! ```
//!
//! 1. The caller makes [`ConnParams`] ([`base_params`], then what Citus' settings say; a program
//!    [`program_params`], then what its user says), one [`Target`] per node, and a [`Deadline`].
//! 2. [`connect_all`] starts every connection before it waits for the first; [`run_all`] sends
//!    every command before it waits for the first answer; [`Connecting`] does both, each session at
//!    its own pace. All give one result per node, in order.
//! 3. A command whose deadline passes leaves its session *Busy*: only [`cancel_and_drain`] brings
//!    it back, or closes it. A Busy session refuses another command, a *Broken* one has no
//!    connection any more.
//! 4. Between commands a held session stands under [`watch()`], which reports a lost connection at
//!    once and in the server's own words.
//!
//! Every way out is safe: connections and results are owned values, so an early return, or a
//! waiter that unwinds (a backend raises its ERROR as a panic through these frames), closes what
//! nobody owns any more. `PQfinish` on a non-blocking connection does not block.
//!
//! # What is bounded, and what libpq leaves open
//!
//! Only the non-blocking half of libpq is used, so a frozen host costs its caller the deadline and
//! nothing more. Two things happen inside `PQconnectStartParams` and `PQconnectPoll` that no
//! deadline of ours can interrupt: the lookup of a host *name* (getaddrinfo; node names that are
//! addresses, or `hostaddr`, avoid it) and, where a setting asks for `gssencmode` and there is a
//! Kerberos ticket, the talk to the KDC. And of a name with several addresses libpq only tries the
//! next one when the one before *fails*, not when it is silent.
//!
//! Closing a session does not end what its server process is doing: one that waits for a lock does
//! not look at its socket. So remote commands carry `lock_timeout` and `statement_timeout` of
//! their own.

#![deny(unsafe_code)]

mod cancel;
mod connection;
mod conninfo;
mod copy;
mod deadline;
mod drive;
mod error;
mod exchange;
mod fanout;
mod ffi;
mod node;
mod poll;
mod pq;
mod reply;
mod text;
mod wait;
mod watch;

#[cfg(any(test, feature = "script"))]
pub mod script;
#[cfg(test)]
mod tests;

pub use cancel::{DrainEnd, cancel_and_drain};
pub use connection::{Session, SessionState};
pub use conninfo::{ConnInfoError, ConnParams, base_params, program_params};
pub use copy::{CopyEnd, CopyError};
pub use deadline::{Deadline, Pause, pause};
pub use error::RemoteError;
pub use fanout::{Begun, Connecting, Target, connect_all, run_all};
pub use ffi::{LibPq, LoadedLibPq, loaded_libpq};
pub use node::NodeLabel;
pub use poll::{PollWaiter, ready_now};
pub use pq::{
    ConnStatus, CopyStep, Flush, Peer, PollStep, Pq, PqFailure, PqResult, ServerError, Severity,
    SqlState, StartError, TransactionStatus,
};
pub use reply::{Command, Reply, ResultSet};
pub use wait::{Interest, Readiness, WaitEnd, Waiter};
pub use watch::{IDLE_HOLD, WatchEnd, watch};
