//! What the tests of other servers share.  They run on the server that `PG_CONFIG` names, which
//! `ci/with-wheel` has fetched; `PG_CONFIG_HERE` names the machine's own.

use std::process::Command;

/// What the machine's own `pg_config` says.
///
/// # Panics
/// When there is none: these tests are about the difference.
pub fn here(option: &str) -> String {
    ask("PG_CONFIG_HERE", option)
}

/// What the `pg_config` of the server under test says.
///
/// # Panics
/// When there is none.
pub fn there(option: &str) -> String {
    ask("PG_CONFIG", option)
}

fn ask(variable: &str, option: &str) -> String {
    let program = std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run this through ci/with-wheel"));
    let output = Command::new(program).arg(option).output().expect("pg_config runs");
    String::from_utf8(output.stdout).expect("pg_config speaks UTF-8").trim().to_owned()
}

/// The release in what `pg_config --version` says.
pub fn major(version: &str) -> Option<u32> {
    let number = version.split(' ').nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
