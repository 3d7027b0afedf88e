//! A cluster whose nodes archive and are copied by the real pgBackRest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_cluster::{Cluster, Places, Result, SUPERUSER, run_as_server_user};

use super::{Ended, run};

/// A repository with a stanza for every node, named `n` and its group.
pub struct PgBackRest {
    config: PathBuf,
}

impl PgBackRest {
    /// Whether it can be run here; where not, a line says so, past the capture of the test runner.
    pub fn is_installed() -> bool {
        let found = Command::new("pgbackrest").arg("version").output().is_ok();
        if !found {
            let _ = writeln!(std::io::stderr(), "skipped: pgbackrest is not installed");
        }
        found
    }

    /// Makes the repository, and has every node archive into it. The nodes have been started with `archive_mode`.
    pub fn of(cluster: &Cluster) -> Result<PgBackRest> {
        let root = cluster.copy_target("pgbackrest", 0)?.parent().expect("a folder").to_owned();
        let mut text = format!(
            "[global]\nrepo1-path={0}/repo\nlock-path={0}/lock\nlog-path={0}/log\nspool-path={0}/spool\n\
             log-level-file=off\nlog-level-console=warn\nstart-fast=y\ncompress-type=none\n",
            root.display()
        );
        for (group, node) in cluster.nodes().iter().enumerate() {
            text.push_str(&format!(
                "[n{group}]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user={SUPERUSER}\n",
                node.data_dir().display(),
                node.port(),
                node.socket_dir().display()
            ));
        }
        let tool = PgBackRest { config: root.join("pgbackrest.conf") };
        fs::write(&tool.config, text).expect("a file");
        for (group, node) in cluster.nodes().iter().enumerate() {
            tool.run(group, &["stanza-create"]);
            node.alter_system("archive_command", &tool.line(group, "archive-push %p"))?;
            node.reload()?;
        }
        Ok(tool)
    }

    /// A command line for a group, which may be `{groupid}`.
    pub fn line(&self, group: impl std::fmt::Display, task: &str) -> String {
        format!("pgbackrest --config={} --stanza=n{group} {task}", self.config.display())
    }

    /// Runs it to its good end, as the servers' user.
    pub fn run(&self, group: usize, words: &[&str]) -> Ended {
        let mut command = Command::new("pgbackrest");
        command
            .arg(format!("--config={}", self.config.display()))
            .arg(format!("--stanza=n{group}"))
            .args(words)
            .current_dir("/");
        run_as_server_user(&mut command).expect("a user");
        run(&mut command).expect(0)
    }

    /// Brings the newest copy of every node to its place.
    pub fn restore(&self, places: &Places, more: &[&str]) {
        for (group, node) in places.nodes().iter().enumerate() {
            self.restore_to(group, &node.data_dir(), more);
        }
    }

    /// Brings a node's newest copy to a directory.
    pub fn restore_to(&self, group: usize, data: &Path, more: &[&str]) {
        let path = format!("--pg1-path={}", data.display());
        let mut words = vec![path.as_str(), "restore"];
        words.extend(more);
        self.run(group, &words);
    }
}
