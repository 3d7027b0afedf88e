//! Told to stop: what was asked for is cancelled, the session closed, and the program gone.

mod common;

use common::{Running, start, status_command, through};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::postgres::Client;
use test_cluster::{Cluster, Engine, HOST, Link, PATIENCE, Result, wait_for_sql, wait_until};

/// A cluster with a lock behind which the command's second question waits.
struct Stage {
    // In this order they go: a client that is stuck must not outlive its server.
    lock: Client,
    observer: Client,
    cluster: Cluster,
}

impl Stage {
    /// Always on the embedded engine: with this lock Citus' own planner holds up every question of
    /// every new session, also that of a cancel, and what is to be shown here is the program's part.
    fn set() -> Result<Stage> {
        let cluster = Cluster::builder(Engine::Embedded).workers(1).build()?;
        let mut observer = cluster.connect(0)?;
        observer.simple_query("SELECT 1").expect("an answer");
        let mut lock = cluster.connect(0)?;
        lock.batch_execute("BEGIN; LOCK pg_dist_node IN ACCESS EXCLUSIVE MODE").expect("a lock");
        Ok(Stage { lock, observer, cluster })
    }

    /// The coordinator's port.
    fn port(&self) -> u16 {
        self.cluster.coordinator().port()
    }

    /// Waits until as many sessions of the command wait for a lock.
    fn wait_until_it_waits(&mut self) -> Result<()> {
        self.wait_for("count(*) FILTER (WHERE wait_event_type = 'Lock') = 1")
    }

    /// Waits for a state of the command's sessions.
    fn wait_for(&mut self, state: &str) -> Result<()> {
        let sql =
            format!("SELECT {state} FROM pg_stat_activity WHERE application_name = 'citus-fence'");
        wait_for_sql(&mut self.observer, &sql, PATIENCE)
    }
}

fn tell(child: &mut Running, signal: Signal) {
    let pid = i32::try_from(child.child().id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("a signal");
}

#[test]
fn a_question_is_cancelled_and_the_session_closed() -> Result<()> {
    let mut stage = Stage::set()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // Whoever runs the tests in the background of a script has SIGINT ignored, and so would the command.
        let heeding = ["env", "--default-signal=TERM,INT,HUP"];
        let mut child = start(&mut through(&heeding, &status_command(stage.port(), &["-v"])));
        stage.wait_until_it_waits()?;
        tell(&mut child, signal);
        // 57014: the server itself says that the question was cancelled.
        child
            .ended()?
            .expect(1)
            .complains_of(&[&format!("citus-fence: error: ended by {signal}"), "57014"]);
        // The lock is still there: without the cancel the session would wait for it.
        stage.wait_for("count(*) = 0")?;
    }
    Ok(())
}

#[test]
fn a_frozen_server_holds_nobody() -> Result<()> {
    let mut stage = Stage::set()?;
    let link = Link::open("coordinator", stage.port())?;
    // Frozen in the middle of a question.
    let mut child = start(&mut status_command(link.port(), &[]));
    stage.wait_until_it_waits()?;
    link.freeze()?;
    tell(&mut child, Signal::SIGTERM);
    child.ended()?.expect(1).complains_of(&["ended by SIGTERM"]);

    // Frozen before it began: only the signal ends this. What went through the link stays in it.
    let before = link.connections();
    let mut child = start(&mut status_command(link.port(), &["--connect-timeout", "1d", "--json"]));
    wait_until("a connection", PATIENCE, || (link.connections() > before).then_some(()))?;
    tell(&mut child, Signal::SIGTERM);
    let ended = child.ended()?.expect(1);
    let error: serde_json::Value = serde_json::from_str(&ended.err).expect("one line of JSON");
    assert_eq!(error["error"]["message"], "ended by SIGTERM");
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_is_given_up_by_itself() -> Result<()> {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind((HOST, 0)).expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let mut command = status_command(port, &["--connect-timeout", "200ms"]);
    start(&mut command).ended()?.expect(1).complains_of(&[
        &format!("{HOST}:{port} within"),
        "the server does not answer",
        "hint",
    ]);
    Ok(())
}

#[test]
fn what_is_ignored_at_the_start_stays_ignored() -> Result<()> {
    let mut stage = Stage::set()?;
    // nohup ignores HUP, but redirects what it prints only at a terminal.
    let mut nohup = through(&["nohup"], &status_command(stage.port(), &[]));
    let mut child = start(&mut nohup);
    stage.wait_until_it_waits()?;
    tell(&mut child, Signal::SIGHUP);
    stage.lock.batch_execute("COMMIT").expect("the lock's end");
    let ended = child.ended()?.expect(0);
    assert!(ended.out.starts_with("no block"), "{ended:?}");
    Ok(())
}
