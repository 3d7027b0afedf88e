//! Whether the libpq that this process has loaded is fit for the server.
//!
//! A process has one libpq: the first that is loaded.  The server's own replication connections go
//! through it too, and an older one than the server's knows fewer connection options, so standbys would
//! stop streaming.  The library's run path leads to the server's own.  Where another was loaded all the
//! same (by `LD_PRELOAD`, by a library before this one, by a build for another PostgreSQL), nothing here is
//! put to use: no hooks, no memory, no workers, and each call says why.

use pgrx::{PgSqlErrorCode, pg_sys};
use remote::loaded_libpq;

use super::elog;
use crate::report::Report;

/// The server's release.  A library loads only into the one that it was built for.
const SERVER: u32 = pg_sys::PG_VERSION_NUM / 10_000;

/// `pg_config --libdir` of the server that this was built for.
const LIBDIR: &str = env!("CITUS_FENCE_LIBDIR");

/// What to tell of a libpq that is too old; none where it is not.
pub fn too_old() -> Option<Report> {
    let loaded = loaded_libpq();
    (loaded.major < SERVER).then(|| {
        let file = loaded.file.map_or_else(
            || "a file that the loader cannot name".to_owned(),
            |file| file.display().to_string(),
        );
        Report::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "citus_fence does nothing: libpq of PostgreSQL {} is loaded into a server of PostgreSQL {SERVER}",
                loaded.major
            ),
        )
        .detail(format!(
            "Loaded is {file}; the library was built for the libpq in {LIBDIR}. This server's own \
             replication connections may go through the older one, too."
        ))
        .hint(
            "Install citus_fence with PG_CONFIG set to this server's pg_config, see to it that nothing \
             loads another libpq before it, and restart the server.",
        )
    })
}

/// What functions ask first that would work without the server's start having been told of the library.
pub fn require() {
    if let Some(report) = too_old() {
        elog::raise(&report);
    }
}
