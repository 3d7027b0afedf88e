//! Threads that do one thing again and again, and tell how long it took at worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use test_cluster::postgres::{Client, Error};
use test_cluster::{Cluster, PATIENCE, Result, wait_until};

/// One thread with its own session, until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Outcome>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    turns: AtomicU64,
}

/// What a thread did.
#[derive(Debug)]
pub struct Outcome {
    /// How often.
    pub turns: u64,
    /// The longest that one statement took.
    pub longest: Duration,
    /// What went wrong, in the server's words.
    pub errors: Vec<String>,
}

impl Load {
    /// Starts it on a node.  `turn` is given the number of the turn, from 1, and makes its statements.
    /// After an error the transaction is rolled back, and the next turn begins.
    pub fn start(
        cluster: &Cluster,
        node: usize,
        turn: impl Fn(u64) -> Vec<String> + Send + 'static,
    ) -> Result<Self> {
        let mut client = cluster.connect(node)?;
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut outcome = Outcome { turns: 0, longest: Duration::ZERO, errors: Vec::new() };
            while !seen.stop.load(Ordering::Relaxed) {
                outcome.turns += 1;
                match run(&mut client, &turn(outcome.turns), &mut outcome.longest) {
                    Ok(()) => {
                        seen.turns.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        outcome.errors.push(crate::words(&error));
                        if client.batch_execute("ROLLBACK").is_err() {
                            break;
                        }
                    }
                }
            }
            outcome
        });
        Ok(Self { shared, thread })
    }

    /// Waits until it has done so many turns more.
    pub fn wait_for_more(&self, more: u64) -> Result<()> {
        let goal = self.turns() + more;
        wait_until(&format!("{more} more turns"), PATIENCE, || (self.turns() >= goal).then_some(()))
    }

    /// Turns that succeeded so far.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Lets it finish its turn.
    pub fn stop(self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread")
    }
}

fn run(
    client: &mut Client,
    statements: &[String],
    longest: &mut Duration,
) -> std::result::Result<(), Error> {
    for statement in statements {
        let begun = Instant::now();
        let result = client.batch_execute(statement);
        *longest = (*longest).max(begun.elapsed());
        result?;
    }
    Ok(())
}
