//! Whose the database is, and who may do what with it.

use super::super::export::Keeper;
use super::super::manifest::{Access, Privilege};
use crate::failure::Failure;
use crate::rows::{only_row, rows};

/// As one node has it.
pub fn of(keeper: &mut Keeper) -> Result<Access, Failure> {
    let reply = keeper.ask(
        "ask who may use the database",
        "SELECT pg_get_userbyid(datdba) AS owner, shobj_description(oid, 'pg_database') AS comment,
                datconnlimit AS connections, datacl IS NULL AS is_usual
           FROM pg_database WHERE datname = current_database()",
    )?;
    let row = only_row(&reply)?;
    let is_usual = row.is_true("is_usual")?;
    let mut access = Access {
        groupid: keeper.node.groupid,
        owner: row.get("owner")?,
        comment: row.maybe("comment")?,
        connection_limit: row.get("connections")?,
        privileges: None,
    };
    if is_usual {
        return Ok(access);
    }
    let reply = keeper.ask(
        "list the database's privileges",
        "SELECT r.rolname AS role, a.privilege_type AS privilege, a.is_grantable AS grantable
           FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
          WHERE d.datname = current_database() AND (a.grantee = 0 OR r.rolname IS NOT NULL)
          ORDER BY r.rolname NULLS FIRST, a.privilege_type",
    )?;
    let mut privileges = Vec::new();
    for row in rows(&reply)? {
        privileges.push(Privilege {
            role: row.maybe("role")?,
            privilege: row.get("privilege")?,
            grantable: row.is_true("grantable")?,
        });
    }
    access.privileges = Some(privileges);
    Ok(access)
}
