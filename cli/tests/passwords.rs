//! A cluster whose nodes ask each other and everybody for a password: backup, restore point, restore, check. It is found
//! where libpq finds it, and nobody else sees it.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::backup::{as_servers_user, restore_all};
use common::{Ended, Running, run, start};
use fence_tests::{Bank, on_each_engine};
use test_cluster::{
    Cluster, HOST, Installation, PATIENCE, PasswordSource, SUPERUSER, give_tree_to_server_user,
    wait_for_sql,
};

/// The superuser's password, as the cluster was made with it.
fn password(cluster: &Cluster) -> String {
    let conninfo = cluster.coordinator().tcp_params().conninfo();
    let (_, rest) = conninfo.split_once("password='").expect("a password");
    rest.split('\'').next().expect("its end").to_owned()
}

/// Nothing that was said has it in it.
fn silent(ended: Ended, password: &str) -> Ended {
    assert!(!ended.out.contains(password) && !ended.err.contains(password), "{ended:?}");
    ended
}

/// The command lines of all processes that have a word in them.
fn command_lines_with(word: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(word)).collect()
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let (mut folders, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.file_type().expect("its kind").is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files
}

#[test]
fn a_password_is_used_by_all_and_seen_by_nobody() {
    on_each_engine(|engine| {
        for source in [PasswordSource::Authinfo, PasswordSource::Passfile] {
            let cluster = Cluster::builder(engine)
                .workers(2)
                .scram_from(source)
                .setting("archive_mode", "on")
                .setting("archive_command", "test -n %f")
                .build()?;
            let bank = Bank::create(&cluster, 20, 1_000)?;
            let secret = password(&cluster);
            let port = cluster.coordinator().port().to_string();
            let folder = cluster.copy_target("secret", 0)?.with_file_name("pass");
            fs::create_dir(&folder).expect("a folder");
            let passfile = folder.join("passfile");
            fs::write(&passfile, format!("{HOST}:*:*:*:{secret}\n")).expect("a file");
            fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("its mode");
            give_tree_to_server_user(&folder)?;
            let call = |port: &str, words: &[&str]| -> Command {
                let mut command = as_servers_user(&[]);
                let (task, more) = words.split_at(if words[0] == "restore" { 2 } else { 1 });
                command.args(task).args(["-v", "-h", HOST, "-p", port, "-U", SUPERUSER]);
                command.args(["-d", "postgres"]).args(more);
                command
            };
            let dir = folder.with_file_name("backup");
            let bindir = Installation::current()?.bindir().display().to_string();
            let place = dir.display().to_string();
            let backup = ["backup", "--bindir", &bindir, &place];

            silent(run(&mut call(&port, &backup)), &secret)
                .expect(1)
                .complains_of(&["refused the connection", ".pgpass"]);
            let wrong = run(call(&port, &backup).env("PGPASSWORD", "wrong hunter2"));
            silent(wrong, "hunter2").expect(1).complains_of(&["password authentication failed"]);
            let mut running: Running = start(
                call(&port, &[&backup[..], &["--max-rate", "8M"]].concat())
                    .env("PGPASSWORD", &secret),
            );
            let copying = "SELECT count(*) > 0 FROM pg_stat_progress_basebackup";
            wait_for_sql(&mut cluster.connect(1)?, copying, PATIENCE)?;
            assert_eq!(command_lines_with(&secret), Vec::<String>::new(), "others see it");
            assert!(running.child().try_wait().expect("a child").is_none(), "it was too quick");
            silent(running.ended()?, &secret).expect(0);
            // What was written is for its owner: the directories are closed, and what is not the server's own is, too.
            for below in ["", "nodes", "nodes/0", "nodes/0/config", "nodes/0/data"] {
                let metadata = fs::metadata(dir.join(below)).expect("a directory");
                assert_eq!(metadata.mode() & 0o077, 0, "{below}");
            }
            for file in files(&dir).iter() {
                let is_data = file.components().any(|part| part.as_os_str() == "data");
                let metadata = fs::symlink_metadata(file).expect("a file");
                assert!(is_data || metadata.mode() & 0o077 == 0, "{}", file.display());
            }
            let kept = fs::read_to_string(dir.join("manifest.json")).expect("a manifest");
            assert!(!kept.contains(&secret));
            let point = run(call(&port, &["restore-point", "x"]).env("PGPASSFILE", &passfile));
            silent(point, &secret).expect(0);

            let places = cluster.places()?;
            silent(run(&mut restore_all(&dir, &places, &["-v"])), &secret).expect(0);
            places.configure()?;
            places.start()?;
            let restored = places.into_cluster();
            let port = restored.coordinator().port().to_string();
            let finish = ["restore", "finish"];
            silent(run(&mut call(&port, &finish)), &secret).expect(1).complains_of(&[".pgpass"]);
            let finished = run(call(&port, &finish).env("PGPASSFILE", &passfile));
            silent(finished, &secret).expect(0);
            silent(run(call(&port, &["check"]).env("PGPASSWORD", &secret)), &secret).expect(0);
            let audit = bank.audit(&restored, [])?;
            assert!(audit.is_clean(), "{audit}");
        }
        Ok(())
    });
}
