//! Where the functions of this library's extension are in the database of this session.
//!
//! The extension may be created in any schema, and another one may have functions of the same names in `pg_catalog`,
//! which is searched first.  What a text tells a user to call is written so that a call as it stands reaches ours.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::{quote, small_table};
use crate::report::{Reached, with_schemas};

/// The text with those calls qualified that would not reach ours as they stand.  Where nothing can be looked up now, as
/// in a transaction that has failed or in a process that is no session, the text as it is.
pub fn as_reached(text: &str) -> Cow<'_, str> {
    if !text.contains('(') || !can_look() {
        return Cow::Borrowed(text);
    }
    let home = Home::find();
    with_schemas(text, env!("CARGO_PKG_NAME"), |name| home.reach(name))
}

/// Whether catalogs can be read now, by a session.  A worker's errors are raised by the session that waits for it, and
/// what a worker reads it reads within a bound.
fn can_look() -> bool {
    // SAFETY: variables of this process, and a question without effect.
    unsafe {
        pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND
            && !pg_sys::proc_exit_inprogress
            && pg_sys::CritSectionCount == 0
            && pg_sys::IsTransactionState()
    }
}

/// The schema of the extension; `None` where this database does not have it.
struct Home(Option<(u32, String)>);

impl Home {
    fn find() -> Self {
        let columns = [c"extname", c"extnamespace"];
        let home = small_table::rows(pg_sys::ExtensionRelationId, &columns)
            .into_iter()
            .find(|row| row[0].as_deref() == Some(env!("CARGO_PKG_NAME")))
            .and_then(|row| row[1].as_ref()?.parse::<u32>().ok())
            .and_then(|schema| Some((schema, schema_name(schema)?)));
        Self(home)
    }

    fn reach(&self, name: &str) -> Reached {
        let schemas = schemas_of(name);
        match &self.0 {
            None if schemas.is_empty() => Reached::Nowhere,
            Some((home, shown)) if schemas.contains(home) => {
                let is_hidden = schemas.contains(&PG_CATALOG) && *home != PG_CATALOG;
                if is_hidden || ![PG_CATALOG, PUBLIC].contains(home) {
                    Reached::In(shown.clone())
                } else {
                    Reached::AsItStands
                }
            }
            // Not one of ours.
            _ => Reached::AsItStands,
        }
    }
}

const PG_CATALOG: u32 = 11;
/// The default `search_path` has it.
const PUBLIC: u32 = 2200;

/// The schema's name as SQL needs it.
fn schema_name(schema: u32) -> Option<String> {
    // SAFETY: a look-up in the system cache, inside a transaction; a copy, or null for none.
    let name = unsafe {
        let name = pg_sys::get_namespace_name(pg_sys::Oid::from(schema));
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    name.map(|name| quote::where_needed(&name))
}

/// The schemas that have a function of that name.
fn schemas_of(name: &str) -> Vec<u32> {
    let Ok(name) = CString::new(name) else {
        return Vec::new();
    };
    // SAFETY: inside a transaction; the list and its rows stay until the list is released, after an error by the abort.
    unsafe {
        let none = pg_sys::Datum::null();
        let list = pg_sys::SearchSysCacheList(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            1,
            pg_sys::Datum::from(name.as_ptr()),
            none,
            none,
        );
        let count = usize::try_from((*list).n_members).unwrap_or(0);
        let schemas = (*list)
            .members
            .as_slice(count)
            .iter()
            .map(|member| {
                let row = pg_sys::GETSTRUCT(&raw mut (**member).tuple);
                (*row.cast::<pg_sys::FormData_pg_proc>()).pronamespace.to_u32()
            })
            .collect();
        pg_sys::ReleaseCatCacheList(list);
        schemas
    }
}
