//! The walk-through of docs/pgbackrest.md, run as it is written.

mod common;

use std::path::Path;
use std::process::Command;

use common::pgbackrest::PgBackRest;
use common::run;
use fence_tests::on_each_engine;
use test_cluster::{
    Bank, Cluster, HOST, Installation, PATIENCE, Result, Server, run_as_server_user,
};

const PAGE: &str = include_str!("../../docs/pgbackrest.md");

/// The page's blocks of bash, in order. The first says where everything is.
fn blocks() -> Vec<&'static str> {
    let whole = PAGE.split("```bash\n").skip(1);
    whole.map(|rest| rest.split("```").next().expect("a block")).collect()
}

fn list(nodes: &[Server], of: impl Fn(&Server) -> String) -> String {
    let words: Vec<String> = nodes.iter().map(|node| format!("'{}'", of(node))).collect();
    format!("({})", words.join(" "))
}

#[test]
fn the_walk_through_for_pgbackrest_can_be_followed() {
    if !PgBackRest::is_installed() {
        return;
    }
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).setting("archive_mode", "on");
        let cluster = cluster.setting("archive_command", "false").build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(50, PATIENCE)?;
        let home = cluster.copy_target("page", 0)?.parent().expect("a folder").to_owned();
        let places = cluster.places()?;

        let blocks = blocks();
        assert!(blocks.len() > 6 && blocks[0].contains("to_data="), "the page is another one");
        let data = |node: &Server| node.data_dir().display().to_string();
        let port = |node: &Server| node.port().to_string();
        let socket = |node: &Server| node.socket_dir().display().to_string();
        let mut script = format!(
            "set -euo pipefail\ndb={} host={HOST} backups={}\nport={}\ndata={}\nsocket={}\nto_port={}\nto_data={}\n",
            cluster.database(),
            home.display(),
            list(cluster.nodes(), port),
            list(cluster.nodes(), data),
            list(cluster.nodes(), socket),
            list(places.nodes(), port),
            list(places.nodes(), data),
        );
        // What the page leaves to whoever follows it: here the copies have their sockets in other directories.
        let (before, after) = blocks[1..].split_at(blocks.len() - 1 - 3);
        script.push_str(&before.concat());
        bash(&home, &script)?;
        places.configure()?;
        script.truncate(script.find("mkdir -p").expect("the first step"));
        script.push_str(&after.concat());
        let outcome = bash(&home, &script);
        let summary = writers.stop();
        outcome?;

        let restored = places.into_cluster();
        let audit = bank.audit(&restored, std::iter::empty())?;
        assert!(audit.is_clean(), "{audit}");
        // Writers went on all the while.
        assert!(summary.transfers().count() > 50);
        assert!(home.join("points/tuesday/manifest.json").is_file());
        Ok(())
    });
}

/// Runs a script to its good end, as the servers' user, with this project's command and PostgreSQL's in its path.
fn bash(home: &Path, script: &str) -> Result<()> {
    let own = Path::new(env!("CARGO_BIN_EXE_citus-fence")).parent().expect("a folder").to_owned();
    let bindir = Installation::current()?.bindir().to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .env("PATH", format!("{}:{}:{path}", own.display(), bindir.display()))
        .env("TMPDIR", "/tmp")
        .env("PGUSER", test_cluster::SUPERUSER)
        .current_dir(home);
    run_as_server_user(&mut command)?;
    let ended = run(&mut command);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    Ok(())
}
