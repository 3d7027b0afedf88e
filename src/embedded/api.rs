//! The functions that `sql/pg_dist/` declares: their arguments, and nothing else.
//!
//! None of them belongs to the extension `citus_fence`, hence `sql = false`: the script names the
//! symbols, which are these names with `_wrapper` after them.

use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use super::error::{EmbeddedError, or_raise};
use super::{cleanup, distribute, execute, nodes, recovery, shard_lock};
use crate::pg::libpq;

#[pg_extern(sql = false)]
fn citus_set_coordinator_host(host: &str, port: i32) {
    libpq::require();
    or_raise(nodes::set_coordinator_host(host, port));
}

#[pg_extern(sql = false)]
fn citus_add_node(nodename: &str, nodeport: i32) -> i32 {
    libpq::require();
    or_raise(nodes::add_node(nodename, nodeport))
}

#[pg_extern(sql = false)]
fn citus_add_inactive_node(nodename: &str, nodeport: i32) -> i32 {
    libpq::require();
    or_raise(nodes::add_inactive_node(nodename, nodeport))
}

#[pg_extern(sql = false)]
fn citus_activate_node(nodename: &str, nodeport: i32) -> i32 {
    libpq::require();
    or_raise(nodes::activate_node(nodename, nodeport))
}

#[pg_extern(sql = false)]
fn citus_disable_node(nodename: &str, nodeport: i32) {
    libpq::require();
    or_raise(nodes::disable_node(nodename, nodeport));
}

#[pg_extern(sql = false)]
fn citus_remove_node(nodename: &str, nodeport: i32) {
    libpq::require();
    or_raise(nodes::remove_node(nodename, nodeport));
}

#[pg_extern(sql = false)]
fn create_distributed_table(
    table_name: Oid,
    distribution_column: &str,
    shard_count: i32,
    colocate_with: &str,
) {
    libpq::require();
    or_raise(distribute::create_distributed_table(
        table_name,
        distribution_column,
        shard_count,
        colocate_with,
    ));
}

#[pg_extern(sql = false)]
fn column_name_to_column(table_name: Oid, column_name: &str) -> String {
    libpq::require();
    or_raise(distribute::column_name_to_column(table_name, column_name))
}

#[pg_extern(sql = false)]
fn pg_dist_execute(rel: Option<Oid>, key: Option<&str>, command: Option<&str>) -> i64 {
    libpq::require();
    or_raise(required(rel, "rel").and_then(|rel| {
        rows(execute::on_key(rel, required(key, "key")?, required(command, "command")?)?)
    }))
}

#[pg_extern(sql = false)]
fn pg_dist_execute_all(rel: Option<Oid>, command: Option<&str>) -> i64 {
    libpq::require();
    or_raise(
        required(rel, "rel")
            .and_then(|rel| rows(execute::on_all(rel, required(command, "command")?)?)),
    )
}

#[pg_extern(sql = false)]
fn lock_shard_metadata(lock_mode: i32, shard_id: Vec<Option<i64>>) {
    or_raise(shard_lock::lock(lock_mode, &shard_id));
}

#[pg_extern(sql = false)]
fn citus_cleanup_orphaned_resources() {
    libpq::require();
    or_raise(cleanup::drop_orphans());
}

#[pg_extern(sql = false)]
fn recover_prepared_transactions() -> i32 {
    libpq::require();
    or_raise(recovery::recover())
}

fn required<T>(value: Option<T>, argument: &'static str) -> Result<T, EmbeddedError> {
    value.ok_or(EmbeddedError::NullArgument { argument })
}

fn rows(count: u64) -> Result<i64, EmbeddedError> {
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}
