//! The SQL functions.  Glue only.

use pgrx::{default, pg_extern, search_path};

use super::error::SwitchError;
use super::switch::{self, Scope};
use crate::gate::error::GateError;
use crate::pg::elog;
use crate::pg::types::Lsn;
use crate::report::Report;

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn alter_system_read_only(terminate_writers: default!(Option<bool>, "true")) -> Lsn {
    const ARGUMENT: &str = "terminate_writers";
    let given = terminate_writers.ok_or(GateError::NullArgument { argument: ARGUMENT });
    Lsn(or_raise(
        given
            .map_err(SwitchError::from)
            .and_then(|terminate| switch::read_only(Scope::Node, terminate)),
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn alter_system_read_write() {
    or_raise(switch::read_write(Scope::Node));
}

pgrx::extension_sql_file!(
    "../../sql/read_only.sql",
    name = "read_only",
    requires = [alter_system_read_only, alter_system_read_write],
);

pub fn or_raise<T>(result: Result<T, SwitchError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}
