//! The server's control file, before the server itself runs.

use pgrx::pg_sys;

/// The timeline that this data directory was last on.
pub fn timeline() -> u32 {
    // SAFETY: reads the file of the data directory in hand; the answer is allocated in the current memory
    // context.  Raises an error where the server could not start either.
    unsafe {
        let mut crc_ok = false;
        let file = pg_sys::get_controlfile(pg_sys::DataDir, &mut crc_ok);
        let timeline = (*file).checkPointCopy.ThisTimeLineID;
        // Right after a promotion there is no checkpoint on the new timeline yet.
        let promoted = (*file).minRecoveryPointTLI;
        pg_sys::pfree(file.cast());
        timeline.max(promoted)
    }
}
