//! A TCP proxy in front of a server, so that a test can break the network between nodes.
//!
//! ```text
//!            cut()                    freeze()
//! cut  <------------------  open  ------------------>  frozen
//!      ------------------>        <------------------
//!            heal()                    heal()
//! ```
//! Open forwards, each direction late by the set delay. Cut has reset every connection and refuses
//! new ones. Frozen keeps all connections and takes new ones, and forwards nothing in either
//! direction. Cut and frozen may follow each other directly.
//!
//! One thread accepts, and one per connection forwards. Each sleeps in `poll` over its sockets and
//! a wake-up pair. A change of state returns only once all of them have seen it.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use self::direction::Direction;
use crate::error::{Error, IoContext, Result};
use crate::ports::PortLease;

mod direction;

/// How long a connection to the server may take before its state is looked at again.
const CONNECT_SLICE: Duration = Duration::from_millis(250);

/// How long a change of state may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the link does with traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Frozen,
    Cut,
    /// The link goes away.
    Closed,
}

/// The way to one server. It is open until told otherwise, and closes when it goes away.
pub struct Link {
    name: String,
    port: PortLease,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    listen: SocketAddr,
    state: Mutex<State>,
    /// Someone has seen a change, or has ended.
    seen: Condvar,
}

struct State {
    target: SocketAddr,
    mode: Mode,
    delay: Duration,
    /// How long a connection may be silent before it is reset.
    patience: Option<Duration>,
    /// Where every second new connection leads.
    second: Option<SocketAddr>,
    /// Counts the changes.
    generation: u64,
    next_id: u64,
    /// The acceptor is the one with the id [`ACCEPTOR`].
    threads: HashMap<u64, ThreadState>,
    forwarded: u64,
    listen_error: Option<io::Error>,
}

struct ThreadState {
    wake: UnixStream,
    seen: u64,
}

const ACCEPTOR: u64 = 0;

/// What a thread is to do right now.
#[derive(Clone, Copy)]
struct Orders {
    mode: Mode,
    delay: Duration,
    patience: Option<Duration>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        write!(f, "link to {} ({:?})", self.name, state.mode)
    }
}

impl Link {
    /// Opens a link to a port on 127.0.0.1. `name` is for messages.
    pub fn open(name: &str, target_port: u16) -> Result<Link> {
        let port = PortLease::take()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let shared = Arc::new(Shared {
            listen,
            state: Mutex::new(State {
                target: SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)),
                mode: Mode::Open,
                delay: Duration::ZERO,
                patience: None,
                second: None,
                generation: 1,
                next_id: ACCEPTOR + 1,
                threads: HashMap::new(),
                forwarded: 0,
                listen_error: None,
            }),
            seen: Condvar::new(),
        });
        let listener = bind(listen).at("cannot listen for the link", name)?;
        let wake = shared.register(ACCEPTOR).at("cannot set up the link", name)?;
        let for_thread = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name(format!("link to {name}"))
            .spawn(move || for_thread.accept(listener, wake))
            .at("cannot start a thread for the link", name)?;
        Ok(Link { name: name.to_owned(), port, shared, acceptor: Some(acceptor) })
    }

    /// The port that leads to the server through this link.
    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// Resets every connection on both sides and refuses new ones.
    pub fn cut(&self) -> Result<()> {
        self.change(|state| state.mode = Mode::Cut)
    }

    /// Forwards nothing any more in either direction, silently: connections stay, new ones are
    /// taken and never answered. What was under way is delivered after [`Link::heal`].
    pub fn freeze(&self) -> Result<()> {
        self.change(|state| state.mode = Mode::Frozen)
    }

    /// Lets everything arrive this much later, in each direction. Zero ends it.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.change(|state| state.delay = delay)
    }

    /// Resets every connection through which nothing has gone for this long, in either direction, as firewalls and
    /// balancers do.
    pub fn forget_after(&self, patience: Duration) -> Result<()> {
        self.change(|state| state.patience = Some(patience))
    }

    /// Resets every connection, and leads new ones to another port on 127.0.0.1, as an address that moves on to
    /// another server does.
    pub fn lead_to(&self, target_port: u16) -> Result<()> {
        self.cut()?;
        self.change(|state| {
            state.target = SocketAddr::from((Ipv4Addr::LOCALHOST, target_port));
            state.mode = Mode::Open;
        })
    }

    /// Leads every second new connection to another port on 127.0.0.1, as a name with two addresses may.
    pub fn alternate_with(&self, port: u16) -> Result<()> {
        self.change(|state| state.second = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    /// Opens the link again, without delay, to one server alone, and with patience.
    pub fn heal(&self) -> Result<()> {
        self.change(|state| {
            state.mode = Mode::Open;
            state.delay = Duration::ZERO;
            state.patience = None;
            state.second = None;
        })
    }

    /// How many connections go through it now.
    pub fn connections(&self) -> usize {
        // The acceptor is no connection.
        self.shared.state.lock().threads.len().saturating_sub(1)
    }

    /// How many bytes went through it so far, in both directions.
    pub fn forwarded(&self) -> u64 {
        self.shared.state.lock().forwarded
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.shared.state.lock();
        change(&mut state);
        state.generation += 1;
        for thread in state.threads.values() {
            // It is only there to make the thread look; a full pair will make it look as well.
            let _ = (&thread.wake).write(&[0]);
        }
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let generation = state.generation;
            // A cut connection's thread has to be gone: only then is its socket closed.
            let cut = state.mode == Mode::Cut;
            let pending = state
                .threads
                .iter()
                .any(|(id, thread)| thread.seen < generation || (cut && *id != ACCEPTOR));
            if !pending {
                break;
            }
            if self.shared.seen.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::Timeout {
                    what: format!("the link to {} to become {:?}", self.name, state.mode).into(),
                    waited: CHANGE_TIMEOUT,
                });
            }
        }
        match state.listen_error.take() {
            Some(source) => Err(source).at("cannot listen for the link", &self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The threads end by themselves; this only waits so that no port is used any more.
        let _ = self.change(|state| state.mode = Mode::Closed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// Makes a thread known; it is woken through the returned end.
    fn register(&self, id: u64) -> io::Result<UnixStream> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let mut state = self.state.lock();
        let seen = state.generation;
        state.threads.insert(id, ThreadState { wake, seen });
        Ok(woken)
    }

    /// Reads the orders and their generation. They count as seen once they are confirmed.
    fn read_orders(&self, woken: &mut UnixStream) -> (Orders, u64) {
        // Drained before the look: a change after the look wakes again.
        let mut drained = [0u8; 64];
        while matches!(woken.read(&mut drained), Ok(read) if read > 0) {}
        let state = self.state.lock();
        let orders = Orders { mode: state.mode, delay: state.delay, patience: state.patience };
        (orders, state.generation)
    }

    fn confirm(&self, id: u64, generation: u64) {
        let mut state = self.state.lock();
        if let Some(thread) = state.threads.get_mut(&id)
            && thread.seen < generation
        {
            thread.seen = generation;
            drop(state);
            self.seen.notify_all();
        }
    }

    /// Reads the orders and, with that, promises to follow them from here on.
    fn orders(&self, id: u64, woken: &mut UnixStream) -> Orders {
        let (orders, generation) = self.read_orders(woken);
        self.confirm(id, generation);
        orders
    }

    /// A thread has ended and closed its sockets.
    fn unregister(&self, id: u64) {
        self.state.lock().threads.remove(&id);
        self.seen.notify_all();
    }

    fn accept(self: &Arc<Shared>, listener: TcpListener, mut woken: UnixStream) {
        let mut listener = Some(listener);
        loop {
            let (orders, generation) = self.read_orders(&mut woken);
            match orders.mode {
                Mode::Cut => listener = None,
                Mode::Closed => {
                    drop(listener);
                    self.unregister(ACCEPTOR);
                    return;
                }
                Mode::Open | Mode::Frozen if listener.is_none() => match bind(self.listen) {
                    Ok(bound) => listener = Some(bound),
                    Err(error) => self.state.lock().listen_error = Some(error),
                },
                Mode::Open | Mode::Frozen => {}
            }
            // Only now, as the listener is part of what a change changes.
            self.confirm(ACCEPTOR, generation);
            let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
            if let Some(listener) = &listener {
                fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            }
            wait(&mut fds, None);
            let has_client = fds.get(1).is_some_and(is_ready);
            if has_client
                && let Some(listener) = &listener
                && let Ok((client, _)) = listener.accept()
            {
                self.serve(client);
            }
        }
    }

    /// Gives a client a thread of its own. A failure resets the client, as an overloaded machine
    /// would.
    fn serve(self: &Arc<Shared>, client: TcpStream) {
        let id = {
            let mut state = self.state.lock();
            let id = state.next_id;
            state.next_id += 1;
            id
        };
        let Ok(woken) = self.register(id) else {
            reset_on_close(&client);
            return;
        };
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new().name(String::from("link")).spawn(move || {
            shared.run_connection(id, client, woken);
            shared.unregister(id);
        });
        if spawned.is_err() {
            self.unregister(id);
        }
    }

    fn run_connection(&self, id: u64, client: TcpStream, mut woken: UnixStream) {
        // Set at once: whatever way this ends but the orderly one, the peer is to see a reset.
        reset_on_close(&client);
        let Some(server) = self.reach_server(id, &mut woken) else {
            return;
        };
        reset_on_close(&server);
        let prepared = client
            .set_nonblocking(true)
            .and_then(|()| server.set_nonblocking(true))
            .and_then(|()| client.set_nodelay(true))
            .and_then(|()| server.set_nodelay(true));
        if prepared.is_ok() && self.forward(id, &client, &server, &mut woken).is_ok() {
            // Both sides have said goodbye and been told so.
            let _ = SockRef::from(&client).set_linger(None);
            let _ = SockRef::from(&server).set_linger(None);
        }
    }

    /// Connects to the server; `None` when the link is cut first or the server refuses.
    fn reach_server(&self, id: u64, woken: &mut UnixStream) -> Option<TcpStream> {
        loop {
            match self.orders(id, woken).mode {
                Mode::Cut | Mode::Closed => return None,
                Mode::Frozen => {
                    wait(&mut [PollFd::new(woken.as_fd(), PollFlags::POLLIN)], None);
                }
                Mode::Open => {
                    match TcpStream::connect_timeout(&self.target_of(id), CONNECT_SLICE) {
                        Ok(server) => return Some(server),
                        Err(error) if error.kind() == ErrorKind::TimedOut => {}
                        Err(_) => return None,
                    }
                }
            }
        }
    }

    /// Where a connection leads.
    fn target_of(&self, id: u64) -> SocketAddr {
        let state = self.state.lock();
        state.second.filter(|_| id.is_multiple_of(2)).unwrap_or(state.target)
    }

    /// Forwards until both sides have ended their direction (`Ok`), one of them breaks, or the link
    /// is cut.
    fn forward(
        &self,
        id: u64,
        client: &TcpStream,
        server: &TcpStream,
        woken: &mut UnixStream,
    ) -> io::Result<()> {
        let mut there = Direction::default();
        let mut back = Direction::default();
        let mut heard = Instant::now();
        loop {
            let orders = self.orders(id, woken);
            match orders.mode {
                Mode::Cut | Mode::Closed => return Err(ErrorKind::ConnectionAborted.into()),
                Mode::Frozen => {
                    // The sockets are not even looked at: what arrives stays in the kernel.
                    wait(&mut [PollFd::new(woken.as_fd(), PollFlags::POLLIN)], None);
                    continue;
                }
                Mode::Open => {}
            }

            let moved = there.send_due(server)? + back.send_due(client)?;
            if moved > 0 {
                heard = Instant::now();
                self.state.lock().forwarded += moved as u64;
            }
            if there.is_done() && back.is_done() {
                return Ok(());
            }

            let left = orders.patience.map(|patience| patience.saturating_sub(heard.elapsed()));
            if left == Some(Duration::ZERO) {
                return Err(ErrorKind::ConnectionAborted.into());
            }

            let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
            // Polled only for what can be used: a hang-up is reported whether asked for or not, and
            // would keep this loop spinning.
            let client_events = back.interest_of_receiver() | there.interest_of_sender();
            let server_events = there.interest_of_receiver() | back.interest_of_sender();
            let mut client_at = None;
            let mut server_at = None;
            if !client_events.is_empty() {
                client_at = Some(fds.len());
                fds.push(PollFd::new(client.as_fd(), client_events));
            }
            if !server_events.is_empty() {
                server_at = Some(fds.len());
                fds.push(PollFd::new(server.as_fd(), server_events));
            }
            let next_due = [there.due_in(), back.due_in(), left].into_iter().flatten().min();
            wait(&mut fds, next_due);
            let ready = |at: Option<usize>| at.is_some_and(|at| is_ready(&fds[at]));
            let (client_ready, server_ready) = (ready(client_at), ready(server_at));
            if client_ready {
                there.receive(client, orders.delay)?;
            }
            if server_ready {
                back.receive(server, orders.delay)?;
            }
        }
    }
}

/// Listens without blocking. A port that was listened on a moment ago can be taken again.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// From now on closing the socket sends a reset instead of an orderly end.
fn reset_on_close(stream: &TcpStream) {
    // It fails on a socket that is already dead, which needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| !events.is_empty())
}

/// Sleeps until one of the descriptors is ready or the time has passed.
fn wait(fds: &mut [PollFd<'_>], longest: Option<Duration>) {
    let timeout = match longest {
        None => PollTimeout::NONE,
        // Rounded up: waking before the time would spin.
        Some(longest) => {
            PollTimeout::try_from(longest + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
    };
    // The other errors mean a mistake in this file, and then not sleeping at all is safe.
    while poll(fds, timeout) == Err(Errno::EINTR) {}
}

#[cfg(test)]
mod tests;
