//! One session outside of any transaction: for what a restore has to change, and for calls that make
//! transactions of their own; [`crate::server`] stands on it. Every question is bounded, and cancelled on the way out.

use std::time::Duration;

use remote::{
    Command, ConnParams, Deadline, LibPq, NodeLabel, PollWaiter, RemoteError, Reply, Session,
    Target, cancel_and_drain, connect_all,
};
use tracing::debug;

use crate::connection::Destination;
use crate::failure::Failure;
use crate::signals::Stop;

/// How long a cancel may take that is on the way out.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// A session. Dropping it closes it, in any state.
pub struct Talk<'a> {
    session: Session<LibPq>,
    waiter: PollWaiter,
    stop: &'a Stop,
    limit: Duration,
}

impl<'a> Talk<'a> {
    /// Connects to a place that somebody has named.
    pub fn to(
        destination: &Destination,
        limit: Duration,
        stop: &'a Stop,
    ) -> Result<Talk<'a>, Failure> {
        let target = &destination.target;
        let (node, params) = (target.node.clone(), target.params.clone());
        Talk::open(node, params, destination.connect_timeout, limit, stop)
    }

    /// Connects. `limit` is what each question may take.
    pub fn open(
        node: NodeLabel,
        params: ConnParams,
        connect_timeout: Duration,
        limit: Duration,
        stop: &'a Stop,
    ) -> Result<Talk<'a>, Failure> {
        debug!("connecting with {params}");
        let mut waiter = PollWaiter::with_stop(stop.flag());
        let deadline = Deadline::after(&waiter, connect_timeout);
        let targets = [Target { node, params }];
        let mut made = connect_all(&mut waiter, &targets, deadline);
        let session = match made.pop() {
            Some(made) => made.map_err(|error| or_told(error, stop))?,
            None => return Err(nothing_tried(&targets[0].node)),
        };
        Ok(Talk { session, waiter, stop, limit })
    }

    /// Where it is.
    pub fn place(&self) -> &NodeLabel {
        self.session.node()
    }

    /// Tells which process it is there, which a cancel needs where the startup packet did not say it.
    pub fn set_server_pid(&mut self, pid: i32) {
        self.session.set_server_pid(pid);
    }

    /// Runs one last statement, whatever comes of it, and closes.
    pub fn close_with(mut self, sql: &str, time: Duration) {
        let deadline = Deadline::after(&self.waiter, time);
        let _ = self.session.run(&mut self.waiter, Command::new("end", sql), deadline);
    }

    /// Asks, and waits for the answer. Several statements are one transaction, unless they say otherwise.
    pub fn ask(&mut self, name: &'static str, sql: &str) -> Result<Reply, Failure> {
        self.run(Command::new(name, sql))
    }

    /// The same of a command with parameters.
    pub fn run(&mut self, command: Command<'_>) -> Result<Reply, Failure> {
        let deadline = Deadline::after(&self.waiter, self.limit);
        self.session.run(&mut self.waiter, command, deadline).map_err(|error| {
            debug!("{error}");
            self.cancel();
            or_told(error, self.stop)
        })
    }

    /// Cancels what is under way. A signal does not stop this; a second one ends the program.
    fn cancel(&mut self) {
        let mut waiter = PollWaiter::new();
        let deadline = Deadline::after(&waiter, CANCEL_TIME);
        for end in cancel_and_drain(&mut waiter, &mut [&mut self.session], deadline) {
            debug!("after a cancel: {end:?}");
        }
    }
}

/// The error itself, or that a signal was its cause.
fn or_told(error: RemoteError, stop: &Stop) -> Failure {
    match (&error, stop.signal()) {
        (RemoteError::Stopped { .. }, Some(signal)) => Failure::ToldToStop { signal },
        _ => Failure::Remote(error),
    }
}

fn nothing_tried(node: &NodeLabel) -> Failure {
    Failure::Remote(RemoteError::Unexpected {
        node: node.clone(),
        command: "connect",
        what: "no result",
    })
}

/// A text as SQL takes it, whatever `standard_conforming_strings` says.
pub fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}
