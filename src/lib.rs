//! `citus_fence`: write fences for Citus clusters, and the operations that need one.
//!
//! `docs/ARCHITECTURE.md` has a map of the modules and the life of one call.

#![deny(unsafe_code)]

mod catalog;
mod embedded;
mod errors;
mod fence;
mod guc;
#[allow(unsafe_code)]
mod pg;
mod readonly;

use pgrx::prelude::*;

#[allow(unsafe_code)]
mod magic {
    ::pgrx::pg_module_magic!(name, version);
}

static SHARED: &[&dyn pg::shmem::SharedArea] =
    &[&fence::CONTROL, &fence::HANDOVERS, &readonly::Memory];

#[allow(non_snake_case, unsafe_code)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    let preloading = pg::process::is_preloading();
    guc::define(preloading);
    embedded::init();
    if !preloading {
        return;
    }
    pg::process::reserve_setting_prefix();
    if let Some(report) = pg::libpq::too_old() {
        pg::elog::emit(PgLogLevel::WARNING, &report);
        return;
    }
    pg::shmem::install(SHARED);
    pg::hooks::install();
}

pgrx::extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

/// What `cargo pgrx test` asks of the extension's root.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to set up.
    pub fn setup(_options: Vec<&str>) {}

    /// The server of these tests does not preload the library: what needs that runs on clusters.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
