//! The server's control file, before the server itself runs.

use pgrx::pg_sys;
use pgrx::pg_sys::DBState;

use super::wal;

/// What it tells of the server's last life.
#[derive(Clone, Copy, Debug)]
pub struct LastLife {
    /// The timeline that this data directory was last on.
    pub timeline: u32,
    /// How it ended.
    pub end: End,
}

/// How a server's life ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// In order, while it took writes: the end of its last record.
    InOrder(u64),
    /// In recovery, in order or not.
    InRecovery,
    /// In any other way.
    Other,
}

/// Reads it.
pub fn last_life() -> LastLife {
    // SAFETY: reads the file of the data directory in hand; the answer is allocated in the current memory
    // context.  Raises an error where the server could not start either.
    unsafe {
        let mut crc_ok = false;
        let file = pg_sys::get_controlfile(pg_sys::DataDir, &mut crc_ok);
        let timeline = (*file).checkPointCopy.ThisTimeLineID;
        // Right after a promotion there is no checkpoint on the new timeline yet.
        let promoted = (*file).minRecoveryPointTLI;
        let end = match (*file).state {
            DBState::DB_SHUTDOWNED => {
                End::InOrder(wal::end_of_checkpoint((*file).checkPoint, (*file).xlog_seg_size))
            }
            DBState::DB_SHUTDOWNED_IN_RECOVERY | DBState::DB_IN_ARCHIVE_RECOVERY => End::InRecovery,
            _ => End::Other,
        };
        pg_sys::pfree(file.cast());
        LastLife { timeline: timeline.max(promoted), end }
    }
}
