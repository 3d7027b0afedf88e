//! Kinds of processes, as far as the gate tells them apart.

use std::ffi::CStr;
use std::sync::OnceLock;

use crate::citus::library::LIBRARY as CITUS;
use crate::pg::session::{self, Process};

/// A kind of process that runs transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's session, or a background worker of another extension that runs somebody's statements.
    Session,
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
        Process::Worker { library } if is_ours_or_citus(library) => Kind::Citus,
        Process::Worker { .. } => Kind::Session,
    }
}

fn is_ours_or_citus(library: &CStr) -> bool {
    [CITUS, env!("CARGO_PKG_NAME")].iter().any(|known| known.as_bytes() == library.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Kind, of};
    use crate::pg::session::Process;

    #[test]
    fn workers_are_known_by_their_library() {
        assert_eq!(of(Process::Worker { library: c"citus" }), Kind::Citus);
        assert_eq!(of(Process::Worker { library: c"citus_fence" }), Kind::Citus);
        assert_eq!(of(Process::Worker { library: c"pg_cron" }), Kind::Session);
    }
}
