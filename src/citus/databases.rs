//! The other databases of this server, each of which may be a cluster of its own.

use remote::Target;

use super::HELPER_NAME;
use crate::pg::{ident, lock, small_table};

/// More of them are not looked into: a session each would cost more than what is asked for.
pub const MOST: usize = 50;

/// One that takes connections.
pub struct OtherDatabase {
    /// Its number.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// All of them, by name.
pub fn other_databases() -> Vec<OtherDatabase> {
    let Some(relation) = lock::catalog_relation(c"pg_database") else { return Vec::new() };
    let here = ident::database().to_u32();
    let columns = [c"oid", c"datname", c"datallowconn", c"datistemplate"];
    let rows = small_table::rows(relation, &columns).into_iter();
    let used = rows.filter_map(|row| {
        let oid: u32 = row[0].as_ref()?.parse().ok()?;
        let is_used = row[2].as_deref() == Some("t") && row[3].as_deref() == Some("f");
        let name = row[1].clone()?;
        (is_used && oid != here).then_some(OtherDatabase { oid, name })
    });
    let mut used: Vec<OtherDatabase> = used.collect();
    used.sort_by(|one, other| one.name.cmp(&other.name));
    used
}

/// Where one of them is reached, given where this server reaches itself.
pub fn in_database(own: &Target, name: &str) -> Target {
    let mut target = own.clone();
    target.params.set("dbname", name).set("application_name", HELPER_NAME);
    target
}
