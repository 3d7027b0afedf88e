//! `citus-fence list` and `verify`: what is there, and that nothing changed goes unseen.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::backup::{backup, restore_all};
use common::{Ended, command, dump_command, run};
use fence_tests::{Bank, Cluster, on_each_engine};
use test_cluster::{Installation, give_tree_to_server_user};

fn list(dir: &Path, more: &[&str]) -> Ended {
    run(command(&["list"]).arg(dir).args(more))
}

fn verify(dir: &Path) -> Ended {
    let bindir = Installation::current().expect("PostgreSQL").bindir().display().to_string();
    run(command(&["verify", "--bindir", &bindir]).arg(dir))
}

/// Changes one bit in the middle of a file, and puts it back afterwards.
fn with_a_flipped_bit(path: &Path, then: impl FnOnce()) {
    let whole = fs::read(path).expect("a file");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(path, changed).expect("a changed file");
    then();
    fs::write(path, whole).expect("the file as it was");
}

/// The largest file below a directory.
fn largest(dir: &Path) -> PathBuf {
    let mut largest = (0, PathBuf::new());
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("its size");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.len() > largest.0 {
                largest = (metadata.len(), entry.path());
            }
        }
    }
    largest.1
}

#[test]
fn a_backup_and_a_dump_are_listed_and_no_changed_bit_goes_unseen() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let _bank = Bank::create(&cluster, 20, 1_000)?;

        let dir = backup(&cluster, "listed")?;
        let text = list(&dir, &[]).expect(0).out;
        assert!(text.contains("backup of database") && text.contains("(group 1)"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&list(&dir, &["--json"]).expect(0).out).expect("JSON");
        assert_eq!(json["nodes"].as_array().map(Vec::len), Some(3));
        assert!(verify(&dir).expect(0).out.contains("3 copies"));
        let (above, name) = (dir.parent().expect("a parent"), dir.file_name().expect("a name"));
        let bindir = Installation::current().expect("PostgreSQL").bindir().to_owned();
        let linked = above.join("programs");
        std::os::unix::fs::symlink(&bindir, &linked).expect("a link");
        let mut relative = command(&["verify", "--bindir", "programs"]);
        run(relative.arg(name).current_dir(above)).expect(0);
        fs::remove_file(&linked).expect("no link");
        with_a_flipped_bit(&largest(&dir.join("nodes/1/data/base")), || {
            let ended = verify(&dir).expect(1);
            assert!(ended.err.contains("group 1") && ended.err.contains("checksum"), "{ended:?}");
        });
        let lost = dir.join("nodes/0/data/global/pg_control");
        let kept = lost.with_extension("kept");
        fs::rename(&lost, &kept).expect("a lost file");
        assert!(verify(&dir).expect(1).err.contains("pg_control"));
        fs::rename(&kept, &lost).expect("the file back");
        verify(&dir).expect(0);
        // A later program may have written something else.
        let written = fs::read_to_string(dir.join("manifest.json")).expect("a manifest");
        let later = written.replace("\"version\": 1,", "\"version\": 2, \"pieces\": [],");
        assert_ne!(later, written);
        fs::write(dir.join("manifest.json"), later).expect("a file");
        for ended in [list(&dir, &[]), verify(&dir)] {
            ended.expect(1).complains_of(&["version 2", "a later one"]);
        }
        fs::remove_file(dir.join("manifest.json")).expect("no manifest");
        list(&dir, &[]).expect(1).complains_of(&["no backup", "manifest"]);

        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(cluster.coordinator().port(), &dir, &[])).expect(0);
        let text = list(&dir, &[]).expect(0).out;
        assert!(text.contains("dump of database") && text.contains("public.accounts"), "{text}");
        assert!(verify(&dir).expect(0).out.contains("all as they were written"));
        let file = largest(&dir.join("data"));
        with_a_flipped_bit(&file, || {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            verify(&dir).expect(1).complains_of(&["damaged", &name]);
        });
        verify(&dir).expect(0);
        fs::remove_file(&file).expect("a lost file");
        verify(&dir).expect(1);
        Ok(())
    });
}

/// A copy's tablespaces lie beside it. What is checked are those of the directory that is named, wherever it is, and never
/// those of another one that it was made from.
#[test]
fn a_backup_that_was_moved_or_copied_is_read_where_it_is() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let outside = tempfile::tempdir().expect("a folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(outside.path(), mode).expect("its mode");
        let location = outside.path().join("elsewhere");
        fs::create_dir(&location).expect("a directory");
        give_tree_to_server_user(&location)?;
        let worker = cluster.worker(1);
        worker.psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}';", location.display()))?;
        worker.execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 9)")?;
        let made = backup(&cluster, "moved")?;
        let moved = made.with_file_name("moved");
        fs::rename(&made, &moved).expect("another name");
        verify(&moved).expect(0);

        let copied = moved.with_file_name("copied");
        let copy = || {
            let all = [moved.as_os_str(), copied.as_os_str()];
            let status = std::process::Command::new("cp").arg("-a").args(all).status();
            assert!(status.expect("cp").success());
        };
        copy();
        verify(&copied).expect(0);
        let places = cluster.places()?;
        let new = outside.path().join("new");
        let mapping = format!("1:{}={}", location.display(), new.display());
        let restore = |dir: &Path| run(&mut restore_all(dir, &places, &["--tablespace", &mapping]));
        with_a_flipped_bit(&largest(&copied.join("nodes/1/tablespaces")), || {
            verify(&copied).expect(1).complains_of(&["group 1", "checksum"]);
            restore(&copied).expect(1).complains_of(&["group 1", "checksum"]);
            // The one that it was copied from is whole.
            verify(&moved).expect(0);
        });

        // As other programs make such links.
        let links = copied.join("nodes/1/data/pg_tblspc");
        let link = fs::read_dir(&links).expect("links").next().expect("a link").expect("it").path();
        let leads_to = fs::canonicalize(moved.join("nodes/1/tablespaces")).expect("a directory");
        fs::remove_file(&link).expect("no link");
        let oid = link.file_name().expect("a number");
        std::os::unix::fs::symlink(leads_to.join(oid), &link).expect("a link");
        let words = ["moved or copied", "ln -sfn ../../tablespaces/"];
        verify(&copied).expect(1).complains_of(&words);
        let refused = restore(&copied).expect(1).complains_of(&words);
        let command = refused.err.split("again: ").nth(1).expect("a command").trim();
        let shell = std::process::Command::new("sh").args(["-c", command]).status();
        assert!(shell.expect("a shell").success(), "{command}");
        verify(&copied).expect(0);
        Ok(())
    });
}
