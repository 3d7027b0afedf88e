//! Settings that belong to others (the server, Citus), read by name.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// The setting's value in its base unit, or `None` where no such setting exists.
pub fn read(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the answer points to memory of the settings' machinery, valid until the next change of
    // a setting; it is copied at once.  Missing settings are allowed, no privileges are asked for.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// The setting as a number, or `None` where it does not exist or is none.
pub fn read_number(name: &str) -> Option<f64> {
    read(name)?.trim().parse().ok()
}
