//! The bank's writers: threads that make transfers at full speed, and what they tell of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use postgres::Client;
use postgres::error::SqlState;

use crate::bank::{ACCOUNTS, Bank, ENTRIES};
use crate::cluster::Cluster;
use crate::connect::ConnectParams;
use crate::error::{Error, Result, describe};
use crate::wait::wait_until;

/// How long a writer waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How long the writers may take to finish what they are at.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

impl Bank {
    /// Starts `per_node` writers at every node, coordinator and workers, each on a straight
    /// connection and at full speed.
    pub fn start_writers(&self, cluster: &Cluster, per_node: usize) -> Result<Writers> {
        let nodes: Vec<usize> = (0..cluster.nodes().len()).collect();
        self.start_writers_at(cluster, &nodes, per_node)
    }

    /// Starts `per_node` writers at certain nodes.
    pub fn start_writers_at(
        &self,
        cluster: &Cluster,
        nodes: &[usize],
        per_node: usize,
    ) -> Result<Writers> {
        let shared = Arc::new(Shared::default());
        // Tells the transfers of several runs on one cluster apart.
        let run: String = std::iter::repeat_with(fastrand::alphanumeric).take(6).collect();
        let mut writers =
            Writers { started: Instant::now(), shared: Arc::clone(&shared), threads: Vec::new() };
        for &node in nodes {
            for number in 0..per_node {
                let params = cluster.node(node).connect_params().application_name("bank writer");
                // The first connection is made here, so that a mistake is an error and no noise.
                let client = params.connect()?;
                let writer = Writer {
                    bank: self.clone(),
                    params,
                    node,
                    prefix: format!("{run}-{node}-{number}"),
                    shared: Arc::clone(&shared),
                };
                let thread = thread::Builder::new()
                    .name(format!("bank writer {node}/{number}"))
                    .spawn(move || writer.run(client))
                    .map_err(|source| Error::Io {
                        action: "cannot start",
                        path: "a bank writer".into(),
                        source,
                    })?;
                writers.threads.push((node, thread));
            }
        }
        Ok(writers)
    }
}

/// A transfer that the server acknowledged.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Its id in `entries`.
    pub transfer: String,
    /// The node it was sent to.
    pub node: usize,
    /// When its BEGIN was sent.
    pub started: Instant,
    /// When its COMMIT was sent.
    pub commit_sent: Instant,
    /// When the COMMIT was acknowledged.
    pub acknowledged: Instant,
    /// How often it was rolled back and tried again before.
    pub retries: u32,
}

impl Mark {
    /// From its BEGIN to the acknowledgement, without the tries before.
    pub fn latency(&self) -> Duration {
        self.acknowledged - self.started
    }
}

/// What a writer was doing when an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connecting to its node.
    Connecting,
    /// Before COMMIT was sent: the transfer is not there.
    Working,
    /// After COMMIT was sent: the transfer may or may not be there.
    Committing,
}

/// An error that a writer met, other than those it retries (40001, 40P01).
#[derive(Clone, Debug)]
pub struct WriterError {
    /// The transfer it was at.
    pub transfer: String,
    /// The node it was connected to.
    pub node: usize,
    /// When it came.
    pub at: Instant,
    /// What it was doing.
    pub phase: Phase,
    /// The SQLSTATE, when a server sent one.
    pub sqlstate: Option<String>,
    /// The message in full.
    pub message: String,
}

/// What the writers did.
#[derive(Debug)]
pub struct Summary {
    /// All acknowledged transfers, in the order of their acknowledgements.
    pub acknowledged: Vec<Mark>,
    /// All errors, in order.
    pub errors: Vec<WriterError>,
    /// How many rollbacks for 40001 and 40P01 there were.
    pub retries: u64,
    /// From the start of the writers to the end of the last one.
    pub elapsed: Duration,
    /// The nodes of writers that did not come to an end, as on a server that is frozen. They are
    /// left to themselves.
    pub hung: Vec<usize>,
}

impl Summary {
    /// The latencies of all acknowledged transfers, shortest first.
    pub fn latencies(&self) -> Vec<Duration> {
        let mut all: Vec<Duration> = self.acknowledged.iter().map(Mark::latency).collect();
        all.sort_unstable();
        all
    }

    /// The latency that this share (0 to 1) of the transfers did not exceed; `None` without any.
    pub fn latency_at(&self, share: f64) -> Option<Duration> {
        let all = self.latencies();
        let last = all.len().checked_sub(1)?;
        // Truncation is meant: it is an index, and the share is held within its range.
        let index = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
        all.get(index).copied()
    }

    /// The ids of all acknowledged transfers.
    pub fn transfers(&self) -> impl Iterator<Item = &str> {
        self.acknowledged.iter().map(|mark| mark.transfer.as_str())
    }

    /// The ids of the transfers that were acknowledged before a moment.
    pub fn transfers_before(&self, moment: Instant) -> impl Iterator<Item = &str> {
        self.acknowledged
            .iter()
            .filter(move |mark| mark.acknowledged < moment)
            .map(|mark| mark.transfer.as_str())
    }
}

/// Writers at work. They stop when the value goes away.
pub struct Writers {
    started: Instant,
    shared: Arc<Shared>,
    threads: Vec<(usize, JoinHandle<()>)>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    hold: AtomicBool,
    /// How many wait because of that.
    held: AtomicUsize,
    /// The same as the length of the list below, to be read without its lock.
    acknowledged: AtomicU64,
    retries: AtomicU64,
    marks: Mutex<Vec<Mark>>,
    errors: Mutex<Vec<WriterError>>,
    /// Where writers that wait for another try to connect are woken to stop.
    pause: Mutex<()>,
    woken: Condvar,
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits as long as the writers are to wait.
    fn await_turn(&self) {
        let mut pause = self.pause.lock();
        self.held.fetch_add(1, Ordering::Relaxed);
        while self.hold.load(Ordering::Relaxed) && !self.is_stopping() {
            self.woken.wait(&mut pause);
        }
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Under the lock, so that nobody is between looking and waiting.
        let _pause = self.pause.lock();
        self.woken.notify_all();
    }
}

impl Writers {
    /// When the first was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How many transfers are acknowledged by now.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Has all of them wait before their next transfer, or go on.
    pub fn hold(&self, hold: bool) {
        self.shared.hold.store(hold, Ordering::Relaxed);
        // Under the lock, so that nobody is between looking and waiting.
        let _pause = self.shared.pause.lock();
        self.shared.woken.notify_all();
    }

    /// Waits until all of them wait.
    pub fn await_held(&self, timeout: Duration) -> Result<()> {
        let held = || self.shared.held.load(Ordering::Relaxed) == self.threads.len();
        wait_until("the writers to wait", timeout, || held().then_some(()))
    }

    /// The acknowledged transfers by now.
    pub fn marks(&self) -> Vec<Mark> {
        self.shared.marks.lock().clone()
    }

    /// The errors by now.
    pub fn errors(&self) -> Vec<WriterError> {
        self.shared.errors.lock().clone()
    }

    /// Waits until `more` further transfers are acknowledged.
    pub fn wait_for_more(&self, more: u64, timeout: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more transfers");
        wait_until(&what, timeout, || (self.acknowledged() >= goal).then_some(())).map_err(
            |error| match (error, self.errors().last()) {
                (Error::Timeout { what, waited }, Some(last)) => Error::Timeout {
                    what: format!(
                        "{what}; the last error of a writer (node {}) was {}",
                        last.node, last.message
                    )
                    .into(),
                    waited,
                },
                (error, _) => error,
            },
        )
    }

    /// Lets each finish its transfer, and returns what all of them did.
    pub fn stop(mut self) -> Summary {
        self.shared.ask_to_stop();
        // A writer that hangs shows below; what the others did is worth having all the same.
        let _ = wait_until("the writers' end", STOP_PATIENCE, || {
            let all_ended = self.threads.iter().all(|(_, thread)| thread.is_finished());
            all_ended.then_some(())
        });
        let elapsed = self.started.elapsed();
        let mut hung = Vec::new();
        for (node, thread) in self.threads.drain(..) {
            if !thread.is_finished() {
                hung.push(node);
            } else if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let mut acknowledged = self.shared.marks.lock().clone();
        acknowledged.sort_by_key(|mark| mark.acknowledged);
        let mut errors = self.shared.errors.lock().clone();
        errors.sort_by_key(|error| error.at);
        Summary {
            acknowledged,
            errors,
            retries: self.shared.retries.load(Ordering::Relaxed),
            elapsed,
            hung,
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        // Not waited for: they end with their transfer, or with their server.
        self.shared.ask_to_stop();
    }
}

/// One thread's work.
struct Writer {
    bank: Bank,
    params: ConnectParams,
    node: usize,
    prefix: String,
    shared: Arc<Shared>,
}

/// What became of one try.
enum Outcome {
    Acknowledged(Mark),
    TryAgain,
    Failed(Phase, postgres::Error),
}

impl Writer {
    fn run(self, client: Client) {
        let mut client = Some(client);
        let mut number = 0u64;
        while !self.shared.is_stopping() {
            self.shared.await_turn();
            number += 1;
            let transfer = format!("{}-{number}", self.prefix);
            let Some(connected) = self.connected(&mut client, &transfer) else {
                return;
            };
            if self.transfer(connected, &transfer) == Connection::IsDoubtful {
                client = None;
            }
        }
    }

    /// The connection, or a new one if it is gone; `None` when it is time to stop. Only the first of
    /// several refusals in a row is recorded.
    fn connected<'a>(
        &self,
        client: &'a mut Option<Client>,
        transfer: &str,
    ) -> Option<&'a mut Client> {
        let mut is_first = true;
        while client.is_none() {
            match self.params.config().connect(postgres::NoTls) {
                Ok(fresh) => *client = Some(fresh),
                Err(error) => {
                    if std::mem::take(&mut is_first) {
                        self.record(transfer, Phase::Connecting, &error);
                    }
                    let mut pause = self.shared.pause.lock();
                    if !self.shared.is_stopping() {
                        self.shared.woken.wait_for(&mut pause, RECONNECT_PAUSE);
                    }
                }
            }
            if self.shared.is_stopping() {
                return None;
            }
        }
        client.as_mut()
    }

    /// Makes one transfer, as often as it takes.
    fn transfer(&self, client: &mut Client, transfer: &str) -> Connection {
        let (first, second) = self.pick_accounts();
        let amount = fastrand::i64(1..=100) * if fastrand::bool() { 1 } else { -1 };
        for retries in 0.. {
            match self.attempt(client, transfer, (first, second), amount, retries) {
                Outcome::Acknowledged(mark) => {
                    self.shared.marks.lock().push(mark);
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return Connection::IsFine;
                }
                Outcome::TryAgain => {
                    self.shared.retries.fetch_add(1, Ordering::Relaxed);
                    if client.batch_execute("ROLLBACK").is_err() {
                        return Connection::IsDoubtful;
                    }
                    if self.shared.is_stopping() {
                        return Connection::IsFine;
                    }
                }
                Outcome::Failed(phase, error) => {
                    self.record(transfer, phase, &error);
                    // Whatever state the session is in, the next transfer gets a new one.
                    return Connection::IsDoubtful;
                }
            }
        }
        Connection::IsFine
    }

    /// Two accounts on different nodes, the one with the smaller number first: as every writer takes
    /// its locks in that order, they never wait for each other in a circle.
    fn pick_accounts(&self) -> (i64, i64) {
        let nodes = &self.bank.by_node;
        let one = fastrand::usize(..nodes.len());
        let other = (one + fastrand::usize(1..nodes.len())) % nodes.len();
        let pick = |node: usize| {
            let accounts = &nodes[node].1;
            accounts[fastrand::usize(..accounts.len())]
        };
        let (one, other) = (pick(one), pick(other));
        (one.min(other), one.max(other))
    }

    fn attempt(
        &self,
        client: &mut Client,
        transfer: &str,
        (first, second): (i64, i64),
        amount: i64,
        retries: u32,
    ) -> Outcome {
        let sql = |table, account: i64, template: String| {
            self.bank.engine.shard_sql(table, account, &template)
        };
        let update = |account: i64, amount: i64| {
            sql(
                ACCOUNTS,
                account,
                format!("UPDATE %s SET balance = balance + {amount} WHERE id = {account}"),
            )
        };
        let insert = |account: i64, amount: i64| {
            sql(
                ENTRIES,
                account,
                format!(
                    "INSERT INTO %s (account_id, transfer_id, amount) \
                     VALUES ({account}, '{transfer}', {amount})"
                ),
            )
        };
        let statements = [
            String::from("BEGIN"),
            update(first, -amount),
            insert(first, -amount),
            update(second, amount),
            insert(second, amount),
        ];
        let started = Instant::now();
        for statement in &statements {
            if let Err(error) = client.batch_execute(statement) {
                return classify(Phase::Working, error);
            }
        }
        let commit_sent = Instant::now();
        match client.batch_execute("COMMIT") {
            Ok(()) => Outcome::Acknowledged(Mark {
                transfer: transfer.to_owned(),
                node: self.node,
                started,
                commit_sent,
                acknowledged: Instant::now(),
                retries,
            }),
            Err(error) => classify(Phase::Committing, error),
        }
    }

    fn record(&self, transfer: &str, phase: Phase, error: &postgres::Error) {
        self.shared.errors.lock().push(WriterError {
            transfer: transfer.to_owned(),
            node: self.node,
            at: Instant::now(),
            phase,
            sqlstate: error.code().map(|code| code.code().to_owned()),
            message: describe(error),
        });
    }
}

/// Whether a session can go on.
#[derive(PartialEq)]
enum Connection {
    IsFine,
    IsDoubtful,
}

fn classify(phase: Phase, error: postgres::Error) -> Outcome {
    match error.code() {
        Some(code)
            if *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::T_R_DEADLOCK_DETECTED =>
        {
            Outcome::TryAgain
        }
        _ => Outcome::Failed(phase, error),
    }
}
