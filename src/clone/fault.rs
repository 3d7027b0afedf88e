//! What can be wrong with a replica, its source or the cluster, and what to do about it.

use pgrx::PgSqlErrorCode;

use crate::report::Report;

/// Something that keeps a clone from being registered or promoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A node that can write and would not learn of the split.
    #[error("node {place} does not keep the catalog up to date")]
    NotTold {
        /// Where.
        place: String,
        /// Whether Citus uses it.
        active: bool,
    },
    /// The source is a standby itself.
    #[error("source {place} is a standby")]
    SourceInRecovery {
        /// Where.
        place: String,
    },
    /// It is no standby.
    #[error("{place} is not a streaming replica")]
    NotInRecovery {
        /// Where.
        place: String,
    },
    /// It is a replica of something else.
    #[error("{place} is not a replica of {source_place}")]
    OtherSystem {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
        /// Its own system identifier.
        own: String,
        /// The source's.
        expected: String,
    },
    /// It does not stream, or from somewhere else.
    #[error("{place} does not stream from {source_place}")]
    NotStreaming {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
        /// What it does instead.
        instead: String,
    },
    /// Its replay is paused.
    #[error("{place} has paused its replay")]
    Paused {
        /// Where.
        place: String,
    },
    /// It replays late on purpose.
    #[error("{place} delays its replay")]
    Delayed {
        /// Where.
        place: String,
        /// By how much.
        delay: String,
    },
    /// Commits of the source wait for it.
    #[error("{place} is a synchronous standby of {source_place}")]
    Synchronous {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
    },
    /// Other servers stream from it.
    #[error("other servers stream from {place}")]
    Cascading {
        /// Where.
        place: String,
        /// How many.
        count: i64,
    },
    /// Server, Citus or this extension are of other versions.
    #[error("{place} does not run what {source_place} runs")]
    OtherVersion {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
        /// What differs.
        what: &'static str,
        /// On the clone.
        own: String,
        /// On the source.
        expected: String,
    },
    /// A library that the source preloads is not preloaded.
    #[error("{place} does not preload {library}")]
    NotPreloaded {
        /// Where.
        place: String,
        /// What.
        library: String,
    },
    /// A setting is lower than the source's.
    #[error("{name} is lower on {place} than on {source_place}")]
    Lower {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
        /// The setting.
        name: &'static str,
        /// On the clone.
        own: i64,
        /// On the source.
        expected: i64,
    },
    /// A node cannot prepare as many transactions as the split needs.
    #[error("{place} cannot keep prepared transactions")]
    NoPrepared {
        /// Where.
        place: String,
    },
    /// It would archive where its source does.
    #[error("{place} archives its WAL as {source_place} does")]
    SharedArchive {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
    },
    /// Its commits would wait for standbys that it does not have.
    #[error("commits on {place} would wait for standbys that it does not have")]
    StandbyNames {
        /// Where.
        place: String,
        /// Its setting.
        value: String,
    },
    /// Subscriptions would start to apply on it.
    #[error("{place} would start to apply the subscriptions of {source_place}")]
    Subscriptions {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
    },
    /// A scheduler would run its source's jobs.
    #[error("{place} would run the scheduled jobs of {source_place}")]
    Scheduler {
        /// Where.
        place: String,
        /// The source.
        source_place: String,
    },
    /// A manager would demote or rewind it.
    #[error("{place} is managed by {manager}")]
    Managed {
        /// Where.
        place: String,
        /// By what.
        manager: String,
    },
    /// It would reach itself where its source is.
    #[error("citus.local_hostname on {place} is \"{value}\"")]
    LocalHostname {
        /// Where.
        place: String,
        /// Its value.
        value: String,
    },
    /// Its indexes on text would be wrong.
    #[error("collations on {place} are of other versions than recorded")]
    Collations {
        /// Where.
        place: String,
        /// Which.
        names: String,
    },
    /// A library of an installed extension is not there.
    #[error("{place} cannot load {library}")]
    Library {
        /// Where.
        place: String,
        /// Which.
        library: String,
        /// Why.
        why: String,
    },
    /// What it streams from is gone.
    #[error("replication slot {slot} of {place} has lost WAL")]
    SlotLost {
        /// The clone.
        place: String,
        /// The slot.
        slot: String,
    },
    /// Logical walsenders of the source wait for it.
    #[error("logical replication of {source_place} waits for {place}")]
    SynchronizedSlot {
        /// The clone.
        place: String,
        /// The source.
        source_place: String,
        /// The slot.
        slot: String,
    },
    /// Another Citus database is on the same server.
    #[error("{source_place} has another database with Citus")]
    OtherDatabase {
        /// The source.
        source_place: String,
        /// Its name.
        database: String,
    },
    /// Queries between the clone and a node would fail.
    #[error("{from} cannot reach {to}")]
    Unreachable {
        /// From there.
        from: String,
        /// To there.
        to: String,
        /// As whom; none for the extension's owner.
        role: Option<String>,
    },
    /// Shards are being moved.
    #[error("a background job of Citus is running")]
    JobRunning {
        /// Which.
        job: String,
    },
}

impl From<&Fault> for Report {
    fn from(fault: &Fault) -> Self {
        let report = Report::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            fault.to_string(),
        );
        match fault {
            Fault::NotTold { place, active } => {
                let detail = if *active {
                    "It can write, and would go on writing to shards that have moved."
                } else {
                    "It is inactive, but it answers, and would go on writing to shards that have moved."
                };
                let (host, port) = place.rsplit_once(':').unwrap_or((place, "5432"));
                let call = if *active { "start_metadata_sync_to_node" } else { "citus_activate_node" };
                report.detail(detail).hint(format!("SELECT {call}('{host}', {port});"))
            }
            Fault::SourceInRecovery { .. } => report
                .detail("A clone replicates the node's primary.")
                .hint("Correct the node's address: SELECT citus_update_node(…);"),
            Fault::NotInRecovery { .. } => report
                .detail("It is not in recovery.")
                .hint("Make one with pg_basebackup -R, and start it."),
            Fault::OtherSystem { own, expected, .. } => report
                .detail(format!("Its system identifier is {own}, the source's {expected}."))
                .hint("Name the node that it replicates."),
            Fault::NotStreaming { instead, .. } => report
                .detail(format!("{instead}."))
                .hint("Let its primary_conninfo lead to the source itself, and start it."),
            Fault::Paused { .. } => report
                .detail("A promotion ends the pause, and replays all that was received.")
                .hint("On the replica: SELECT pg_wal_replay_resume();"),
            Fault::Delayed { delay, .. } => report
                .detail(format!("Its recovery_min_apply_delay is {delay}: writers would wait for that."))
                .hint("On the replica: ALTER SYSTEM SET recovery_min_apply_delay = 0; SELECT pg_reload_conf();"),
            Fault::Synchronous { .. } => report
                .detail("Commits there would wait for it for ever once it is promoted.")
                .hint("Take it out of synchronous_standby_names of the source, and reload."),
            Fault::Cascading { count, .. } => report
                .detail(format!("{count} of them would follow it to its new timeline, or stop."))
                .hint("Let them stream from the source."),
            Fault::OtherVersion { what, own, expected, .. } => report
                .detail(format!("{what}: {own} on the replica, {expected} on the source."))
                .hint("Install the same on both."),
            Fault::NotPreloaded { library, .. } => report
                .detail("The source does.")
                .hint(format!("Add {library} to its shared_preload_libraries, as the source has them, and restart it.")),
            Fault::Lower { own, expected, .. } => report
                .detail(format!("It is {own} there and {expected} on the source."))
                .hint("Raise it on the replica, and restart it."),
            Fault::NoPrepared { .. } => report
                .detail("max_prepared_transactions is less than 2.")
                .hint("Raise it, and restart the node."),
            Fault::SharedArchive { .. } => report
                .detail("Its own timeline would land among the source's, and whoever restores \"latest\" there would follow it.")
                .hint("Give it an archive and a backup stanza of its own, or set archive_mode = off, before it is promoted."),
            Fault::StandbyNames { value, .. } => report
                .detail(format!("Its synchronous_standby_names is \"{value}\", as its source's."))
                .hint("Set it to '' on the replica, and reload."),
            Fault::Subscriptions { .. } => report
                .detail("They start some milliseconds after the promotion.")
                .hint("Set max_logical_replication_workers = 0 on the replica and restart it, or disable the subscriptions on the source."),
            Fault::Scheduler { .. } => report
                .detail("pg_cron is preloaded there, and cron.job has active jobs.")
                .hint("Take pg_cron out of the replica's shared_preload_libraries, or, with pg_cron 1.5 or later, set cron.launch_active_jobs = off there."),
            Fault::Managed { .. } => report
                .detail("It would demote or rewind the replica once it is promoted.")
                .hint("Take the replica out of the manager first; see the page on the clone split."),
            Fault::LocalHostname { .. } => report
                .detail("It is the source's: the clone would reach its source where it means itself.")
                .hint("Set it on the replica to a name that leads to the replica, and reload."),
            Fault::Collations { names, .. } => report
                .detail(format!("The replica's system has others than the source's: {names}. Its indexes on text are wrong."))
                .hint("Run the replica on the same version of the system's libraries as its source."),
            Fault::Library { why, .. } => report
                .detail(why.clone())
                .hint("Install the extension's files on the replica's host."),
            Fault::SlotLost { .. } => report
                .detail("The source has removed WAL that the replica needs.")
                .hint("Make the replica anew with pg_basebackup."),
            Fault::SynchronizedSlot { slot, .. } => report
                .detail(format!("synchronized_standby_slots there names its slot {slot}, which the split drops."))
                .hint("Take the slot out of synchronized_standby_slots on the source, and reload."),
            Fault::OtherDatabase { database, .. } => report
                .detail(format!("The clone of database {database} would act as its source's node."))
                .hint("A clone can become a node of one cluster only; see the page on the clone split."),
            Fault::Unreachable { to, role, .. } => {
                let (host, port) = to.rsplit_once(':').unwrap_or((to, "5432"));
                let role = role.as_deref().map_or(String::new(), |role| format!(" as role {role}"));
                report
                    .detail(format!("Once the clone is a node, every node connects to every other{role}."))
                    .hint(format!("Correct pg_hba.conf, the network, or pg_dist_authinfo; to try it, there: SELECT citus_check_connection_to_node('{host}', {port});"))
            }
            Fault::JobRunning { job, .. } => report
                .detail(format!("Job {job} is not finished."))
                .hint("Wait for it: SELECT citus_rebalance_wait(); or stop it: SELECT citus_rebalance_stop();"),
        }
    }
}
