//! The workers: one queue for all nodes, and one worker with patience.
//!
//! ```text
//! jobs ──> N workers, NOWAIT ──────────────────────> files
//!             │ somebody has the lock                  ^
//!             └──> deferred ──> one worker that waits ─┘   (bounded; then the dump fails and names the table)
//! ```
//! A worker that cannot have a lock at once goes on with another table, so that it holds nothing up. Waiting holds
//! up nobody else either: whoever comes after the waiter waits for the one who has the lock.
//!
//! A lost session is replaced and its job done again, from the beginning of its file. A failure of any worker ends
//! them all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use remote::RemoteError;
use tracing::debug;

use super::args::Compress;
use super::error::DumpError;
use super::job::{Job, JobEnd, Locking, Pair};
use super::manifest::DataFile;
use super::session::Reach;
use crate::failure::Failure;

/// How often a job is begun whose session is lost each time.
const TRIES: u32 = 4;

/// Between two tries to connect again.
const PAUSE: Duration = Duration::from_millis(500);

/// What all workers share.
pub struct Pool<'a> {
    /// Where the nodes are, and what their keepers have exported.
    pub nodes: Vec<(Reach, String)>,
    pub directory: &'a Path,
    pub compress: Compress,
    pub lock_wait: Duration,
    /// Ends every wait of every worker.
    pub halt: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Largest last.
    queue: Vec<Job>,
    deferred: Vec<Job>,
    /// Jobs without a file.
    left: usize,
    /// Of the jobs that have one, how much their tables are.
    done_size: u64,
    files: Vec<DataFile>,
    failure: Option<Failure>,
}

/// How far it is.
pub enum Progress {
    Going { left: usize, done_size: u64 },
    Done,
    Failed,
}

impl<'a> Pool<'a> {
    /// With jobs, the largest first.
    pub fn new(
        nodes: Vec<(Reach, String)>,
        mut jobs: Vec<Job>,
        directory: &'a Path,
        compress: Compress,
        lock_wait: Duration,
        halt: Arc<AtomicBool>,
    ) -> Pool<'a> {
        jobs.reverse();
        let left = jobs.len();
        let state = State {
            queue: jobs,
            deferred: Vec::new(),
            left,
            done_size: 0,
            files: Vec::new(),
            failure: None,
        };
        let state = Mutex::new(state);
        Pool { nodes, directory, compress, lock_wait, halt, state, changed: Condvar::new() }
    }

    /// Waits a while for something to happen.
    pub fn wait(&self, time: Duration) -> Progress {
        let mut state = self.state.lock();
        if state.left > 0 && state.failure.is_none() {
            self.changed.wait_for(&mut state, time);
        }
        match (&state.failure, state.left) {
            (Some(_), _) => Progress::Failed,
            (None, 0) => Progress::Done,
            (None, left) => Progress::Going { left, done_size: state.done_size },
        }
    }

    /// Notes a failure, the first of which counts, and ends all.
    pub fn fail(&self, failure: Failure) {
        let mut state = self.state.lock();
        // What is interrupted because of another's failure says nothing.
        let told = matches!(failure, Failure::Remote(RemoteError::Stopped { .. }));
        if state.failure.is_none() && !(told && self.halt.load(Ordering::Relaxed)) {
            state.failure = Some(failure);
        }
        self.halt.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// What has come of it, once all workers have ended.
    pub fn into_files(self) -> Result<Vec<DataFile>, Failure> {
        let state = self.state.into_inner();
        match state.failure {
            Some(failure) => Err(failure),
            None => Ok(state.files),
        }
    }

    /// Whether all that is left to do is done or given up.
    fn is_over(&self, state: &State) -> bool {
        state.left == 0 || state.failure.is_some() || self.halt.load(Ordering::Relaxed)
    }

    /// The next job: of this worker's node while there is one, else the largest.
    fn next(&self, node: Option<usize>) -> Option<Job> {
        let mut state = self.state.lock();
        if self.is_over(&state) {
            return None;
        }
        let position = state.queue.iter().rposition(|job| Some(job.node) == node);
        match position {
            // Out of the middle, in order.
            Some(position) => Some(state.queue.remove(position)),
            None => state.queue.pop(),
        }
    }

    /// The next job that somebody has the lock of; waits for one, until all is over.
    fn next_deferred(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if self.is_over(&state) {
                return None;
            }
            if let Some(job) = state.deferred.pop() {
                return Some(job);
            }
            self.changed.wait_for(&mut state, Duration::from_millis(200));
        }
    }

    fn done(&self, job: &Job, file: DataFile) {
        let mut state = self.state.lock();
        state.done_size += job.size;
        state.files.push(file);
        state.left -= 1;
        self.changed.notify_all();
    }

    fn defer(&self, job: Job) {
        debug!("somebody has the lock of {}: later", job.described());
        self.state.lock().deferred.push(job);
        self.changed.notify_all();
    }

    /// A worker that does not wait for locks.
    pub fn work(&self) {
        let mut own: Option<(usize, Pair)> = None;
        while let Some(job) = self.next(own.as_ref().map(|(node, _)| *node)) {
            self.perform(job, Locking::NoWait, &mut own);
        }
    }

    /// The worker that does.
    pub fn work_patiently(&self) {
        let mut own: Option<(usize, Pair)> = None;
        while let Some(job) = self.next_deferred() {
            self.perform(job, Locking::Within(self.lock_wait), &mut own);
            // Its sessions are not kept for what may never come.
            own = None;
        }
    }

    fn perform(&self, job: Job, locking: Locking, own: &mut Option<(usize, Pair)>) {
        match self.try_perform(&job, locking, own) {
            Ok(JobEnd::Done(file)) => self.done(&job, *file),
            Ok(JobEnd::Busy) => self.defer(job),
            Ok(JobEnd::Lost(error)) => {
                self.fail(DumpError::Table { table: job.described(), error }.into());
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn try_perform(
        &self,
        job: &Job,
        locking: Locking,
        own: &mut Option<(usize, Pair)>,
    ) -> Result<JobEnd, Failure> {
        let (reach, snapshot) = &self.nodes[job.node];
        let mut tries = 0;
        loop {
            tries += 1;
            let kept = own.take().filter(|(node, pair)| *node == job.node && pair.is_alive());
            let pair = match kept {
                Some((_, pair)) => Ok(pair),
                None => Pair::open(reach, &self.halt),
            };
            let error = match pair {
                Ok(mut pair) => {
                    let end = pair.run(job, snapshot, locking, self.directory, self.compress);
                    *own = Some((job.node, pair));
                    match end? {
                        JobEnd::Lost(error) => error,
                        end => return Ok(end),
                    }
                }
                Err(Failure::Remote(error)) if !matches!(error, RemoteError::Stopped { .. }) => {
                    error
                }
                Err(failure) => return Err(failure),
            };
            if tries >= TRIES || self.halt.load(Ordering::Relaxed) {
                return Ok(JobEnd::Lost(error));
            }
            debug!("{}: {error}; again, with a new session", job.described());
            let mut state = self.state.lock();
            self.changed.wait_for(&mut state, PAUSE);
        }
    }
}
