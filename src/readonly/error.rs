//! What can go wrong with the gate and with a read-only node.

/// One variant per kind; [`crate::errors`] gives each its SQLSTATE, detail and hint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// An argument that must not be null is.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// A gate that does not exist.
    #[error("there is no gate \"{given}\"")]
    UnknownGate {
        /// What was given.
        given: String,
    },
    /// Not a superuser.
    #[error("must be superuser to call {function}")]
    NotSuperuser {
        /// The function.
        function: &'static str,
    },
    /// No shared memory.
    #[error("citus_fence must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// Loaded in the wrong order.
    #[error("citus_fence must be loaded after citus")]
    LoadOrder,
    /// On a standby.
    #[error("{function} cannot be used during recovery")]
    InRecovery {
        /// The function.
        function: &'static str,
    },
    /// The calling transaction is a writer itself.
    #[error("{function} cannot be called in a transaction that has written")]
    HasWritten {
        /// The function.
        function: &'static str,
    },
    /// A write on a read-only node.
    #[error("cannot execute {command}: system is now read only")]
    ReadOnly {
        /// What would have written.
        command: String,
    },
    /// A write of the transaction that holds a gate closed.
    #[error("cannot execute {command}: this transaction holds a gate closed")]
    ClosedBySelf {
        /// What would have written.
        command: String,
    },
    /// Others got in the way of closing a gate for too long.
    #[error("could not close the {gate} gate within lock_timeout")]
    NotClosed {
        /// Which gate.
        gate: &'static str,
        /// Names of prepared transactions that hold it.
        prepared: Vec<String>,
    },
    /// Prepared transactions that nobody ends.
    #[error("could not make the system read only because of prepared transactions")]
    Prepared {
        /// Their names, quoted.
        gids: Vec<String>,
    },
    /// The prepared transactions cannot be looked at.
    #[error("could not look for prepared transactions: {why}")]
    Look {
        /// The server's reason.
        why: String,
    },
    /// A writer that is waited for waits for this session.
    #[error("the transaction of process {pid} waits for this one")]
    Deadlock {
        /// The writer.
        pid: i32,
    },
    /// The state file cannot be written or removed.
    #[error("could not {what} file \"{file}\": {why}")]
    File {
        /// The step.
        what: &'static str,
        /// The file.
        file: &'static str,
        /// The operating system's reason.
        why: String,
    },
}
