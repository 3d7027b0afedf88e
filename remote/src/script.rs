//! A scripted libpq and a waiter on a virtual clock.
//!
//! Each test has a world of its own (its thread's): per host a queue of scripts, one for each
//! connection that is made to it. The scripted connection is strict: whatever would block, or
//! break libpq's rules, panics.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use crate::*;

mod answers;
mod waiter;

pub use answers::*;
pub use waiter::ScriptWaiter;

/// Milliseconds on the virtual clock.
pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What arrives from the server.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A result of the command.
    Result(PqResult),
    /// A row of a COPY.
    Row(&'static [u8]),
    /// No more rows of it.
    CopyDone,
    /// ReadyForQuery.
    Ready,
    /// The connection closes, and libpq says this of it.
    Eof(&'static str),
    /// An error while no command runs.
    LastWords(ServerError),
    /// A notice: readable, and nothing in it.
    Notice,
}

/// How one connection will behave.
#[derive(Clone, Debug)]
pub struct Script {
    /// What each `PQconnectPoll` gives, how long its wait is, and whether the socket changes.
    steps: VecDeque<(u64, PollStep, bool)>,
    /// What arrives, so long after each command; the last entry serves all further commands.
    answers: VecDeque<Vec<(u64, Incoming)>>,
    /// How many flushes leave something unsent, for each command.
    partial_flushes: usize,
    /// What arrives so long after connecting, unasked.
    unasked: Vec<(u64, Incoming)>,
    /// How long `PQconnectStart` takes, as when it looks up a name.
    start_takes: u64,
    /// How many answers of the server come before the start-up packet has left.
    negotiations: usize,
    /// Set if `PQconnectStart` itself fails.
    start: Option<StartError>,
    /// `PQerrorMessage` after a failed connect.
    failure: &'static str,
    needs_password: bool,
    /// Whether `pg_cancel_backend` ends the command, and how long that takes.
    cancellable: Option<u64>,
    send_fails: bool,
    flush_fails: bool,
}

impl Script {
    /// A server that is there after a while and answers `SELECT 1` to everything at once.
    pub fn connects(after: u64) -> Self {
        Self {
            steps: VecDeque::from([
                (0, PollStep::Write, false),
                (after, PollStep::Read, false),
                (0, PollStep::Ready, false),
            ]),
            answers: VecDeque::from([rows(0)]),
            partial_flushes: 0,
            unasked: Vec::new(),
            start_takes: 0,
            negotiations: 0,
            start: None,
            failure: "",
            needs_password: false,
            cancellable: None,
            send_fails: false,
            flush_fails: false,
        }
    }

    /// A server that never answers; the TCP connection stands.
    pub fn silent() -> Self {
        Self::connects(u64::MAX)
    }

    /// A connection that fails after a while, and libpq's words for it.
    pub fn fails(after: u64, failure: &'static str) -> Self {
        let steps = [(after, PollStep::Write, false), (0, PollStep::Failed, false)];
        Self { steps: steps.into(), failure, ..Self::connects(0) }
    }

    /// A connection that cannot be started.
    pub fn no_start(error: StartError) -> Self {
        Self { start: Some(error), ..Self::connects(0) }
    }

    /// `PQconnectStart` takes so long.
    pub fn start_takes(mut self, milliseconds: u64) -> Self {
        self.start_takes = milliseconds;
        self
    }

    /// Asks for something before the start-up packet, as for TLS, and has its answer after a while.
    pub fn negotiates(mut self, after: u64) -> Self {
        self.negotiations += 1;
        self.steps.insert(1, (after, PollStep::Read, false));
        self
    }

    /// libpq never says that the start-up packet has left.
    pub fn untold(mut self) -> Self {
        self.negotiations = usize::MAX;
        self
    }

    /// Asked for a password that it does not have.
    pub fn needs_password(mut self) -> Self {
        self.needs_password = true;
        self
    }

    /// Another socket after each step of connecting.
    pub fn changing_socket(mut self) -> Self {
        self.steps.iter_mut().for_each(|step| step.2 = true);
        self
    }

    /// Answers commands with these, in order, the last again and again.
    pub fn answers(mut self, answers: impl IntoIterator<Item = Vec<(u64, Incoming)>>) -> Self {
        self.answers = answers.into_iter().collect();
        self
    }

    /// The socket takes each command only in so many parts more.
    pub fn partial_flushes(mut self, count: usize) -> Self {
        self.partial_flushes = count;
        self
    }

    /// Something arrives unasked.
    pub fn unasked(mut self, after: u64, incoming: Incoming) -> Self {
        self.unasked.push((after, incoming));
        self
    }

    /// `pg_cancel_backend` works, so long after it is called.
    pub fn cancellable(mut self, after: u64) -> Self {
        self.cancellable = Some(after);
        self
    }

    /// `PQsendQuery` fails.
    pub fn send_fails(mut self) -> Self {
        self.send_fails = true;
        self
    }

    /// `PQflush` fails.
    pub fn flush_fails(mut self) -> Self {
        self.flush_fails = true;
        self
    }
}

/// Everything the scripted connections of a test share.
#[derive(Default)]
struct World {
    now: Duration,
    scripts: HashMap<String, VecDeque<Script>>,
    conns: HashMap<RawFd, Rc<RefCell<Conn>>>,
    /// Connections that have not been finished.
    open: usize,
    last_socket: RawFd,
    last_pid: i32,
    sent: Vec<String>,
    asked_for: Vec<String>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Does something with the world.
fn world<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(work)
}

/// Adds a connection's script to a host, and gives the host's target.
pub fn node(host: &str, scripts: impl IntoIterator<Item = Script>) -> Target {
    world(|world| world.scripts.entry(host.into()).or_default().extend(scripts));
    Target {
        node: NodeLabel::unregistered(host, 5432),
        params: base_params(host, 5432, "bank", "backup", "citus_fence", ms(1000)),
    }
}

/// How many connections are open.
pub fn open_connections() -> usize {
    world(|world| world.open)
}

/// The commands sent so far, `host: sql`.
pub fn sent() -> Vec<String> {
    world(|world| world.sent.clone())
}

/// Where the connections so far have been asked for: the address, or else the name.
pub fn asked_for() -> Vec<String> {
    world(|world| world.asked_for.clone())
}

/// Adds what somebody else does to the commands sent, so that their order can be told.
pub fn note(what: &str) {
    world(|world| world.sent.push(what.to_owned()));
}

/// Scripted connection.
struct Conn {
    host: String,
    socket: Option<RawFd>,
    pid: i32,
    script: Script,
    status: ConnStatus,
    nonblocking: bool,
    /// The step of connecting that is under way, and when its socket is ready.
    step: Option<(Duration, PollStep)>,
    /// What is on its way.
    arriving: VecDeque<(Duration, Incoming)>,
    /// What has been read.
    read: VecDeque<Incoming>,
    in_command: bool,
    /// Whether a transaction is open once the command has ended.
    in_transaction: bool,
    flushes_left: usize,
    /// Set once the whole command is sent: what is to arrive then.
    answer: Option<Vec<(u64, Incoming)>>,
    message: String,
    last_words: Option<ServerError>,
}

impl Conn {
    /// When it can be read.
    fn readable_at(&self) -> Option<Duration> {
        match self.step {
            Some((at, PollStep::Read)) => Some(at),
            Some(_) => None,
            None => self.arriving.front().map(|(at, _)| *at),
        }
    }

    /// When it can be written.
    fn writable_at(&self, now: Duration) -> Option<Duration> {
        match self.step {
            Some((at, PollStep::Write)) => Some(at),
            Some(_) => None,
            // Each part takes a millisecond.
            None => self.answer.is_some().then(|| now + ms(1)),
        }
    }

    /// Puts something on its way, so long from now.
    fn arrive(&mut self, now: Duration, what: Vec<(u64, Incoming)>) {
        self.arriving.extend(what.into_iter().map(|(after, what)| (now + ms(after), what)));
        self.arriving.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    /// Answers say `$pid` where the server process reports its own, `$host` where its name belongs, and
    /// `$host_number` for the number that this ends with.
    fn fill_in(&mut self) {
        let number = self.host.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let known = [
            ("$pid", self.pid.to_string()),
            ("$host", self.host.clone()),
            ("$host_number", number.to_owned()),
        ];
        for (_, incoming) in self.answer.iter_mut().flatten() {
            if let Incoming::Result(PqResult::Set(set)) = incoming {
                let cells = set.rows.iter_mut().flatten().flatten();
                for cell in cells {
                    if let Some((_, value)) = known.iter().find(|(name, _)| name == cell) {
                        cell.clone_from(value);
                    }
                }
            }
        }
    }

    /// The connection is gone.
    fn close(&mut self, message: &str) {
        self.status = ConnStatus::Bad;
        self.message = message.into();
    }
}

/// The scripted libpq.
pub struct ScriptPq(Rc<RefCell<Conn>>);

impl Drop for ScriptPq {
    fn drop(&mut self) {
        let socket = self.0.borrow().socket;
        world(|world| {
            world.open -= 1;
            socket.map(|socket| world.conns.remove(&socket))
        });
    }
}

impl ScriptPq {
    /// Gives the connection a new socket, as libpq does between its attempts.
    fn change_socket(&self) {
        world(|world| {
            world.last_socket += 1;
            let old = self.0.borrow_mut().socket.replace(world.last_socket);
            old.map(|old| world.conns.remove(&old));
            world.conns.insert(world.last_socket, Rc::clone(&self.0));
        });
    }

    /// A command's bytes are all given to the connection.
    fn send(&mut self, sql: String) -> Result<(), PqFailure> {
        let mut conn = self.0.borrow_mut();
        assert!(conn.nonblocking, "sending in blocking mode");
        assert!(!conn.in_command, "sending while a command is under way");
        if conn.script.send_fails {
            conn.close("no connection to the server\n");
            return Err(PqFailure);
        }
        conn.in_command = true;
        conn.flushes_left = conn.script.partial_flushes;
        conn.answer = match conn.script.answers.len() {
            1 => conn.script.answers.front().cloned(),
            _ => conn.script.answers.pop_front(),
        };
        conn.fill_in();
        conn.in_transaction =
            sql.contains("BEGIN") || conn.in_transaction && !sql.contains("ROLLBACK");
        let host = conn.host.clone();
        drop(conn);
        world(|world| {
            world.sent.push(format!("{host}: {sql}"));
            let pid = sql.split_once("pg_cancel_backend(").and_then(|(_, rest)| {
                rest.split_once(')').and_then(|(pid, _)| pid.parse::<i32>().ok())
            });
            let victims = world.conns.values().filter(|conn| {
                conn.try_borrow().is_ok_and(|conn| Some(conn.pid) == pid && conn.host == host)
            });
            for victim in victims {
                let mut victim = victim.borrow_mut();
                if let Some(after) = victim.script.cancellable
                    && victim.in_command
                {
                    // What would have come later does not come any more.
                    let ends_at = world.now + ms(after);
                    victim.arriving.retain(|(at, _)| *at <= ends_at);
                    if victim.arriving.is_empty() && victim.read.is_empty() {
                        let message = "canceling statement due to user request";
                        victim.arrive(world.now, fails(after, "57014", message));
                    }
                }
            }
        });
        Ok(())
    }
}

impl Pq for ScriptPq {
    fn start(params: &ConnParams) -> Result<Self, StartError> {
        let host = params.get("host").unwrap_or_default().to_owned();
        let place = params.get("hostaddr").unwrap_or(&host).to_owned();
        let (script, pid) = world(|world| {
            world.asked_for.push(place);
            world.last_pid += 1;
            let script = world.scripts.get_mut(&host).and_then(VecDeque::pop_front);
            (script.expect("a connection that no script is for"), world.last_pid)
        });
        if let Some(error) = script.start {
            return Err(error);
        }
        let now = world(|world| {
            world.now += ms(script.start_takes);
            world.now
        });
        let mut steps = script.steps.clone();
        let first = steps.pop_front().expect("a first step");
        let conn = Conn {
            host,
            socket: None,
            pid,
            status: ConnStatus::Reaching,
            nonblocking: false,
            step: Some((now.saturating_add(ms(first.0)), PollStep::Write)),
            arriving: VecDeque::new(),
            read: VecDeque::new(),
            in_command: false,
            in_transaction: false,
            flushes_left: 0,
            answer: None,
            message: String::new(),
            last_words: None,
            script: Script { steps, ..script },
        };
        world(|world| world.open += 1);
        let this = Self(Rc::new(RefCell::new(conn)));
        this.change_socket();
        Ok(this)
    }

    fn connect_poll(&mut self) -> PollStep {
        let now = world(|world| world.now);
        let mut conn = self.0.borrow_mut();
        let (due, _) = conn.step.take().expect("polling a connection that is made");
        assert!(due <= now, "polling a connection whose socket is not ready");
        let (after, step, new_socket) = conn.script.steps.pop_front().expect("a next step");
        match step {
            PollStep::Read | PollStep::Write => {
                conn.status = match conn.script.negotiations.checked_sub(1) {
                    Some(left) => {
                        conn.script.negotiations = left;
                        ConnStatus::Answering
                    }
                    None => ConnStatus::Introduced,
                };
                conn.step = Some((now.saturating_add(ms(after)), step));
            }
            PollStep::Ready => {
                conn.status = ConnStatus::Ok;
                let unasked = conn.script.unasked.clone();
                conn.arrive(now, unasked);
            }
            PollStep::Failed => {
                let failure = conn.script.failure;
                conn.close(failure);
            }
        }
        drop(conn);
        if new_socket {
            self.change_socket();
        }
        step
    }

    fn socket(&self) -> Option<RawFd> {
        let conn = self.0.borrow();
        conn.socket.filter(|_| conn.status != ConnStatus::Bad)
    }

    fn status(&self) -> ConnStatus {
        self.0.borrow().status
    }

    fn peer(&self) -> Option<Peer> {
        let host = self.0.borrow().host.clone();
        let address = Some(format!("address of {host}"));
        (!host.is_empty()).then_some(Peer { host, address, port: 5432 })
    }

    fn error_message(&self) -> String {
        self.0.borrow().message.clone()
    }

    fn needs_password(&self) -> bool {
        self.0.borrow().script.needs_password
    }

    fn transaction_status(&self) -> TransactionStatus {
        let conn = self.0.borrow();
        match (conn.status, conn.in_command) {
            (ConnStatus::Ok, true) => TransactionStatus::Active,
            (ConnStatus::Ok, false) if conn.in_transaction => TransactionStatus::InTransaction,
            (ConnStatus::Ok, false) => TransactionStatus::Idle,
            _ => TransactionStatus::Unknown,
        }
    }

    fn backend_pid(&self) -> i32 {
        self.0.borrow().pid
    }

    fn set_nonblocking(&mut self) -> Result<(), PqFailure> {
        self.0.borrow_mut().nonblocking = true;
        Ok(())
    }

    fn send_query(&mut self, sql: &CStr) -> Result<(), PqFailure> {
        self.send(sql.to_string_lossy().into_owned())
    }

    fn send_query_params(
        &mut self,
        sql: &CStr,
        params: &[Option<CString>],
    ) -> Result<(), PqFailure> {
        self.send(format!("{} {params:?}", sql.to_string_lossy()))
    }

    fn flush(&mut self) -> Result<Flush, PqFailure> {
        let now = world(|world| world.now);
        let mut conn = self.0.borrow_mut();
        if conn.script.flush_fails {
            conn.close("could not send data to server: Broken pipe\n");
            return Err(PqFailure);
        }
        if conn.flushes_left > 0 {
            conn.flushes_left -= 1;
            return Ok(Flush::Pending);
        }
        if let Some(answer) = conn.answer.take() {
            conn.arrive(now, answer);
        }
        Ok(Flush::Done)
    }

    fn consume_input(&mut self) -> Result<(), PqFailure> {
        let now = world(|world| world.now);
        let mut conn = self.0.borrow_mut();
        while conn.arriving.front().is_some_and(|(at, _)| *at <= now) {
            match conn.arriving.pop_front() {
                Some((_, Incoming::Eof(message))) => conn.close(message),
                Some((_, incoming)) => conn.read.push_back(incoming),
                None => {}
            }
        }
        match conn.status {
            ConnStatus::Bad => Err(PqFailure),
            _ => Ok(()),
        }
    }

    fn is_busy(&mut self) -> bool {
        let mut conn = self.0.borrow_mut();
        if conn.in_command {
            while matches!(conn.read.front(), Some(Incoming::Notice)) {
                conn.read.pop_front();
            }
            return conn.read.is_empty() && conn.status != ConnStatus::Bad;
        }
        while let Some(incoming) = conn.read.pop_front() {
            if let Incoming::LastWords(error) = incoming {
                conn.last_words = Some(error);
            }
        }
        false
    }

    fn get_result(&mut self) -> Option<PqResult> {
        assert!(!self.is_busy(), "get_result would block");
        let mut conn = self.0.borrow_mut();
        match conn.read.pop_front() {
            Some(Incoming::Result(result)) => Some(result),
            Some(_) => {
                conn.in_command = false;
                None
            }
            // As libpq: one error of its own for a lost connection, then the end.
            None if conn.in_command && conn.status == ConnStatus::Bad => {
                conn.in_command = false;
                Some(PqResult::Error(ServerError {
                    severity: Severity::Error,
                    sqlstate: None,
                    message: conn.message.clone(),
                    detail: None,
                    hint: None,
                    context: None,
                }))
            }
            None => None,
        }
    }

    fn get_copy_data(&mut self, sink: &mut dyn FnMut(&[u8])) -> CopyStep {
        let next = self.0.borrow_mut().read.pop_front();
        match next {
            Some(Incoming::Row(row)) => {
                sink(row);
                CopyStep::Row
            }
            Some(Incoming::CopyDone) => CopyStep::End,
            // An error in the middle, which `get_result` has.
            Some(other) => {
                self.0.borrow_mut().read.push_front(other);
                CopyStep::End
            }
            None if self.0.borrow().status == ConnStatus::Bad => CopyStep::End,
            None => CopyStep::Pending,
        }
    }

    fn put_copy_data(&mut self, data: &[u8]) -> Result<(), PqFailure> {
        note(&format!("data: {}", String::from_utf8_lossy(data)));
        Ok(())
    }

    fn put_copy_end(&mut self) -> Result<(), PqFailure> {
        note("end of data");
        Ok(())
    }

    fn take_last_words(&mut self) -> Option<ServerError> {
        self.0.borrow_mut().last_words.take()
    }
}

/// Sessions on all targets, all of which must succeed.
pub fn sessions(targets: &[Target]) -> Vec<Session<ScriptPq>> {
    let mut waiter = ScriptWaiter::default();
    let deadline = Deadline::after(&waiter, ms(10_000));
    connect_all(&mut waiter, targets, deadline)
        .into_iter()
        .map(|session| session.expect("a session"))
        .collect()
}

/// A session on one scripted node.
pub fn session(host: &str, scripts: impl IntoIterator<Item = Script>) -> Session<ScriptPq> {
    sessions(&[node(host, scripts)]).remove(0)
}
