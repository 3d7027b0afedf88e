//! DROP DATABASE is waited for by a switch to read-only: ended in its middle it would leave a database that
//! nobody can use, and its files.

use std::thread::JoinHandle;

use readonly_tests::{
    Call, Client, Engine, PATIENCE, READ_ONLY, Result, Server, Stopped, assert_untouched,
    is_read_only, on_each_engine, open, single, traces_of_writers, value, wait_until,
};
use test_cluster::postgres::Error;

const DROP: &str = "DROP DATABASE doomed";
/// Databases that are half dropped.
const INVALID: &str = "SELECT count(*) FROM pg_database WHERE datconnlimit = -2";

/// A DROP DATABASE in its middle: the database is marked as invalid and its files are there.  The server
/// waits for all processes to close these, and one stands still.
struct HalfDropped {
    still: Stopped,
    pid: String,
    thread: JoinHandle<std::result::Result<(), Error>>,
    /// The one that stands still.
    _session: Client,
}

impl HalfDropped {
    fn begin(node: &Server) -> Result<Self> {
        node.execute("CREATE DATABASE doomed")?;
        let mut session = node.connect()?;
        let pid = value(&mut session, "SELECT pg_backend_pid()").parse().expect("a process");
        let still = Stopped::process(pid)?;
        let params = node.connect_params();
        let thread =
            std::thread::spawn(move || params.connect().expect("a connection").batch_execute(DROP));
        let waiting = format!(
            "SELECT max(pid) FROM pg_stat_activity
              WHERE query = '{DROP}' AND wait_event = 'ProcSignalBarrier'"
        );
        let pid = wait_until("the drop to wait", PATIENCE, || node.query_value(&waiting).ok())?;
        Ok(Self { still, pid, thread, _session: session })
    }

    /// How it ends.
    fn end(self) -> std::result::Result<(), Error> {
        self.still.go_on();
        self.thread.join().expect("a thread")
    }
}

#[test]
fn a_drop_that_is_under_way_is_finished_first() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        let drop = HalfDropped::begin(node)?;
        let call = Call::begin(node, READ_ONLY);
        wait_until("the call to wait for the drop, or the end of one of them", PATIENCE, || {
            let is_over = drop.thread.is_finished() || call.is_finished();
            (is_over || call.has_named(&drop.pid)).then_some(())
        })?;
        let dropped = drop.end();
        let lsn = call.join().expect("the call");
        assert_eq!(node.query_value(INVALID)?, "0", "half dropped: {dropped:?}");
        dropped.expect("the drop");
        assert!(is_read_only(node)?);
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        open(node)?;
        assert_untouched(node)
    });
}

/// The control: ended at the same moment as any other session may be.
#[test]
fn a_drop_that_is_ended_leaves_an_invalid_database() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        let drop = HalfDropped::begin(node)?;
        node.execute(&format!("SELECT pg_terminate_backend({}, 60000)", drop.pid))?;
        drop.end().expect_err("a drop that was ended");
        assert_eq!(node.query_value(INVALID)?, "1");
        let error = node.connect_params().database("doomed").connect().err();
        let error = error.expect("a connection to it");
        assert!(error.to_string().contains("invalid database"), "{error}");
        node.execute(DROP)?;
        assert_untouched(node)
    });
}
