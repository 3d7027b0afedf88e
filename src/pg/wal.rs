//! The write-ahead log of this server.

use std::ffi::CString;

use pgrx::pg_sys;

/// Brings all WAL written so far to disk, and says up to where that is.
///
/// With `synchronous_commit = off` a commit gives up its locks before its WAL is on disk; whoever has
/// waited for such locks calls this to make what he waited for durable.
pub fn flush() -> u64 {
    // SAFETY: both only need a server that is not in recovery, which callers have checked.
    unsafe {
        let written =
            end_of_written(pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64);
        pg_sys::XLogFlush(written);
        written
    }
}

/// Where the last record ends, given the place where the next one will go.
///
/// The two differ at the start of a page: there the insert position stands just behind a page header
/// that nobody has written yet, and to ask for a flush up to it is an error.  A record that continues
/// from the page before ends at least eight bytes later, so the position is unmistakable.
fn end_of_written(insert: u64, segment: u64) -> u64 {
    let page = u64::from(pg_sys::XLOG_BLCKSZ);
    let header = if insert % segment < page { FIRST_PAGE_HEADER } else { PAGE_HEADER };
    if insert % page == header { insert - header } else { insert }
}

/// Bytes of the header of a segment's first page.
const FIRST_PAGE_HEADER: u64 = std::mem::size_of::<pg_sys::XLogLongPageHeaderData>() as u64;
/// Bytes of the header of any other page.
const PAGE_HEADER: u64 = std::mem::size_of::<pg_sys::XLogPageHeaderData>() as u64;

/// Writes a named restore point; its position.
pub fn restore_point(name: &str) -> Option<u64> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string that is copied; callers have checked its length and that the
    // server writes enough WAL for it to mean something.
    Some(unsafe { pg_sys::XLogRestorePoint(name.as_ptr()) })
}

/// Timeline that this server writes.
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory; the server is not in recovery.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

/// What was replayed last, in this life of the server: its timeline (0: nothing yet), and where it ends.
pub fn replayed() -> (u32, u64) {
    let mut timeline = 0;
    // SAFETY: reads shared memory, under a spinlock.
    let end = unsafe { pg_sys::GetXLogReplayRecPtr(&mut timeline) };
    (timeline, end)
}

/// Where the record of a checkpoint ends that begins there, in segments of that size.
pub fn end_of_checkpoint(start: u64, segment: u32) -> u64 {
    // The record's header, that of its data, and the data.
    const LENGTH: u64 = 24 + 2 + std::mem::size_of::<pg_sys::CheckPoint>() as u64;
    let (page, segment) = (u64::from(pg_sys::XLOG_BLCKSZ), u64::from(segment));
    let on_this_page = page - start % page;
    let end = if LENGTH <= on_this_page {
        start + LENGTH
    } else {
        let next = start + on_this_page;
        let header = if next.is_multiple_of(segment) { FIRST_PAGE_HEADER } else { PAGE_HEADER };
        next + header + (LENGTH - on_this_page)
    };
    end.next_multiple_of(8)
}

/// Whether the server writes the WAL that recovery to a restore point needs.
pub fn is_enough_for_recovery() -> bool {
    // SAFETY: a setting of the server, fixed at its start.
    unsafe { pg_sys::wal_level > pg_sys::WalLevel::WAL_LEVEL_MINIMAL as i32 }
}

#[cfg(test)]
mod tests {
    use super::{end_of_checkpoint, end_of_written};

    #[test]
    fn a_checkpoint_ends_where_the_next_record_begins() {
        const SEGMENT: u32 = 16 << 20;
        let length = end_of_checkpoint(0x0300_0028, SEGMENT) - 0x0300_0028;
        assert!((112..=128).contains(&length) && length.is_multiple_of(8), "{length}");
        // Over the edge of a page, and of a segment: with the header that stands there.
        assert_eq!(end_of_checkpoint(0x0300_1ff8, SEGMENT), 0x0300_1ff8 + length + 24);
        assert_eq!(end_of_checkpoint(0x03ff_fff8, SEGMENT), 0x03ff_fff8 + length + 40);
    }

    #[test]
    fn a_position_behind_an_unwritten_page_header_is_the_page_boundary() {
        const SEGMENT: u64 = 16 << 20;
        assert_eq!(end_of_written(0x0300_0028, SEGMENT), 0x0300_0000);
        assert_eq!(end_of_written(0x0300_2018, SEGMENT), 0x0300_2000);
    }

    #[test]
    fn the_end_of_a_continued_record_is_left_alone() {
        const SEGMENT: u64 = 16 << 20;
        assert_eq!(end_of_written(0x0300_2020, SEGMENT), 0x0300_2020);
        assert_eq!(end_of_written(0x0300_2028, SEGMENT), 0x0300_2028);
        assert_eq!(end_of_written(0x0300_0030, SEGMENT), 0x0300_0030);
    }
}
