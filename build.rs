//! The library's run path: a server that brings a libpq of its own gets no other from this library.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use pgrx_pg_config::Pgrx;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["PGRX_PG_CONFIG_PATH", "PG_CONFIG"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let libdir = libdir()?;
    let libdir = libdir.display();
    println!("cargo:rustc-env=CITUS_FENCE_LIBDIR={libdir}");
    println!("cargo:rustc-link-search=native={libdir}");
    if !is_searched_anyway(&libdir.to_string()) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libdir}");
    }
    Ok(())
}

/// Where the libpq is of the PostgreSQL that the build is for.  What nobody names is what pgrx takes its
/// headers from: `cargo pgrx` says it nowhere but in its configuration.
fn libdir() -> Result<PathBuf, Box<dyn Error>> {
    if env::var_os("PGRX_PG_CONFIG_PATH").is_none() && env::var_os("PG_CONFIG").is_none() {
        let release = (15..=18)
            .map(|release| format!("pg{release}"))
            .find(|name| env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some());
        let known = release.and_then(|name| Pgrx::from_config().ok()?.get(&name).ok());
        if let Some(pg_config) = known {
            return Ok(pg_config.lib_dir()?);
        }
    }
    // What `remote` found.
    let found =
        env::var_os("DEP_CITUS_FENCE_LIBPQ_LIBDIR").ok_or("remote does not say where libpq is")?;
    Ok(found.into())
}

/// Whether the loader looks there without being told.
fn is_searched_anyway(libdir: &str) -> bool {
    match libdir.strip_prefix("/usr").unwrap_or(libdir).strip_prefix("/lib") {
        Some("" | "64") => true,
        Some(rest) => rest.starts_with('/') && rest.ends_with("-linux-gnu"),
        None => false,
    }
}
