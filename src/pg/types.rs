//! SQL types that pgrx has no Rust type for.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

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
