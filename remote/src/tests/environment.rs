//! What libpq takes from the environment, and what it does not get to see.

use std::process::Command;

use crate::ffi::{self, LibPq};
use crate::script::ms;
use crate::{ConnParams, Pq, base_params, program_params};

const INHERITED: &str = "from-the-environment";

/// Runs one of the tests below in a process of its own, with every variable set that libpq knows.
fn in_such_an_environment(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--ignored", "--nocapture", test]);
    let variables = ffi::environment_variables();
    assert!(variables.iter().any(|name| name == "PGAPPNAME"), "{variables:?}");
    // Where the passwords are is the one thing that is let through.
    for name in variables.iter().filter(|name| *name != "PGPASSFILE") {
        child.env(name, INHERITED);
    }
    let done = child.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// What has come from the environment into a connection with these parameters.
fn inherited(params: &ConnParams) -> Vec<(String, String)> {
    let conn = LibPq::start(params).unwrap_or_else(|error| panic!("{error:?}"));
    let mut pairs = ffi::goes_by(&conn);
    pairs.retain(|(_, value)| value == INHERITED);
    pairs
}

#[test]
fn nothing_of_the_environment_reaches_a_server_process_sessions() {
    in_such_an_environment("tests::environment::child_of_a_server");
}

#[test]
#[ignore = "run by the test above"]
fn child_of_a_server() {
    let params = base_params("127.0.0.1", 1, "d", "u", "app", ms(1000));
    assert_eq!(inherited(&params), []);
    // It is there again afterwards.
    assert_eq!(std::env::var("PGAPPNAME").as_deref(), Ok(INHERITED));
}

/// The control: a program's sessions have it.
#[test]
fn a_program_goes_by_its_environment() {
    in_such_an_environment("tests::environment::child_of_a_program");
}

#[test]
#[ignore = "run by the test above"]
fn child_of_a_program() {
    let mut params = program_params("app", ms(1000));
    // A service that there is not ends it all.
    params.set("host", "127.0.0.1").set("port", "1");
    let conn = LibPq::start(&params).unwrap_or_else(|error| panic!("{error:?}"));
    assert!(conn.error_message().contains(INHERITED), "{}", conn.error_message());
}
