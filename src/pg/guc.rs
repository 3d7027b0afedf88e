//! Settings that belong to others (the server, other libraries), read by name, and one that only shows a state.

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

use pgrx::{pg_guard, pg_sys};

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

/// Sets a setting that otherwise only the configuration files set, in this process alone, or takes that back.
/// What the files say goes on to be read underneath.
pub fn set_over_files(name: &CStr, value: Option<&CStr>) {
    // SAFETY: a C string, and another or null, which stands for what the files say; copied by the server.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.map_or(std::ptr::null(), CStr::as_ptr),
            pg_sys::GucContext::PGC_SIGHUP,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Sets a setting as the session's own SET would, to the end of the session; or takes that back.
pub fn set_for_session(name: &CStr, value: Option<&CStr>) {
    // SAFETY: a C string, and another or null, which stands for what it would be without; copied by the server.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.map_or(std::ptr::null(), CStr::as_ptr),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Whether a boolean setting would be on after a RESET.
pub fn is_on_after_reset(name: &CStr) -> bool {
    // SAFETY: the name of a setting of the server's own; what is given back lives as long as the setting.
    unsafe { CStr::from_ptr(pg_sys::GetConfigOptionResetString(name.as_ptr())) == c"on" }
}

static SHOWN: OnceLock<fn() -> bool> = OnceLock::new();

/// Defines a setting that nobody can set, and whose value is what `value` says at the time of the look.
/// One per library.
pub fn define_shown_bool(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    value: fn() -> bool,
) {
    static mut UNUSED: bool = false;
    let _ = SHOWN.set(value);
    // SAFETY: all texts are constants, and the variable and the hook live as long as the library.
    unsafe {
        pg_sys::DefineCustomBoolVariable(
            name.as_ptr(),
            short.as_ptr(),
            long.as_ptr(),
            &raw mut UNUSED,
            false,
            pg_sys::GucContext::PGC_INTERNAL,
            (pg_sys::GUC_NOT_IN_SAMPLE | pg_sys::GUC_DISALLOW_IN_FILE) as core::ffi::c_int,
            None,
            None,
            Some(show),
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn show() -> *const core::ffi::c_char {
    let on = SHOWN.get().is_some_and(|value| value());
    if on { c"on".as_ptr() } else { c"off".as_ptr() }
}

/// Defines a setting that nobody can set, and whose value is that text.  With [`define_shown_number`] it tells a
/// session over there what serves it, without a function that it would have to trust.
pub fn define_constant(name: &'static CStr, short: &'static CStr, value: &'static CStr) {
    static mut UNUSED: *mut c_char = std::ptr::null_mut();
    define_text(name, short, value, &raw mut UNUSED, None);
}

static SHOWN_NUMBER: OnceLock<fn() -> Option<u64>> = OnceLock::new();

/// The same for a number, or nothing where there is none, which stays the same for as long as a process.  One per
/// library.
pub fn define_shown_number(name: &'static CStr, short: &'static CStr, value: fn() -> Option<u64>) {
    static mut UNUSED: *mut c_char = std::ptr::null_mut();
    let _ = SHOWN_NUMBER.set(value);
    define_text(name, short, c"", &raw mut UNUSED, Some(show_number));
}

/// As the number is shown.
pub fn shown_number(number: u64) -> String {
    format!("{number:016x}")
}

type ShowHook = unsafe extern "C-unwind" fn() -> *const c_char;

fn define_text(
    name: &'static CStr,
    short: &'static CStr,
    boot: &'static CStr,
    variable: *mut *mut c_char,
    show: Option<ShowHook>,
) {
    // SAFETY: all texts are constants, and the variable and the hook live as long as the library.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            name.as_ptr(),
            short.as_ptr(),
            std::ptr::null(),
            variable,
            boot.as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            (pg_sys::GUC_NOT_IN_SAMPLE | pg_sys::GUC_DISALLOW_IN_FILE | pg_sys::GUC_NO_SHOW_ALL)
                as core::ffi::c_int,
            None,
            None,
            show,
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn show_number() -> *const c_char {
    static SHOWN: OnceLock<CString> = OnceLock::new();
    let Some(number) = SHOWN_NUMBER.get().and_then(|value| value()) else {
        return c"".as_ptr();
    };
    SHOWN.get_or_init(|| CString::new(shown_number(number)).unwrap_or_default()).as_ptr()
}
