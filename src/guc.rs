//! Every setting, in alphabetical order.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// `citus_fence.acquire_timeout`, in ms.
pub static ACQUIRE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
/// `citus_fence.block_mode`.
pub static BLOCK_MODE: GucSetting<BlockMode> = GucSetting::<BlockMode>::new(BlockMode::TwoPhase);
/// `citus_fence.connect_timeout`, in ms.
pub static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// `citus_fence.lock_timeout`, in ms.
pub static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
/// `citus_fence.max_blocks`.
pub static MAX_BLOCKS: GucSetting<i32> = GucSetting::<i32>::new(8);
/// `citus_fence.max_cluster_snapshots`.
pub static MAX_CLUSTER_SNAPSHOTS: GucSetting<i32> = GucSetting::<i32>::new(8);
/// `citus_fence.max_nodes`.
pub static MAX_NODES: GucSetting<i32> = GucSetting::<i32>::new(128);
/// `citus_fence.node_conninfo`.
pub static NODE_CONNINFO: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Values of `citus_fence.block_mode`.
#[derive(Clone, Copy, Debug, PostgresGucEnum)]
pub enum BlockMode {
    /// Two-phase commits, DDL and changes of nodes.
    #[name = c"2pc"]
    TwoPhase,
    /// Every write.
    #[name = c"all"]
    All,
}

/// This library's; scripts that make or change SQL objects look at it (`sql/library.sql`).
const VERSION: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
) {
    Ok(text) => text,
    Err(_) => c"",
};

/// Defines the settings.  Those that size shared memory exist only where the postmaster loads the
/// library: PostgreSQL takes no such setting later.
pub fn define(preloading: bool, is_read_only: fn() -> bool) {
    GucRegistry::define_int_guc(
        c"citus_fence.acquire_timeout",
        c"Longest time to bring all nodes under a backup block.",
        c"Attempts that fail are repeated until this time has passed, or the block's own timeout_ms if that is less.",
        &ACQUIRE_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"citus_fence.block_mode",
        c"Whose writes a backup block holds back.",
        c"With 2pc, two-phase commits, DDL and changes of nodes; with all, every write, which needs the library preloaded on every node.",
        &BLOCK_MODE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"citus_fence.connect_timeout",
        c"Longest time to connect to the nodes of the cluster, all at once.",
        c"A node that has not answered by then counts as unreachable for this attempt.",
        &CONNECT_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    crate::pg::guc::define_constant(
        c"citus_fence.library_version",
        c"Version of the library that serves this session.",
        VERSION,
    );
    GucRegistry::define_int_guc(
        c"citus_fence.lock_timeout",
        c"Longest time that one attempt at a backup block waits for a lock on any node.",
        c"Writers that come later wait behind the attempt, so this bounds what it can cost them. A switch to read-only waits as long for prepared transactions.",
        &LOCK_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    if preloading {
        GucRegistry::define_int_guc(
            c"citus_fence.max_blocks",
            c"How many databases can have a backup block at the same time.",
            c"Shared memory is set aside for each.",
            &MAX_BLOCKS,
            1,
            1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"citus_fence.max_cluster_snapshots",
            c"How many cluster snapshots can be held at the same time.",
            c"Shared memory is set aside for each.",
            &MAX_CLUSTER_SNAPSHOTS,
            1,
            1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"citus_fence.max_nodes",
            c"How many nodes a backup block, or a cluster snapshot, can hold.",
            c"Shared memory is set aside for each node of each of them.",
            &MAX_NODES,
            1,
            10_000,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    GucRegistry::define_string_guc(
        c"citus_fence.node_conninfo",
        c"Connection parameters for connections to other nodes.",
        c"In libpq's form, and over citus.node_conninfo; pg_dist_authinfo and pg_dist_poolinfo go over both.",
        &NODE_CONNINFO,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    crate::pg::guc::define_shown_number(
        c"citus_fence.server_number",
        c"By which this server knows itself among others: drawn when it starts, and no copy has it.",
        || crate::pg::ident::SERVER_NUMBER.number(),
    );
    crate::pg::guc::define_shown_bool(
        c"citus_fence.system_is_read_only",
        c"Whether this node refuses writers.",
        c"Switched by alter_system_read_only() and alter_system_read_write(); on during recovery, and while the node is reserved for a clone.",
        is_read_only,
    );
}
