//! `citus_fence`: write fences for Citus clusters, and the operations that need one.
//!
//! `docs/ARCHITECTURE.md` has a map of the modules and the life of one call.

#![deny(unsafe_code)]

mod block;
mod citus;
mod clone;
mod embedded;
mod fence;
mod gate;
mod guc;
#[cfg(test)]
mod model;
#[allow(unsafe_code)]
mod pg;
mod readonly;
mod report;
mod snapshot;

use fence::under_way::{Excludes, Operation};
use pg::xact_callbacks::Turn;
use pgrx::prelude::*;

#[allow(unsafe_code)]
mod magic {
    ::pgrx::pg_module_magic!(name, version);
}

static SHARED: &[&dyn pg::shmem::SharedArea] = &[
    &pg::ident::SERVER_NUMBER,
    &block::CONTROL,
    &block::HANDOVERS,
    &gate::Memory,
    &snapshot::EXPORTS,
];

/// Operations that exclude each other.
static UNDER_WAY: &[Operation] = &[
    Operation { name: block::OPERATION, look: block::under_way, excludes: Excludes::All },
    Operation { name: clone::OPERATION, look: clone::under_way, excludes: Excludes::All },
    Operation {
        name: readonly::cluster::OPERATION,
        look: readonly::cluster::under_way,
        excludes: Excludes::All,
    },
    // Whoever reads under a snapshot is to find the shards where they were.
    Operation {
        name: snapshot::OPERATION,
        look: snapshot::under_way,
        excludes: Excludes::Only(clone::OPERATION),
    },
];

static WORKERS: &[&pg::worker::Worker] =
    &[&block::WORKER, &clone::WORKER, &clone::LAUNCHER, &snapshot::WORKER, &gate::KEEPER];

#[allow(non_snake_case, unsafe_code)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::elog::without_traces();
    let preloading = pg::process::is_preloading();
    fence::under_way::wire(UNDER_WAY);
    guc::define(preloading, gate::is_read_only);
    embedded::init();
    if !preloading {
        return;
    }
    pg::process::reserve_setting_prefix();
    if let Some(report) = pg::libpq::too_old() {
        pg::elog::emit(PgLogLevel::WARNING, &report);
        return;
    }
    pg::worker::install(WORKERS);
    if !pg::process::is_binary_upgrade() && clone::may_be_interrupted() {
        pg::worker::register_static(&clone::LAUNCHER);
    }
    if !pg::process::is_binary_upgrade() && gate::may_need_keeper() {
        pg::worker::register_static(&gate::KEEPER);
    }
    pg::shmem::install(SHARED);
    gate::hooks::require_load_order();
    pg::xact_callbacks::register(Turn::First, gate::hooks::CALLBACKS);
    pg::hooks::install(pg::hooks::Watch {
        before_drop,
        before_function: block::before_function,
        ..gate::hooks::WATCH
    });
}

/// Whoever would be lost with the extension refuses.
fn before_drop() {
    clone::before_drop();
    snapshot::before_drop();
}

pgrx::extension_sql_file!("../sql/library.sql", name = "library", bootstrap);
pgrx::extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test(error = "citus_fence must be loaded via shared_preload_libraries")]
    fn without_the_preload_the_block_says_so() {
        Spi::run("SELECT citus_block_writes_for_backup()").expect("an error");
    }
}

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
