//! What a user is told of an error.
//!
//! Each module turns its own error enum into a [`Report`] beside the enum's definition, with one exhaustive
//! match: a new kind of error does not compile until somebody has decided what a user is told.

use std::borrow::Cow;

use pgrx::PgSqlErrorCode;

/// What a user is told.
#[derive(Clone, Debug)]
pub struct Report {
    /// The code.
    pub sqlstate: PgSqlErrorCode,
    /// One line: lower case, no full stop.
    pub message: String,
    /// The facts, in sentences.
    pub detail: Option<String>,
    /// What to do, in sentences, with SQL that can be pasted.
    pub hint: Option<String>,
}

impl Report {
    /// A report without detail and hint.
    pub fn new(sqlstate: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a call of a function reaches that has no schema in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The function that is meant, or one that is not ours.
    AsItStands,
    /// Another function or none: ours is in this schema.
    In(String),
    /// None: this database does not have the extension.
    Nowhere,
}

/// The text, with a schema in front of each call that needs one; where the database does not have the `extension`, it
/// says so.
pub fn with_schemas<'a>(
    text: &'a str,
    extension: &str,
    mut reach: impl FnMut(&str) -> Reached,
) -> Cow<'a, str> {
    let of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut told = String::new();
    let mut rest = text;
    let mut is_missing = false;
    while let Some(end) = rest.find('(') {
        let before = rest[..end].trim_end_matches(of_name);
        let name = &rest[before.len()..end];
        told.push_str(before);
        if !name.is_empty() && !before.ends_with(['.', '"']) {
            match reach(name) {
                Reached::AsItStands => {}
                Reached::In(schema) => told.extend([&schema, "."]),
                Reached::Nowhere => is_missing = true,
            }
        }
        told.push_str(&rest[before.len()..=end]);
        rest = &rest[end + 1..];
    }
    told.push_str(rest);
    if is_missing {
        told.push_str(&format!(
            " This database does not have the extension {extension}: call it in one that has."
        ));
    }
    if told == text { Cow::Borrowed(text) } else { Cow::Owned(told) }
}

/// The five characters of a SQLSTATE in the server's packed form: six bits a character, the first one lowest.
pub const fn pack_sqlstate(text: &[u8; 5]) -> i32 {
    let mut packed = 0;
    let mut position = text.len();
    while position > 0 {
        position -= 1;
        packed = packed << 6 | (text[position].wrapping_sub(b'0') & 0x3f) as i32;
    }
    packed
}

/// The code that a server has sent as a text.
pub fn parse_sqlstate(text: &str) -> Option<PgSqlErrorCode> {
    text.as_bytes().try_into().ok().map(|text| PgSqlErrorCode::from(pack_sqlstate(text)))
}

#[cfg(test)]
mod tests {
    use super::{Reached, parse_sqlstate, with_schemas};
    use pgrx::PgSqlErrorCode;

    fn told(text: &str) -> String {
        with_schemas(text, "ours", |name| match name {
            "stop" => Reached::In("ops".into()),
            "gone" => Reached::Nowhere,
            _ => Reached::AsItStands,
        })
        .into_owned()
    }

    #[test]
    fn calls_get_the_schema_that_they_need() {
        assert_eq!(told("To end it: SELECT stop(1);"), "To end it: SELECT ops.stop(1);");
        assert_eq!(told("stop() or go(); nonstop()"), "ops.stop() or go(); nonstop()");
        assert_eq!(
            told("SELECT a.stop(); and \"stop\"(now()) (stop)"),
            "SELECT a.stop(); and \"stop\"(now()) (stop)"
        );
        assert_eq!(told("\u{2026}stop(stop())"), "\u{2026}ops.stop(ops.stop())");
        assert_eq!(
            told("SELECT gone();"),
            "SELECT gone(); This database does not have the extension ours: call it in one that has."
        );
    }

    #[test]
    fn sqlstates_are_packed_as_the_server_packs_them() {
        assert_eq!(parse_sqlstate("55P03"), Some(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE));
        assert_eq!(parse_sqlstate("22023"), Some(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE));
        assert_eq!(parse_sqlstate("2202"), None);
    }
}
