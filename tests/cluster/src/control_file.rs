//! The little that the harness knows of `global/pg_control`: where its checksum is, that it begins
//! with the system identifier, and where recovery would begin (the same since PostgreSQL 11). The checksum's place differs between major versions, so it is
//! looked for: it is the one place where the checksum of everything before it stands.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

/// Room for the structure of every version; PostgreSQL keeps it below a disk sector's 512 bytes.
const LONGEST: usize = 512;

/// The identifier is the first field.
const IDENTIFIER: std::ops::Range<usize> = 0..8;

/// The first WAL that the last checkpoint needs, and its timeline.
const REDO: std::ops::Range<usize> = 40..48;
const TIMELINE: std::ops::Range<usize> = 48..52;

/// The usual size of a WAL file; the harness makes no other.
const SEGMENT_SIZE: u64 = 16 << 20;

/// Where the control file of a data directory is.
pub(crate) fn path_in(data: &Path) -> PathBuf {
    data.join("global").join("pg_control")
}

/// Where the checksum is, or `None` when the bytes are no whole control file: a running server may
/// have been writing it while it was read.
fn checksum_offset(bytes: &[u8]) -> Option<usize> {
    // The alignment of a 32-bit field.
    (64..LONGEST.min(bytes.len().saturating_sub(3))).step_by(4).find(|&offset| {
        let stored: Option<[u8; 4]> = bytes[offset..offset + 4].try_into().ok();
        stored.map(u32::from_ne_bytes) == Some(crc32c::crc32c(&bytes[..offset]))
    })
}

/// Whether the bytes are a whole control file.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    checksum_offset(bytes).is_some()
}

/// The name of the oldest WAL file that recovery needs; `None` when the bytes are too few.
pub(crate) fn oldest_needed_wal(bytes: &[u8]) -> Option<String> {
    let redo = u64::from_ne_bytes(bytes.get(REDO)?.try_into().ok()?);
    let timeline = u32::from_ne_bytes(bytes.get(TIMELINE)?.try_into().ok()?);
    Some(wal_file_name(timeline, redo))
}

/// The name of the WAL file that holds a position.
pub(crate) fn wal_file_name(timeline: u32, lsn: u64) -> String {
    // The name counts in units of four gigabytes and files within.
    let per_unit = (1u64 << 32) / SEGMENT_SIZE;
    let segment = lsn / SEGMENT_SIZE;
    format!("{timeline:08X}{:08X}{:08X}", segment / per_unit, segment % per_unit)
}

/// Gives the data directory of a stopped server an identifier of its own. Its WAL has to be reset
/// afterwards, as its pages carry the identifier too.
pub(crate) fn set_system_identifier(data: &Path, identifier: u64) -> Result<()> {
    let path = path_in(data);
    let mut bytes = fs::read(&path).at("cannot read", &path)?;
    let offset = checksum_offset(&bytes).ok_or_else(|| {
        Error::Environment(format!(
            "{} has no checksum where one is expected; this version of PostgreSQL is not known",
            path.display()
        ))
    })?;
    bytes[IDENTIFIER].copy_from_slice(&identifier.to_ne_bytes());
    let checksum = crc32c::crc32c(&bytes[..offset]);
    bytes[offset..offset + 4].copy_from_slice(&checksum.to_ne_bytes());
    fs::write(&path, bytes).at("cannot write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_wal_files_as_postgresql_does() {
        let mut bytes = vec![0u8; 64];
        bytes[REDO].copy_from_slice(&0x12_AB34_5678u64.to_ne_bytes());
        bytes[TIMELINE].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(oldest_needed_wal(&bytes).as_deref(), Some("0000000300000012000000AB"));
        assert_eq!(oldest_needed_wal(&bytes[..50]), None);
    }

    #[test]
    fn finds_the_checksum_and_notices_damage() {
        let mut bytes = vec![0u8; 8192];
        bytes[..100].fill(7);
        let checksum = crc32c::crc32c(&bytes[..296]);
        bytes[296..300].copy_from_slice(&checksum.to_ne_bytes());
        assert_eq!(checksum_offset(&bytes), Some(296));
        bytes[20] ^= 1;
        assert!(!is_whole(&bytes));
    }
}
