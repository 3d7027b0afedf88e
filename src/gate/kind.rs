//! Kinds of processes, as far as the gate tells them apart.

use std::ffi::CStr;
use std::sync::OnceLock;

use crate::citus::daemon::METADATA_SYNC;
use crate::citus::library::LIBRARY as CITUS;
use crate::pg::session::{self, Process};

/// A kind of process that runs transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's session.
    Session,
    /// A background worker of another extension: there is nobody whom it could tell of a refusal, and it would be
    /// started anew to be refused again.
    Worker,
    /// Citus' worker that brings the nodes' metadata up to date: likewise.
    MetadataSync,
    /// A background worker of Citus, or of this extension.
    Citus,
    /// An autovacuum worker: writes without statements, and is started anew by itself.
    Autovacuum,
    /// An apply worker of logical replication: likewise.
    Apply,
    /// A parallel worker, whose leader answers for it; or a process that never writes.
    Exempt,
}

/// The kind of this process, which never changes.
pub fn kind() -> Kind {
    static KIND: OnceLock<Kind> = OnceLock::new();
    *KIND.get_or_init(|| of(session::process()))
}

fn of(process: Process) -> Kind {
    match process {
        Process::Session => Kind::Session,
        Process::AutovacuumWorker => Kind::Autovacuum,
        Process::ApplyWorker => Kind::Apply,
        Process::ParallelWorker | Process::Launcher => Kind::Exempt,
        Process::Worker { library, function }
            if is(library, CITUS) && function == METADATA_SYNC =>
        {
            Kind::MetadataSync
        }
        Process::Worker { library, .. } if is(library, CITUS) || is(library, OWN) => Kind::Citus,
        Process::Worker { .. } => Kind::Worker,
    }
}

const OWN: &str = env!("CARGO_PKG_NAME");

fn is(library: &CStr, known: &str) -> bool {
    known.as_bytes() == library.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::{Kind, of};
    use crate::pg::session::Process;

    #[test]
    fn workers_are_known_by_their_library() {
        let of = |library, function| of(Process::Worker { library, function });
        assert_eq!(of(c"citus", c"CitusMaintenanceDaemonMain"), Kind::Citus);
        assert_eq!(of(c"citus", c"SyncNodeMetadataToNodesMain"), Kind::MetadataSync);
        assert_eq!(of(c"citus_fence", c"citus_fence_worker"), Kind::Citus);
        assert_eq!(of(c"pg_cron", c"PgCronLauncherMain"), Kind::Worker);
        assert_eq!(of(c"pg_cron", c"SyncNodeMetadataToNodesMain"), Kind::Worker);
    }
}
