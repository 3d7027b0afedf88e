//! What a script can tell errors apart by is what the page says, over all of the modules' error enums.

use std::collections::BTreeSet;

use pgrx::PgSqlErrorCode;

use super::error::BlockError;
use crate::fence::FenceError;
use crate::fence::under_way::UnderWay;
use crate::report::Report;

/// The files of the enums, each with one exhaustive match.
const ENUMS: [&str; 12] = [
    include_str!("error.rs"),
    include_str!("../citus/error.rs"),
    include_str!("../citus/session_error.rs"),
    include_str!("../clone/error.rs"),
    include_str!("../clone/fault.rs"),
    include_str!("../clone/plan_error.rs"),
    include_str!("../fence/error.rs"),
    include_str!("../gate/error.rs"),
    include_str!("../readonly/cluster/error.rs"),
    include_str!("../readonly/error.rs"),
    include_str!("../citus/identity.rs"),
    include_str!("../snapshot/error.rs"),
];

/// The page's table.
const PAGE: &str = include_str!("../../docs/backup.md");

fn text(code: PgSqlErrorCode) -> String {
    let packed = code as u32;
    (0..5).map(|place| char::from((packed >> (6 * place) & 0x3f) as u8 + b'0')).collect()
}

/// All words that begin so.
fn words<'a>(text: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !is_part(c)).filter(move |word| word.starts_with(beginning))
}

macro_rules! codes {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), PgSqlErrorCode::$name)),*] };
}

/// Those that the enums have.
const KNOWN: &[(&str, PgSqlErrorCode)] = &codes![
    ERRCODE_ACTIVE_SQL_TRANSACTION,
    ERRCODE_ADMIN_SHUTDOWN,
    ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
    ERRCODE_CONFIG_FILE_ERROR,
    ERRCODE_CONNECTION_EXCEPTION,
    ERRCODE_CONNECTION_FAILURE,
    ERRCODE_DATA_CORRUPTED,
    ERRCODE_DUPLICATE_OBJECT,
    ERRCODE_INSUFFICIENT_PRIVILEGE,
    ERRCODE_INSUFFICIENT_RESOURCES,
    ERRCODE_INTERNAL_ERROR,
    ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
    ERRCODE_INVALID_PARAMETER_VALUE,
    ERRCODE_IO_ERROR,
    ERRCODE_LOCK_NOT_AVAILABLE,
    ERRCODE_NULL_VALUE_NOT_ALLOWED,
    ERRCODE_OBJECT_IN_USE,
    ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    ERRCODE_OUT_OF_MEMORY,
    ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    ERRCODE_QUERY_CANCELED,
    ERRCODE_READ_ONLY_SQL_TRANSACTION,
    ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
    ERRCODE_SYSTEM_ERROR,
    ERRCODE_T_R_DEADLOCK_DETECTED,
    ERRCODE_UNDEFINED_OBJECT,
    ERRCODE_UNTRANSLATABLE_CHARACTER,
];

/// Those that they speak of, and that are no error of theirs: a warning's, one that another attempt mends, and one by which a
/// hint is chosen.
const NOT_TOLD: [&str; 3] =
    ["ERRCODE_T_R_SERIALIZATION_FAILURE", "ERRCODE_WARNING", "ERRCODE_TOO_MANY_CONNECTIONS"];

#[test]
fn every_code_of_every_enum_is_in_the_pages_table_and_no_other() {
    let mut used: BTreeSet<&str> = ENUMS.iter().flat_map(|file| words(file, "ERRCODE_")).collect();
    used.retain(|name| !NOT_TOLD.contains(name));
    let known: BTreeSet<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    assert_eq!(used, known);

    let section = PAGE.split("### ").find(|section| section.starts_with("SQLSTATEs"));
    let rows = section.expect("the table").lines().filter(|line| line.starts_with("| `"));
    let shown: BTreeSet<String> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();
    let mut codes: BTreeSet<String> = KNOWN.iter().map(|(_, code)| text(*code)).collect();
    // What a node says of a password, and that passes through.
    codes.insert("28P01".to_owned());
    assert_eq!(shown, codes);
}

/// What a variant is to a script; a new one does not compile before somebody has said it.
fn meaning(error: &BlockError) -> &'static str {
    match error {
        BlockError::NullArgument { .. } => "22004",
        BlockError::TimeoutOutOfRange { .. }
        | BlockError::UnknownMode { .. }
        | BlockError::RestorePointName => "22023",
        BlockError::HasWritten { .. } | BlockError::HasLocked { .. } => "25001",
        // Not in the state that the call needs: to call again does not help.
        BlockError::WalLevel
        | BlockError::NotPreloaded
        | BlockError::InRecovery
        | BlockError::PreviousFailed { .. }
        | BlockError::NoGate { .. }
        | BlockError::Expired { .. }
        | BlockError::Over { .. }
        | BlockError::NoBlock
        | BlockError::WorkerNotConnected { why: Some(_) } => "55000",
        // Somebody has it: it will be free.
        BlockError::Starting
        | BlockError::Active
        | BlockError::Releasing
        | BlockError::UnderWay(_)
        | BlockError::OfCitus { .. } => "55006",
        BlockError::TooManyBlocks { .. } => "53400",
        BlockError::NoWorkerSlot => "53000",
        BlockError::TooManyNodes { .. } => "54000",
        // Something broke.
        BlockError::WorkerVanished
        | BlockError::WorkerNotConnected { why: None }
        | BlockError::WorkerSilent => "58000",
        BlockError::ReleasedWhileStarting => "57014",
        BlockError::Terminated => "57P01",
        BlockError::ClientGone => "08006",
        BlockError::LocksNotHeld { .. } | BlockError::TooLittleTime { .. } => "55P03",
        BlockError::Unconfirmed { .. } => "01000",
        BlockError::Fence(_) => "53000",
    }
}

#[test]
fn what_each_error_of_a_block_is_to_a_script() {
    let some = || "x".to_owned();
    let all = [
        BlockError::NullArgument { argument: "x" },
        BlockError::TimeoutOutOfRange { given: 0 },
        BlockError::UnknownMode { given: some() },
        BlockError::HasWritten { function: "x" },
        BlockError::HasLocked { function: "x", table: "y" },
        BlockError::Over { number: 1, why: None },
        BlockError::OfCitus { function: "x", instead: "x" },
        BlockError::RestorePointName,
        BlockError::WalLevel,
        BlockError::InRecovery,
        BlockError::Starting,
        BlockError::Active,
        BlockError::Releasing,
        BlockError::PreviousFailed { what: some() },
        BlockError::UnderWay(UnderWay { what: "x", hint: "x" }),
        BlockError::TooManyBlocks { max: 1 },
        BlockError::NoWorkerSlot,
        BlockError::WorkerVanished,
        BlockError::WorkerNotConnected { why: Some("x") },
        BlockError::WorkerNotConnected { why: None },
        BlockError::WorkerSilent,
        BlockError::ReleasedWhileStarting,
        BlockError::ClientGone,
        BlockError::TooManyNodes { count: 2, max: 1 },
        BlockError::Fence(FenceError::NoDescriptors { count: 1 }),
        BlockError::LocksNotHeld { after_ms: 1, last: some(), blockers: vec![] },
        BlockError::TooLittleTime { limit_ms: 1, last: some() },
        BlockError::NoGate { node: some() },
        BlockError::Expired { timeout_ms: 1 },
        BlockError::Unconfirmed { node: some() },
        BlockError::Terminated,
        BlockError::NoBlock,
    ];
    for error in &all {
        let report = Report::from(error);
        assert_eq!(text(report.sqlstate), meaning(error), "{error:?}");
        // What a script cannot act on, a person has to be told how to.
        let needs_no_hint = matches!(error, BlockError::ClientGone | BlockError::Terminated);
        assert!(report.hint.is_some() || needs_no_hint, "{error:?}");
    }
}
