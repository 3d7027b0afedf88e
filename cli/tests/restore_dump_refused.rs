//! What `citus-fence restore-dump` refuses before it has written anything, and what it finds afterwards.

mod common;

use std::fs;
use std::process::Command;

use common::restored::{append, copy, create, edit, restore_command};
use common::{command, dump_command, manifest, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};
use serde_json::Value;

fn is_untouched(target: &Cluster) -> Result<()> {
    for node in target.nodes() {
        let made = node.query(
            "SELECT nspname FROM pg_namespace WHERE nspname = 'citus_fence_restore'
             UNION SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^(m_anchor|parent)'",
        )?;
        assert!(made.is_empty(), "{made:?} on {node:?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_written() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).standbys([0]).fsync(false).build()?;
        let port = target.coordinator().port();
        let path = |name: &str| {
            let path = folder.path().join(name);
            copy(&dir, &path);
            path
        };

        // A bit of a data file, a byte of the schema, a file that is gone.
        let flipped = path("flipped");
        let file = flipped.join(manifest(&flipped)["files"][3]["path"].as_str().expect("a path"));
        let mut bytes = fs::read(&file).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("a file");
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        run(&mut restore_command(port, &flipped, &[])).expect(1).complains_of(&["damaged", name]);
        let cut = path("cut");
        let text = fs::read_to_string(cut.join("schema/pre-data.sql")).expect("the schema");
        fs::write(cut.join("schema/pre-data.sql"), &text[1..]).expect("the schema");
        run(&mut restore_command(port, &cut, &[]))
            .expect(1)
            .complains_of(&["damaged", "pre-data.sql"]);
        fs::remove_file(path("gone").join("schema/post-data.sql")).expect("a file");
        run(&mut restore_command(port, &folder.path().join("gone"), &[]))
            .expect(1)
            .complains_of(&["post-data.sql"]);
        run(&mut restore_command(port, folder.path(), &[]))
            .expect(1)
            .complains_of(&["no dump is here"]);
        // A file that the manifest does not know any more, and one that it has elsewhere.
        let fewer = path("fewer");
        let text = fs::read_to_string(fewer.join("manifest.json")).expect("a manifest");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        value["files"].as_array_mut().expect("files").remove(0);
        fs::write(fewer.join("manifest.json"), value.to_string()).expect("a manifest");
        run(&mut restore_command(port, &fewer, &[]))
            .expect(1)
            .complains_of(&["not what was written"]);
        for out in ["../gone/x", "/etc/hostname", "data/../../x"] {
            edit(&fewer, |manifest| manifest["files"][0]["path"] = out.into());
            run(&mut restore_command(port, &fewer, &[])).expect(1).complains_of(&["leads out"]);
        }
        let linked = path("linked");
        let file = linked.join(manifest(&linked)["files"][0]["path"].as_str().expect("a path"));
        fs::rename(&file, folder.path().join("elsewhere")).expect("a file");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &file).expect("a link");
        run(&mut restore_command(port, &linked, &[])).expect(1).complains_of(&["no plain file"]);

        // A server that is older, or of another kind; a worker; a user who may not.
        let newer = path("newer");
        edit(&newer, |manifest| manifest["postgresql"] = "99.1".into());
        run(&mut restore_command(port, &newer, &[]))
            .expect(1)
            .complains_of(&["and the dump is of PostgreSQL 99.1"]);
        let other = path("other");
        edit(&other, |manifest| {
            manifest["citus"] = match engine {
                Engine::Citus => Value::Null,
                Engine::Embedded => "13.2-1".into(),
            };
        });
        run(&mut restore_command(port, &other, &[]))
            .expect(1)
            .complains_of(&["the dump is of", "embedded catalog"]);
        if engine == Engine::Citus {
            let newer = path("newer_citus");
            edit(&newer, |manifest| manifest["citus"] = "99.0-1".into());
            run(&mut restore_command(port, &newer, &[]))
                .expect(1)
                .complains_of(&["and the dump is of Citus 99.0-1"]);
        }
        let many = path("many");
        edit(&many, |manifest| {
            for group in manifest["colocation"].as_array_mut().expect("groups") {
                group["replication_factor"] = 9.into();
            }
        });
        run(&mut restore_command(port, &many, &[]))
            .expect(1)
            .complains_of(&["the dump needs 9", "citus_add_node"]);
        run(&mut restore_command(target.worker(1).port(), &dir, &[]))
            .expect(1)
            .complains_of(&["is a worker (group 1)"]);
        let standby = run(&mut restore_command(target.standby_of(0).port(), &dir, &[])).expect(1);
        standby.complains_of(&["is a standby"]);
        target
            .execute_everywhere("CREATE ROLE plain LOGIN; GRANT ALL ON DATABASE postgres TO plain")
            .or_else(|_| {
                // Citus has carried it there.
                target.coordinator().execute("SELECT 1")
            })?;
        let mut plain =
            command(&["restore-dump", "-h", test_cluster::HOST, "-p", &port.to_string()]);
        plain.args(["-U", "plain", "-d", "postgres"]).arg(&dir);
        run(&mut plain).expect(1).complains_of(&["role \"plain\" is no superuser", "-U"]);
        for clean in ["--clean", "-c", "--if-exists"] {
            run(&mut restore_command(port, &dir, &[clean])).expect(2).complains_of(&[
                "there is no --clean",
                "DROP DATABASE",
                "--create",
            ]);
        }
        let without = run(&mut restore_command(port, &dir, &["--roles"])).expect(2);
        without.complains_of(&["the dump has no roles"]);
        is_untouched(&target)?;

        // Whatever is there.
        for (make, what, drop) in [
            ("CREATE TABLE mine (a int)", "table public.mine", "DROP TABLE mine"),
            ("CREATE SCHEMA mine", "schema mine", "DROP SCHEMA mine"),
            ("CREATE TYPE mine AS ENUM ('a')", "type public.mine", "DROP TYPE mine"),
            (
                "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "function mine()",
                "DROP FUNCTION mine()",
            ),
            ("CREATE SEQUENCE mine", "sequence public.mine", "DROP SEQUENCE mine"),
        ] {
            target.coordinator().execute(make)?;
            let refused = run(&mut restore_command(port, &dir, &[])).expect(1);
            let name = what.rsplit(' ').next().unwrap_or_default();
            refused.complains_of(&["is not empty", name, "--into-non-empty"]);
            target.coordinator().execute(drop)?;
        }
        target
            .worker(1)
            .execute("SET citus.enable_ddl_propagation = off; CREATE TABLE theirs (a int)")?;
        run(&mut restore_command(port, &dir, &[]))
            .expect(1)
            .complains_of(&["is not empty", "theirs"]);
        is_untouched(&target)?;
        // What a node remembers of a restore that the coordinator knows nothing of is not true.
        let id = Command::new("sha256sum")
            .arg(dir.join("manifest.json"))
            .output()
            .expect("a sum")
            .stdout;
        let id = String::from_utf8(id).expect("a sum")[..64].to_owned();
        target.worker(1).execute(&format!(
            "SET citus.enable_ddl_propagation = off; CREATE SCHEMA citus_fence_restore;
             CREATE TABLE citus_fence_restore.progress (what text); INSERT INTO citus_fence_restore.progress VALUES ('dump {id}')"
        ))?;
        for more in [&[][..], &["--resume"], &["--into-non-empty"]] {
            let stale = run(&mut restore_command(port, &dir, more)).expect(1);
            stale.complains_of(&["another dump", "citus_fence_restore"]);
        }
        target.worker(1).execute(
            "SET citus.enable_ddl_propagation = off; DROP SCHEMA citus_fence_restore CASCADE",
        )?;
        // What is there stays, where somebody says so.
        run(&mut restore_command(port, &dir, &["--into-non-empty"])).expect(0);
        let there = target.worker(1).query("SELECT count(*) FROM theirs")?;
        assert_eq!(there[0][0].as_deref(), Some("0"));
        Ok(())
    });
}

#[test]
fn a_row_that_is_missing_or_in_another_shard_is_found_and_named() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let fresh = || Cluster::builder(engine).workers(1).fsync(false).build();
        let changed = |name: &str| {
            let path = folder.path().join(name);
            copy(&dir, &path);
            path
        };

        // The smallest table loses a row on the way.
        let lost = changed("lost");
        append(&lost, "DELETE FROM ONLY public.child");
        let target = fresh()?;
        let port = target.coordinator().port();
        let ended = run(&mut restore_command(port, &lost, &[])).expect(1);
        ended.complains_of(&["public.child has 0 rows, and 1 were dumped"]);
        // It says so again, and does not take what is there for whole.
        run(&mut restore_command(port, &lost, &["--resume"]))
            .expect(1)
            .complains_of(&["public.child has 0 rows"]);
        drop(target);

        // Two shards' files change places: every count is right.
        let swapped = changed("swapped");
        edit(&swapped, |manifest| {
            let files = manifest["files"].as_array_mut().expect("files");
            let mut of: Vec<&mut Value> =
                files.iter_mut().filter(|file| file["table"] == "a_joined").collect();
            let ends = |file: &Value| (file["min_value"].clone(), file["max_value"].clone());
            let (first, second) = (ends(of[0]), ends(of[1]));
            (of[0]["min_value"], of[0]["max_value"]) = second;
            (of[1]["min_value"], of[1]["max_value"]) = first;
        });
        let target = fresh()?;
        let ended = run(&mut restore_command(target.coordinator().port(), &swapped, &[])).expect(1);
        ended.complains_of(&["public.a_joined has", "that belong to another shard"]);
        drop(target);

        // The manifest says more rows than the file has: nothing of the file stays.
        let more = changed("more");
        edit(&more, |manifest| {
            let files = manifest["files"].as_array_mut().expect("files");
            let file = files.iter_mut().find(|file| file["table"] == "parent").expect("it");
            file["rows"] = 6.into();
        });
        let target = fresh()?;
        let ended = run(&mut restore_command(target.coordinator().port(), &more, &[])).expect(1);
        ended.complains_of(&[
            "table public.parent",
            "has 5 rows, and the manifest says 6",
            "--resume",
        ]);
        let left = target.coordinator().query("SELECT count(*) FROM ONLY parent")?;
        assert_eq!(left[0][0].as_deref(), Some("0"));
        Ok(())
    });
}
