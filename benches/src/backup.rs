//! `citus-fence backup` beside the same `pg_basebackup`s without it, in turns: how much longer the copies take, and what
//! the command adds to the time for which writers are held.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use test_cluster::{
    Cluster, Engine, Error, HOST, Installation, Result, SUPERUSER, WalMethod,
    give_tree_to_server_user, run_as_server_user,
};

use crate::figures::Table;

const WORKERS: usize = 2;

/// Pairs, of nodes with so many megabytes each.
pub fn measure(engine: Engine, megabytes: u32, pairs: usize, table: &mut Table) -> Result<()> {
    let cluster = Cluster::builder(engine).workers(WORKERS).setting("autovacuum", "off").build()?;
    for node in cluster.nodes() {
        fill(node, megabytes)?;
    }
    let bindir = clocked_bindir(&cluster)?;
    let (mut bare, mut under, mut added, mut ratios) = (vec![], vec![], vec![], vec![]);
    for pair in 0..pairs {
        let without = side_by_side(&cluster, &format!("bare{pair}"))?;
        let (held, copies) = by_command(&cluster, &bindir, &format!("command{pair}"))?;
        bare.push(without);
        under.push(copies);
        added.push(held.saturating_sub(copies));
        ratios.push(copies.as_secs_f64() / without.as_secs_f64());
    }
    table.times("pg_basebackup of 3 nodes, side by side", &bare, "");
    table.times("the same by citus-fence backup", &under, "");
    table.ratios("copies by the command / without", ratios, "<= 1.1");
    table.times("added to the time that writers are held", &added, "<= 50 ms");
    Ok(())
}

/// Gives a node so much that does not compress away.
pub fn fill(node: &test_cluster::Server, megabytes: u32) -> Result<()> {
    node.execute("CREATE TABLE IF NOT EXISTS filler (id bigint, body text)")?;
    // Some 1 kB a row.
    node.execute(&format!(
        "INSERT INTO filler SELECT n, (SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, 30) k)
           FROM generate_series(1, {}) n",
        u64::from(megabytes) * 1000
    ))?;
    node.execute("CHECKPOINT")
}

/// pg_basebackup of all nodes at once: until the last has ended.
fn side_by_side(cluster: &Cluster, round: &str) -> Result<Duration> {
    let targets = (0..cluster.nodes().len())
        .map(|number| cluster.copy_target(round, number))
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let copies: Vec<_> = cluster
            .nodes()
            .iter()
            .zip(&targets)
            .map(|(node, target)| scope.spawn(move || node.base_backup(target, WalMethod::Stream)))
            .collect();
        copies.into_iter().try_for_each(|copy| match copy.join() {
            Ok(outcome) => outcome.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let took = began.elapsed();
    for target in targets {
        remove(&target);
    }
    Ok(took)
}

/// A directory with PostgreSQL's programs, of which pg_basebackup notes when it begins and ends.
fn clocked_bindir(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let folder = cluster.copy_target("bindir", 0)?.parent().expect("a folder").to_owned();
    let real = Installation::current()?;
    let script = |text: String, name: &str| {
        let path = folder.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    };
    let clocked = format!(
        "#!/bin/bash\necho $EPOCHREALTIME >> {0}/times\n{1} \"$@\"\ncode=$?\necho $EPOCHREALTIME >> {0}/times\nexit $code\n",
        folder.display(),
        real.program("pg_basebackup").display()
    );
    let plain = format!("#!/bin/sh\nexec {} \"$@\"\n", real.program("pg_verifybackup").display());
    script(clocked, "pg_basebackup")
        .and_then(|()| script(plain, "pg_verifybackup"))
        .map_err(|error| Error::Environment(error.to_string()))?;
    give_tree_to_server_user(&folder)?;
    Ok(folder)
}

/// By the command: for how long writers were held, and from the first copy's begin to the last one's end.
fn by_command(cluster: &Cluster, bindir: &Path, round: &str) -> Result<(Duration, Duration)> {
    let wrong = |what: String| Error::Environment(what);
    let times = bindir.join("times");
    // There is none before the first.
    let _ = fs::remove_file(&times);
    let dir = cluster.copy_target(round, 0)?.with_file_name("backup");
    let port = cluster.coordinator().port().to_string();
    let mut command = Command::new(Installation::current()?.program("citus-fence"));
    command
        .args(["backup", "--json", "-h", HOST, "-p", &port, "-U", SUPERUSER])
        .args(["-d", cluster.database(), "--bindir"])
        .arg(bindir)
        .arg(&dir)
        .current_dir("/");
    run_as_server_user(&mut command)?;
    let output = command.output().map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let held = text
        .split_once("\"held_ms\":")
        .and_then(|(_, rest)| rest.split([',', '}']).next()?.trim().parse::<u64>().ok());
    let held = held.ok_or_else(|| wrong(String::from_utf8_lossy(&output.stderr).into_owned()))?;
    let noted = fs::read_to_string(&times).map_err(|error| wrong(error.to_string()))?;
    let mut moments: Vec<f64> = noted.lines().filter_map(|line| line.parse().ok()).collect();
    moments.sort_by(f64::total_cmp);
    remove(&dir);
    match (moments.first(), moments.last()) {
        (Some(first), Some(last)) if moments.len() == 2 * (WORKERS + 1) => {
            Ok((Duration::from_millis(held), Duration::from_secs_f64(last - first)))
        }
        _ => Err(wrong(format!("these are not the times of all copies: {noted}"))),
    }
}

/// What was copied is not needed any more; what is left goes with the cluster.
fn remove(directory: &Path) {
    let _ = fs::remove_dir_all(directory);
}
