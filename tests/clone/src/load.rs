//! Writers at work: a thread for each kind at each node, with a session of its own and hardly a pause, and the bank's.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use test_cluster::postgres::{Client, Error, NoTls, Statement};
use test_cluster::{Cluster, ConnectParams, Engine, Result, Writers, describe, wait_until};

use crate::book::{Beat, Book, Miss, WriterBook};
use crate::kind::{Kind, PREPARED, Say};
use crate::tables::Tables;

/// How many turns a writer can have before its numbers meet the next one's.
const TURNS: i64 = 10_000_000;
/// How long a writer waits between two turns: without it the quick kinds leave the slow ones next to nothing of the
/// machine.
const THINKING: Duration = Duration::from_millis(5);
/// How long a writer waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// How long the writers may take to finish their turns.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Writers at work. They stop when the value goes away.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<Working>,
    bank: Option<Writers>,
}

struct Working {
    book: Arc<Mutex<WriterBook>>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    hold: AtomicBool,
    pause: Mutex<()>,
    woken: Condvar,
}

impl Load {
    /// Starts a writer of each kind at each of these nodes, and with `transfers` one of the bank's at each.
    pub fn start(
        cluster: &Cluster,
        tables: &Tables,
        nodes: &[usize],
        kinds: &[Kind],
        transfers: bool,
    ) -> Result<Load> {
        let shared = Arc::new(Shared::default());
        let mut load = Load { shared: Arc::clone(&shared), writers: Vec::new(), bank: None };
        for &node in nodes {
            for &kind in kinds {
                let number = tables.new_writer(cluster, kind)?;
                let params = cluster.node(node).connect_params().application_name("writer");
                // The first connection is made here, so that a mistake is an error and no noise.
                let client = params.connect()?;
                let book = Arc::new(Mutex::new(WriterBook {
                    writer: number,
                    node,
                    kind,
                    acknowledged: Vec::new(),
                    refused: Vec::new(),
                    unknown: Vec::new(),
                    unconnected: Vec::new(),
                    beats: Vec::new(),
                    hung: true,
                }));
                let acknowledged = Arc::new(AtomicU64::new(0));
                let writer = Writer {
                    engine: tables.engine(),
                    kind,
                    number,
                    params,
                    book: Arc::clone(&book),
                    acknowledged: Arc::clone(&acknowledged),
                    shared: Arc::clone(&shared),
                };
                let thread = std::thread::spawn(move || writer.run(client));
                load.writers.push(Working { book, acknowledged, thread });
            }
        }
        if transfers {
            load.bank = Some(tables.bank.start_writers_at(cluster, nodes, 1)?);
        }
        Ok(load)
    }

    /// The whole of an engine's kinds and transfers at all nodes.
    pub fn start_everywhere(cluster: &Cluster, tables: &Tables) -> Result<Load> {
        let nodes: Vec<usize> = (0..cluster.nodes().len()).collect();
        Load::start(cluster, tables, &nodes, Kind::all(tables.engine()), true)
    }

    /// Acknowledged turns and transfers by now.
    pub fn acknowledged(&self) -> u64 {
        let turns: u64 =
            self.writers.iter().map(|writer| writer.acknowledged.load(Ordering::Relaxed)).sum();
        turns + self.bank.as_ref().map_or(0, Writers::acknowledged)
    }

    /// Waits until every writer has `more` turns acknowledged than now, and the bank as many transfers.
    pub fn wait_for_each(&self, more: u64, timeout: Duration) -> Result<()> {
        let goals: Vec<u64> = self
            .writers
            .iter()
            .map(|writer| writer.acknowledged.load(Ordering::Relaxed) + more)
            .collect();
        if let Some(bank) = &self.bank {
            bank.wait_for_more(more, timeout)?;
        }
        let late = || {
            let pairs = self.writers.iter().zip(&goals);
            pairs.filter(|(writer, goal)| writer.acknowledged.load(Ordering::Relaxed) < **goal)
        };
        wait_until("every writer's turn", timeout, || late().next().is_none().then_some(()))
            .map_err(|error| {
                let late: Vec<String> = late()
                    .map(|(writer, _)| {
                        let book = writer.book.lock();
                        let last = [&book.refused, &book.unknown, &book.unconnected]
                            .into_iter()
                            .filter_map(|misses| misses.last())
                            .max_by_key(|miss| miss.at)
                            .map_or("no error", |miss| miss.message.as_str());
                        format!("{:?} at node {}, which last met: {last}", book.kind, book.node)
                    })
                    .collect();
                test_cluster::Error::Environment(format!("{error}: {}", late.join("; ")))
            })
    }

    /// Has all of them wait before their next turn, or go on.
    pub fn hold(&self, hold: bool) {
        self.shared.hold.store(hold, Ordering::Relaxed);
        self.shared.wake();
        if let Some(bank) = &self.bank {
            bank.hold(hold);
        }
    }

    /// Lets each finish its turn, and returns what all of them did.
    pub fn stop(mut self) -> Book {
        self.shared.ask_to_stop();
        // Whoever hangs shows in its book.
        let _ = wait_until("the writers' end", STOP_PATIENCE, || {
            self.writers.iter().all(|writer| writer.thread.is_finished()).then_some(())
        });
        let mut book = Book::default();
        for writer in self.writers.drain(..) {
            if writer.thread.is_finished()
                && let Err(panic) = writer.thread.join()
            {
                std::panic::resume_unwind(panic);
            }
            book.writers.push(writer.book.lock().clone());
        }
        book.bank.extend(self.bank.take().map(Writers::stop));
        book
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.ask_to_stop();
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends early when it is time to stop.
    fn pause(&self, time: Duration) {
        let mut pause = self.pause.lock();
        if !self.is_stopping() {
            self.woken.wait_for(&mut pause, time);
        }
        while self.hold.load(Ordering::Relaxed) && !self.is_stopping() {
            self.woken.wait(&mut pause);
        }
    }

    fn wake(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _pause = self.pause.lock();
        self.woken.notify_all();
    }

    fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
    }
}

struct Writer {
    engine: Engine,
    kind: Kind,
    number: i64,
    params: ConnectParams,
    book: Arc<Mutex<WriterBook>>,
    acknowledged: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

/// A connection, and what was prepared on it.
struct Session {
    client: Client,
    prepared: Option<Statement>,
}

impl Writer {
    fn run(self, client: Client) {
        let mut session = Some(Session { client, prepared: None });
        let mut turn = 0;
        while !self.shared.is_stopping() {
            let Some(connected) = self.connected(&mut session) else { break };
            turn += 1;
            let op = self.number * TURNS + turn;
            if !self.turn(connected, op) {
                session = None;
            }
            self.shared.pause(THINKING);
        }
        self.book.lock().hung = false;
    }

    /// The connection, or a new one; `None` when it is time to stop. Only the first of several refusals in
    /// a row is written down.
    fn connected<'a>(&self, session: &'a mut Option<Session>) -> Option<&'a mut Session> {
        let mut is_first = true;
        while session.is_none() {
            match self.params.config().connect(NoTls) {
                Ok(client) => *session = Some(Session { client, prepared: None }),
                Err(error) => {
                    if std::mem::take(&mut is_first) {
                        self.book.lock().unconnected.push(miss(None, &error));
                    }
                    self.shared.pause(RECONNECT_PAUSE);
                }
            }
            if self.shared.is_stopping() {
                return None;
            }
        }
        session.as_mut()
    }

    /// Makes one turn; whether the session can go on.
    fn turn(&self, session: &mut Session, op: i64) -> bool {
        let statements = self.kind.turn(self.engine, self.number, op);
        let last = statements.len() - 1;
        for (number, say) in statements.iter().enumerate() {
            let sent = Instant::now();
            let outcome = session.say(say, self.engine);
            let beat = Beat { sent, took: sent.elapsed() };
            let mut book = self.book.lock();
            book.beats.push(beat);
            if let Err(error) = outcome {
                // What comes before the last statement is in a transaction that was never asked to commit.
                let miss = miss(Some(op), &error);
                if number < last || is_refusal(&error) {
                    book.refused.push(miss);
                } else {
                    book.unknown.push(miss);
                }
                drop(book);
                return session.client.batch_execute("ROLLBACK").is_ok();
            }
        }
        self.book.lock().acknowledged.push(op);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Session {
    fn say(&mut self, say: &Say, engine: Engine) -> std::result::Result<(), Error> {
        match say {
            Say::Sql(sql) => self.client.batch_execute(sql),
            Say::Copy(into, rows) => {
                let mut copy = self.client.copy_in(*into)?;
                if copy.write_all(rows.as_bytes()).is_err() {
                    // What went wrong is told at the end.
                    return copy.finish().map(drop);
                }
                copy.finish().map(drop)
            }
            Say::Prepared { key, op } => {
                let statement = match &self.prepared {
                    Some(statement) => statement.clone(),
                    None => {
                        let sql = match engine {
                            Engine::Citus => PREPARED.to_owned(),
                            Engine::Embedded => {
                                String::from("SELECT pg_dist_execute('writes', $1, $2)")
                            }
                        };
                        self.prepared.insert(self.client.prepare(&sql)?).clone()
                    }
                };
                match engine {
                    Engine::Citus => self.client.execute(&statement, &[key, op]).map(drop),
                    Engine::Embedded => {
                        let insert =
                            format!("INSERT INTO %s (key, op, part) VALUES ({key}, {op}, 0)");
                        self.client.query(&statement, &[&key.to_string(), &insert]).map(drop)
                    }
                }
            }
        }
    }
}

fn miss(op: Option<i64>, error: &Error) -> Miss {
    Miss {
        op,
        at: Instant::now(),
        sqlstate: error.code().map(|code| code.code().to_owned()),
        message: describe(error),
    }
}

/// Whether an error says that nothing was done. Others may come after the deed: a node may hear no more of the
/// commit that it asked another one for.
fn is_refusal(error: &Error) -> bool {
    const CODES: [&str; 5] = ["40001", "40P01", "55P03", "55006", "25006"];
    const CLASSES: [&str; 4] = ["0A", "22", "23", "42"];
    error.code().is_some_and(|code| {
        CODES.contains(&code.code()) || CLASSES.iter().any(|class| code.code().starts_with(class))
    })
}
