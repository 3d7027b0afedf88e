//! A cluster whose nodes archive to and are copied by the real Barman.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use test_cluster::{
    Cluster, HOST, Installation, Places, Result, SUPERUSER, give_tree_to_server_user,
    run_as_server_user,
};

use super::{Ended, run};

/// Its home, with a server for every node, named `n` and its group.
pub struct Barman {
    config: PathBuf,
}

impl Barman {
    /// Whether it can be run here; where not, a line says so, past the capture of the test runner.
    pub fn is_installed() -> bool {
        let found = Command::new("barman").arg("--version").output().is_ok();
        if !found {
            let _ = writeln!(std::io::stderr(), "skipped: barman is not installed");
        }
        found
    }

    /// Makes its home, and has every node archive into it. The nodes have been started with `archive_mode`.
    pub fn of(cluster: &Cluster) -> Result<Barman> {
        let root = cluster.copy_target("barman", 0)?.parent().expect("a folder").to_owned();
        let bindir = Installation::current()?.bindir().display().to_string();
        let mut text = format!(
            "[barman]\nbarman_home = {0}\nbarman_user = {SUPERUSER}\nlog_file = {0}/log\npath_prefix = {bindir}\n\
             backup_method = postgres\narchiver = on\nimmediate_checkpoint = true\n",
            root.display()
        );
        for (group, node) in cluster.nodes().iter().enumerate() {
            let conninfo =
                format!("host={HOST} port={} user={SUPERUSER} dbname=postgres", node.port());
            text.push_str(&format!(
                "[n{group}]\ndescription = {group}\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\n"
            ));
        }
        let tool = Barman { config: root.join("barman.conf") };
        fs::write(&tool.config, text).expect("a file");
        give_tree_to_server_user(&root)?;
        for (group, node) in cluster.nodes().iter().enumerate() {
            // It makes its directories when it first looks at a server; that it is not content yet is no matter.
            run(&mut tool.command(&["check", &format!("n{group}")]));
            let incoming = root.join(format!("n{group}/incoming"));
            assert!(incoming.is_dir(), "{} is missing", incoming.display());
            node.alter_system("archive_command", &format!("cp %p {}/%f", incoming.display()))?;
            node.reload()?;
            tool.run(&["switch-wal", "--force", "--archive", &format!("n{group}")]);
            tool.run(&["check", &format!("n{group}")]);
        }
        Ok(tool)
    }

    /// A command line.
    pub fn line(&self, task: &str) -> String {
        format!("barman --config {} {task}", self.config.display())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("barman");
        command.arg("--config").arg(&self.config).args(words).current_dir("/");
        run_as_server_user(&mut command).expect("a user");
        command
    }

    /// Runs it to its good end, as the servers' user.
    pub fn run(&self, words: &[&str]) -> Ended {
        run(&mut self.command(words)).expect(0)
    }

    /// Brings the newest copy of every node to its place.
    pub fn restore(&self, places: &Places) {
        for (group, node) in places.nodes().iter().enumerate() {
            let data = node.data_dir().display().to_string();
            self.run(&["recover", &format!("n{group}"), "latest", &data]);
        }
    }
}
