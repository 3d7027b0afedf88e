//! The rows of a small table without a query: a process that has just started needs milliseconds to plan its
//! first one.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::memory::Scratch;

/// A value as the server writes it, or null.
pub type Value = Option<String>;

/// All rows, each with the values of those columns; null where the table has no such column.  The rows are
/// those of now, whatever the transaction has seen before.  Nobody's right to read the table is looked at.
pub fn rows(relation: pg_sys::Oid, columns: &[&CStr]) -> Vec<Vec<Value>> {
    let mut known: Option<Vec<Column>> = None;
    // SAFETY: the table is open, and the row is one of it.
    each_row(relation, |table, row| unsafe {
        let find = || columns.iter().map(|name| Column::find(table, name)).collect();
        let columns = known.get_or_insert_with(find);
        columns.iter().map(|column| column.value(table, row)).collect()
    })
}

/// What is made of each row, which is valid as long as the call, as the table is.
pub(super) fn each_row<R>(
    relation: pg_sys::Oid,
    mut make: impl FnMut(pg_sys::Relation, pg_sys::HeapTuple) -> R,
) -> Vec<R> {
    let context = Scratch::new();
    context.run(|| {
        // SAFETY: inside a transaction.  The relation is open while its rows are read, and a row stays where
        // it is until the next one is asked for.  After an error the abort closes all of it.
        unsafe {
            let table = pg_sys::table_open(relation, READ);
            let scan = pg_sys::systable_beginscan(
                table,
                pg_sys::InvalidOid,
                false,
                // The catalogs' snapshot, which for a table like this is a new one each time.
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
            );
            let mut rows = Vec::new();
            loop {
                let row = pg_sys::systable_getnext(scan);
                if row.is_null() {
                    break;
                }
                rows.push(make(table, row));
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(table, READ);
            rows
        }
    })
}

/// The transaction that has made a column of a table, or changed it last, as `xmin` shows it.
pub fn column_made_by(relation: pg_sys::Oid, column: &CStr) -> Option<u32> {
    // SAFETY: a look-up in the system cache; a row of it has its header.
    unsafe {
        let row = pg_sys::SearchSysCacheAttName(relation, column.as_ptr());
        (!row.is_null()).then(|| {
            let made_by = (*(*row).t_data).t_choice.t_heap.t_xmin;
            pg_sys::ReleaseSysCache(row);
            u32::from(made_by)
        })
    }
}

const READ: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// Where a column is, and what writes its values.
struct Column {
    number: i16,
    output: pg_sys::Oid,
}

impl Column {
    /// # Safety
    /// The table must be open.
    unsafe fn find(table: pg_sys::Relation, name: &CStr) -> Self {
        // SAFETY: look-ups in the system cache for the caller's table; dropped columns are not found.
        unsafe {
            let relation = (*table).rd_id;
            let number = pg_sys::get_attnum(relation, name.as_ptr());
            let mut output = pg_sys::InvalidOid;
            // Those of the system's own have numbers below 0.
            if number != 0 {
                let mut is_varlena = false;
                let of_type = pg_sys::get_atttype(relation, number);
                pg_sys::getTypeOutputInfo(of_type, &mut output, &mut is_varlena);
            }
            Self { number, output }
        }
    }

    /// # Safety
    /// The row must be one of the table.
    unsafe fn value(&self, table: pg_sys::Relation, row: pg_sys::HeapTuple) -> Value {
        if self.number == 0 {
            return None;
        }
        // SAFETY: the column is one of the caller's table; what its type's output function gives is a C
        // string of its own.
        unsafe {
            let mut is_null = false;
            let number = i32::from(self.number);
            let datum = pg_sys::heap_getattr(row, number, (*table).rd_att, &mut is_null);
            (!is_null).then(|| {
                let text = pg_sys::OidOutputFunctionCall(self.output, datum);
                CStr::from_ptr(text).to_string_lossy().into_owned()
            })
        }
    }
}
