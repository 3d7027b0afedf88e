//! SQL types that pgrx has no Rust type for.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{PgSqlErrorCode, pg_sys};

use super::elog;
use crate::report::Report;

/// A `pg_lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `16/B374D848`, as the server writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let high = u64::from(u32::from_str_radix(high, 16).ok()?);
        let low = u64::from(u32::from_str_radix(low, 16).ok()?);
        Some(Self(high << 32 | low))
    }
}

impl IntoDatum for Lsn {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.0))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::PG_LSNOID
    }
}

// SAFETY: a pg_lsn is passed by value, as 64 bits, which is what into_datum makes.
unsafe impl BoxRet for Lsn {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0)) }
    }
}

// SAFETY: the SQL type is the one whose datum IntoDatum makes.
unsafe impl SqlTranslatable for Lsn {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Lsn);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("pg_catalog.pg_lsn"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("pg_catalog.pg_lsn")));
}

/// Makes a type around a `String` one that SQL functions take.
///
/// Whoever uses it promises that the type's `FromDatum` reads a datum of that SQL type.
macro_rules! argument {
    ($type:ident, $sql:literal) => {
        // SAFETY: the argument is what ARGUMENT_SQL says, which is what FromDatum reads.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: as above; the caller asks for no null.
                unsafe { arg.unbox_arg_using_from_datum().unwrap_or_else(|| Self(String::new())) }
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: as above.
                unsafe { arg.unbox_arg_using_from_datum().into() }
            }
        }

        // SAFETY: the SQL type is the one that FromDatum reads.
        unsafe impl SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!($type);
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
                Ok(SqlMappingRef::literal($sql));
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
                Ok(ReturnsRef::One(SqlMappingRef::literal($sql)));
        }
    };
}

/// A `name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

impl FromDatum for Name {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the datum of a name points to one, which holds a text that ends with a zero byte.
        let text = unsafe {
            let name = datum.cast_mut_ptr::<pg_sys::NameData>();
            std::ffi::CStr::from_ptr((*name).data.as_ptr())
        };
        Some(Self(text.to_string_lossy().into_owned()))
    }
}

// SAFETY: that is the type which its FromDatum reads.
argument!(Name, "pg_catalog.name");

/// A `text` that somebody gives as an argument.
///
/// In a database whose encoding is not UTF-8 a text may have bytes that mean nothing here, or something else on another
/// node: that is refused with an error of its own, where pgrx's `&str` would panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl std::ops::Deref for Words {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDatum for Words {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        type_oid: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the caller's promise; a text is bytes with a length, like a bytea.
        let bytes = unsafe { Vec::<u8>::from_polymorphic_datum(datum, is_null, type_oid) }?;
        // SAFETY: a session has a database, and so an encoding, before it can call a function.
        let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32;
        match String::from_utf8(bytes) {
            Ok(text) if is_utf8 || text.is_ascii() => Some(Self(text)),
            Ok(_) | Err(_) => elog::raise(
                &Report::new(
                    PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
                    "an argument has characters that are not ASCII",
                )
                .detail("The encoding of this database is not UTF8: other nodes could read them differently.")
                .hint("Use letters, digits and signs of ASCII only."),
            ),
        }
    }
}

// SAFETY: that is the type which its FromDatum reads.
argument!(Words, "TEXT");

#[cfg(test)]
mod tests {
    use super::Lsn;

    #[test]
    fn positions_are_read_as_the_server_writes_them() {
        assert_eq!(Lsn::parse("16/B374D848"), Some(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn::parse("0/0"), Some(Lsn(0)));
        assert_eq!(Lsn::parse("16B374D848"), None);
        assert_eq!(Lsn::parse("1/100000000"), None);
    }
}
