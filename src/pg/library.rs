//! Other libraries in this server, and questions to them.

use std::ffi::{CStr, CString, c_void};

use pgrx::{PgTryBuilder, pg_sys};

/// Libraries of `shared_preload_libraries`, in order.
pub fn preloaded() -> Vec<String> {
    // SAFETY: a C string of the settings' machinery, or null; copied at once.
    let list = unsafe {
        if pg_sys::shared_preload_libraries_string.is_null() {
            return Vec::new();
        }
        CStr::from_ptr(pg_sys::shared_preload_libraries_string).to_string_lossy().into_owned()
    };
    list.split(',').map(library_name).collect()
}

/// The name in an entry of the list, without quotes, directory and ending.
fn library_name(entry: &str) -> String {
    let entry = entry.trim().trim_matches(['"', '\'']);
    let file = entry.rsplit('/').next().unwrap_or(entry);
    file.strip_suffix(".so").unwrap_or(file).to_owned()
}

/// Whether a library is loaded into every process of this server.
pub fn is_preloaded(library: &str) -> bool {
    preloaded().iter().any(|name| name == library)
}

/// A question to another library: a function of it that says yes or no.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    /// `bool f(void)`
    Plain(unsafe extern "C-unwind" fn() -> bool),
    /// A function for SQL that does not look at its call information.
    ForSql(unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum),
}

impl Question {
    /// The function of that name, if the library, which is loaded already, has it.  Whoever names it answers
    /// for its being `bool f(void)`, and raising nothing.
    pub fn plain(library: &str, name: &CStr) -> Option<Self> {
        let function = look_up(library, name)?;
        // SAFETY: the function's type, as the caller vouches.
        Some(Self::Plain(unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn() -> bool>(function)
        }))
    }

    /// The same, of a function for SQL that takes nothing.  The caller answers for its not looking at its call
    /// information; it may raise errors.
    pub fn for_sql(library: &str, name: &CStr) -> Option<Self> {
        let function = look_up(library, name)?;
        // SAFETY: the function's type, as the caller vouches.
        Some(Self::ForSql(unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
            >(function)
        }))
    }

    /// Asks.  An error of the function is a no.
    pub fn is_answered_yes(self) -> bool {
        match self {
            // SAFETY: it takes nothing and reads a variable.
            Self::Plain(function) => unsafe { function() },
            Self::ForSql(function) => PgTryBuilder::new(|| {
                // SAFETY: the function does not look at its call information; errors of C code are turned
                // into unwinding by the boundary.
                unsafe {
                    pg_sys::ffi::pg_guard_ffi_boundary(|| {
                        function(std::ptr::null_mut()).value() != 0
                    })
                }
            })
            .catch_others(|_| false)
            .execute(),
        }
    }
}

fn look_up(library: &str, name: &CStr) -> Option<*mut c_void> {
    let library = CString::new(format!("$libdir/{library}")).ok()?;
    // SAFETY: the library is loaded already, so this only looks the symbol up; both are C strings.
    let function = unsafe {
        pg_sys::load_external_function(library.as_ptr(), name.as_ptr(), false, std::ptr::null_mut())
    };
    (!function.is_null()).then_some(function.cast())
}

#[cfg(test)]
mod tests {
    use super::library_name;

    #[test]
    fn libraries_are_known_however_they_are_written() {
        for entry in ["other", " other ", "\"other\"", "$libdir/other", "'$libdir/other.so'"] {
            assert_eq!(library_name(entry), "other", "{entry}");
        }
    }
}
