//! What `citus-fence restore` adds to the time in which some server starts, recovers or stops: it reads
//! `postmaster.pid` of every copy meanwhile, whose eighth line is the server's state. The files are at their places before,
//! as a tool brings them: how long that takes is not the command's doing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use test_cluster::{
    Cluster, Engine, Error, HOST, Installation, Places, Result, SUPERUSER, run_as_server_user,
};

use crate::backup::fill;
use crate::figures::Table;

const WORKERS: usize = 2;
/// How often the servers' states are read.
const LOOK: Duration = Duration::from_millis(1);

/// Restores of nodes with so many megabytes each.
pub fn measure(engine: Engine, megabytes: u32, rounds: usize, table: &mut Table) -> Result<()> {
    let cluster = Cluster::builder(engine).workers(WORKERS).setting("autovacuum", "off").build()?;
    for node in cluster.nodes() {
        fill(node, megabytes)?;
    }
    let dir = cluster.copy_target("restored", 0)?.with_file_name("backup");
    let port = cluster.coordinator().port().to_string();
    run(&["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", cluster.database()], &[&dir])?;
    by_a_tool(&dir)?;
    let (mut whole, mut added, mut finishes, mut each) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let places = cluster.places()?;
        let (all, busy) = restore_all(&dir, &places)?;
        places.configure()?;
        places.start()?;
        let began = Instant::now();
        let port = places.nodes()[0].port().to_string();
        let database = cluster.database();
        run(&["restore", "finish", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", database], &[])?;
        let finish = began.elapsed();
        whole.push(all);
        added.push(all.saturating_sub(busy));
        finishes.push(finish);
        let nodes = u32::try_from(WORKERS + 1).unwrap_or(u32::MAX);
        each.push((all.saturating_sub(busy) + finish) / nodes);
    }
    table.times("restore all of 3 copies that are in their places", &whole, "");
    table.times("of it with no server starting, recovering or stopping", &added, "");
    table.times("restore finish of the 3 nodes", &finishes, "");
    table.times("both, for each node", &each, "<= 1 s");
    Ok(())
}

/// Makes the manifest say that a tool keeps the copies.
fn by_a_tool(dir: &Path) -> Result<()> {
    let wrong = |error: std::io::Error| Error::Environment(error.to_string());
    let path = dir.join("manifest.json");
    let mut text = fs::read_to_string(&path).map_err(wrong)?;
    for group in 0..=WORKERS {
        text = text.replace(&format!("\"data\": \"nodes/{group}/data\""), "\"data\": null");
    }
    if let Some((before, _)) = text.rsplit_once("\"checksum\"") {
        text = format!("{before}\"checksum\": null\n}}\n");
    }
    fs::write(&path, text).map_err(wrong)
}

/// How long it took, and for how much of that some server started, recovered or stopped.
fn restore_all(dir: &Path, places: &Places) -> Result<(Duration, Duration)> {
    let mut words = vec!["restore".to_owned(), "all".to_owned()];
    let mut copies = Vec::new();
    for (group, node) in places.nodes().iter().enumerate() {
        let data = node.data_dir();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(dir.join(format!("nodes/{group}/data"))).arg(&data);
        run_as_server_user(&mut copy)?;
        let copied = copy.status().is_ok_and(|status| status.success());
        copied.then_some(()).ok_or_else(|| Error::Environment("cp failed".into()))?;
        words.extend(["--to".into(), format!("{group}={HOST}:{},{}", node.port(), data.display())]);
        copies.push(data);
    }
    // What was copied is written back now, or a shutdown waits for it.
    let _ = Command::new("sync").status();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| busy_time(&copies, &done));
        let began = Instant::now();
        let outcome = run(&words, &[dir]);
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        let busy = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.map(|()| (took, busy))
    })
}

/// For how long at least one of the servers was in between, until it is done.
fn busy_time(copies: &[PathBuf], done: &AtomicBool) -> Duration {
    let is_busy = |data: &PathBuf| {
        let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        text.lines().next().is_some() && text.lines().nth(7).map(str::trim) != Some("ready")
    };
    let (mut busy, mut last) = (Duration::ZERO, Instant::now());
    while !done.load(Ordering::Relaxed) {
        let was = copies.iter().any(is_busy);
        std::thread::sleep(LOOK);
        let now = Instant::now();
        if was {
            busy += now - last;
        }
        last = now;
    }
    busy
}

/// Runs the command to its good end, as the servers' user.
fn run(words: &[&str], more: &[&Path]) -> Result<()> {
    let installation = Installation::current()?;
    let mut command = Command::new(installation.program("citus-fence"));
    command.args(words).args(more).current_dir("/").env("TMPDIR", "/tmp");
    run_as_server_user(&mut command)?;
    let output = command.output().map_err(|error| Error::Environment(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Environment(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
