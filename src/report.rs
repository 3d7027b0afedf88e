//! What a user is told of an error.
//!
//! Each module turns its own error enum into a [`Report`] beside the enum's definition, with one exhaustive
//! match: a new kind of error does not compile until somebody has decided what a user is told.

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
    use super::parse_sqlstate;
    use pgrx::PgSqlErrorCode;

    #[test]
    fn sqlstates_are_packed_as_the_server_packs_them() {
        assert_eq!(parse_sqlstate("55P03"), Some(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE));
        assert_eq!(parse_sqlstate("22023"), Some(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE));
        assert_eq!(parse_sqlstate("2202"), None);
    }
}
