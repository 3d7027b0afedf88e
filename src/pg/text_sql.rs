//! SQL with text in and text out, always with a fresh snapshot.
//!
//! pgrx's own `Spi` runs queries with the snapshot of the calling statement as long as the
//! transaction has written nothing.  What is read after waiting for a lock must not be older than
//! the lock, so this passes `read_only = false` each time; nor does it assign a transaction number.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Rows, as text; none for NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// A statement could not be executed for a reason that raises no error of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The text contains a zero byte.
    #[error("the command contains a zero byte")]
    ZeroByte,
    /// The server's word for it, such as `SPI_ERROR_TRANSACTION`.
    #[error("the command cannot be executed in a function: {0}")]
    Refused(String),
}

/// Runs one query whose parameters `$1`, `$2`, … are text (cast them), and gives its rows.
pub fn query(sql: &str, params: &[&str]) -> Result<Rows, SqlError> {
    run(sql, params, collect)
}

/// Runs one or more statements and gives the number of rows that the last one affected or returned.
pub fn execute(sql: &str, params: &[&str]) -> Result<u64, SqlError> {
    // SAFETY: SPI has set it when the statement ended.
    run(sql, params, || unsafe { pg_sys::SPI_processed })
}

fn run<R>(sql: &str, params: &[&str], result: impl FnOnce() -> R) -> Result<R, SqlError> {
    let to_c = |text: &str| CString::new(text).map_err(|_| SqlError::ZeroByte);
    let sql = to_c(sql)?;
    let params = params.iter().map(|param| to_c(param)).collect::<Result<Vec<_>, _>>()?;
    let mut types = vec![pg_sys::TEXTOID; params.len()];
    // SAFETY: connected before and finished after, unless an error is raised: then the end of the
    // transaction cleans up, as it does for the snapshot, which SQL must run under even where the
    // caller has none (callbacks at the commit).  The arrays have as many members as is said and outlive the call; the
    // parameters are copied into SPI's memory context.
    unsafe {
        let bare = !pg_sys::ActiveSnapshotSet();
        if bare {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        pg_sys::SPI_connect();
        let mut values: Vec<pg_sys::Datum> =
            params.iter().map(|param| pg_sys::cstring_to_text(param.as_ptr()).into()).collect();
        let code = pg_sys::SPI_execute_with_args(
            sql.as_ptr(),
            params.len() as core::ffi::c_int,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            false,
            0,
        );
        let outcome = match code {
            0.. => Ok(result()),
            _ => Err(SqlError::Refused(
                CStr::from_ptr(pg_sys::SPI_result_code_string(code)).to_string_lossy().into_owned(),
            )),
        };
        pg_sys::SPI_finish();
        if bare {
            pg_sys::PopActiveSnapshot();
        }
        outcome
    }
}

/// The rows of the last statement.
fn collect() -> Rows {
    // SAFETY: between SPI_execute and SPI_finish the table is null or valid, with as many rows and
    // columns as it says; SPI_getvalue gives a C string in SPI's memory, or null.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return Vec::new();
        }
        let descriptor = (*table).tupdesc;
        (0..(*table).numvals as usize)
            .map(|row| {
                let tuple = *(*table).vals.add(row);
                (1..=(*descriptor).natts)
                    .map(|column| {
                        let value = pg_sys::SPI_getvalue(tuple, descriptor, column);
                        (!value.is_null())
                            .then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
                    })
                    .collect()
            })
            .collect()
    }
}

/// An array as the server reads it, from the texts of its values.
pub fn array<T: AsRef<str>>(values: &[T]) -> String {
    let quoted = values.iter().map(|value| {
        let escaped = value.as_ref().replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    });
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::array;

    #[test]
    fn arrays_are_quoted() {
        assert_eq!(array(&["a", "b\"\\", ""]), r#"{"a","b\"\\",""}"#);
        assert_eq!(array::<String>(&[]), "{}");
    }
}
