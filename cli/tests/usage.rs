//! What needs no server: wrong use, help, servers that are not there.

mod common;

use common::{command, run};

#[test]
fn help_and_version_are_results() {
    let version = run(&mut command(&["--version"])).expect(0);
    assert_eq!(version.out, format!("citus-fence {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&mut command(&["--help"])).expect(0);
    for word in ["status", "Exit codes", "3  done, with findings"] {
        assert!(help.out.contains(word), "{}", help.out);
    }
    assert!(help.err.is_empty(), "{help:?}");
    run(&mut command(&["status", "-?"])).expect(0);
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &["Usage"]),
        (&["statsu"], &["citus-fence: error:", "statsu", "status"]),
        (&["status", "--frobnicate"], &["citus-fence: error:", "--frobnicate"]),
        (&["status", "--connect-timeout", "10"], &["citus-fence: error:", "lacks a unit"]),
        (&["status", "-p", "5432x"], &["citus-fence: error:", "1 to 65535"]),
        (&["status", "-d", "host=x frob=1"], &["citus-fence: error:", "citus-fence: hint:"]),
    ];
    for (words, complaint) in cases {
        let ended = run(&mut command(words)).expect(2).complains_of(complaint);
        assert!(ended.out.is_empty(), "{ended:?}");
    }
}

#[test]
fn wrong_use_is_json_where_that_was_asked_for() {
    for words in
        [["status", "--json", "--frobnicate"].as_slice(), &["--json", "status", "-d", "frob=1"]]
    {
        let ended = run(&mut command(words)).expect(2);
        let error: serde_json::Value = serde_json::from_str(&ended.err).expect("one line of JSON");
        assert_eq!(error["error"]["exit_code"], 2, "{ended:?}");
    }
}

#[test]
fn no_password_is_repeated_however_wrong_the_use() {
    for words in [
        ["status", "postgresql://me:hunter2@h/db"].as_slice(),
        &["status", "-d", "password=my hunter2"],
        &["status", "-d", "password=hunter2 frob=1"],
        &["status", "--password=hunter2"],
        &["status", "--json", "postgresql://me:hunter2@h/db"],
    ] {
        let ended = run(&mut command(words)).expect(2);
        assert!(!ended.err.contains("hunter2") && !ended.out.contains("hunter2"), "{ended:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    // Nobody listens on port 1, and there is no such directory.
    let refused = ["status", "-h", "127.0.0.1", "-p", "1", "-U", "me"];
    run(&mut command(&refused)).expect(1).complains_of(&[
        "citus-fence: error: could not connect to 127.0.0.1:1:",
        "Connection refused",
        "citus-fence: hint:",
    ]);
    run(&mut command(&["status", "-h", "/nonexistent/dir", "-p", "5499", "-U", "me"]))
        .expect(1)
        .complains_of(&["/nonexistent/dir:5499"]);
    let json = run(command(&refused).arg("--json")).expect(1);
    let error: serde_json::Value = serde_json::from_str(&json.err).expect("one line of JSON");
    assert_eq!(error["error"]["exit_code"], 1);
    assert_eq!(error["error"]["sqlstate"], serde_json::Value::Null);
    assert!(json.out.is_empty(), "{json:?}");
}

#[test]
fn a_service_that_does_not_exist_is_an_error_and_not_ignored() {
    run(command(&["status"]).env("PGSERVICE", "nowhere")).expect(1).complains_of(&["nowhere"]);
}

#[test]
fn verbose_tells_on_standard_error_and_masks_secrets() {
    let words = ["status", "-v", "-d", "host=127.0.0.1 port=1 user=me password=hunter2"];
    let ended = run(&mut command(&words)).expect(1).complains_of(&["password=****", "port=1"]);
    assert!(!ended.err.contains("hunter2"), "{ended:?}");
}
