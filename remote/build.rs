//! Links the libpq of the PostgreSQL that the build is for, not the one that pkg-config finds for `libpq-sys`: its
//! directory is searched first.  It is asked for in the words of pgrx (`PGRX_PG_CONFIG_PATH`), then of
//! `PG_CONFIG`, then in the path.

use std::env;
use std::error::Error;
use std::process::Command;

const NAMED_BY: [&str; 2] = ["PGRX_PG_CONFIG_PATH", "PG_CONFIG"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in NAMED_BY {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let pg_config = NAMED_BY.iter().find_map(env::var_os).unwrap_or_else(|| "pg_config".into());
    let output = Command::new(&pg_config)
        .arg("--libdir")
        .output()
        .map_err(|error| format!("cannot run {}: {error}; set PG_CONFIG", pg_config.display()))?;
    let libdir = String::from_utf8(output.stdout)?;
    let libdir = libdir.trim();
    println!("cargo:rustc-link-search=native={libdir}");
    // The run path of this crate's own tests; who links this crate gives itself one from DEP_CITUS_FENCE_LIBPQ_LIBDIR.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libdir}");
    println!("cargo:libdir={libdir}");
    Ok(())
}
