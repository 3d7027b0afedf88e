//! The SQL functions.  Glue only.

/// Helpers that the extension calls on other nodes; users need none of them.
#[pgrx::pg_schema]
mod citus_fence {
    use crate::citus::myself::{self, LookError};
    use crate::pg::{elog, libpq};
    use crate::report::Report;
    use pgrx::{pg_extern, search_path};

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn coordinator_number() -> Option<String> {
        libpq::require();
        match myself::coordinator_number() {
            Ok(number) => number,
            Err(LookError::Catalog(error)) => elog::raise(&Report::from(&error)),
            Err(LookError::Remote(error)) => elog::raise(&Report::from(&error)),
        }
    }
}

pgrx::extension_sql_file!(
    "../../sql/identity.sql",
    name = "identity",
    requires = [citus_fence::coordinator_number],
);
