//! What the gate's policy wants to know of plans and statements.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

use crate::readonly::policy::{Plan, Utility};

/// A statement, for its name.
#[derive(Clone, Copy)]
pub struct Statement(*mut pg_sys::Node);

impl Statement {
    /// What it is called, "CREATE TABLE" for example.
    pub fn name(self) -> String {
        // SAFETY: a node that the server is about to run; the answer is a constant.
        unsafe { CStr::from_ptr(pg_sys::CreateCommandName(self.0)) }.to_string_lossy().into_owned()
    }
}

/// A plan that the server is about to run.
///
/// # Safety
/// The pointer must be the one that the executor was started with.
pub unsafe fn plan(statement: *mut pg_sys::PlannedStmt) -> (Plan, Statement) {
    // SAFETY: the caller's pointer.
    let planned = unsafe { &*statement };
    let is_select = planned.commandType == pg_sys::CmdType::CMD_SELECT;
    let is_custom = {
        let tree = planned.planTree;
        // SAFETY: every plan starts with its tag.
        !tree.is_null() && unsafe { (*tree).type_ } == NodeTag::T_CustomScan
    };
    let plan = Plan {
        modifies: !is_select,
        has_modifying_cte: planned.hasModifyingCTE,
        locks_rows: is_select && !planned.rowMarks.is_null(),
        is_custom,
        names_tables: !planned.relationOids.is_null(),
    };
    (plan, Statement(statement.cast()))
}

/// A utility statement that the server is about to run.
///
/// # Safety
/// The pointer must be the one that the utility hook was called with.
pub unsafe fn utility(statement: *mut pg_sys::PlannedStmt) -> (Utility, Statement) {
    // SAFETY: the caller's pointer, and a node of the kind that its tag says.
    unsafe {
        let node = (*statement).utilityStmt;
        let utility = match (*node).type_ {
            NodeTag::T_TransactionStmt => {
                use pg_sys::TransactionStmtKind::*;
                match (*node.cast::<pg_sys::TransactionStmt>()).kind {
                    TRANS_STMT_PREPARE => Utility::PrepareTransaction,
                    TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED => {
                        Utility::EndPrepared
                    }
                    _ => Utility::Transaction,
                }
            }
            NodeTag::T_CopyStmt => {
                if (*node.cast::<pg_sys::CopyStmt>()).is_from {
                    Utility::CopyFrom
                } else {
                    Utility::CopyTo
                }
            }
            NodeTag::T_ExplainStmt => Utility::Explain { makes_table: makes_table(node.cast()) },
            NodeTag::T_LockStmt => Utility::Lock {
                access_exclusive: (*node.cast::<pg_sys::LockStmt>()).mode
                    == pg_sys::AccessExclusiveLock as i32,
            },
            NodeTag::T_AlterSystemStmt => Utility::AlterSystem,
            NodeTag::T_CallStmt | NodeTag::T_DoStmt => Utility::Code,
            NodeTag::T_CheckPointStmt => Utility::Checkpoint,
            NodeTag::T_DeclareCursorStmt | NodeTag::T_FetchStmt | NodeTag::T_ClosePortalStmt => {
                Utility::Cursor
            }
            NodeTag::T_PrepareStmt | NodeTag::T_ExecuteStmt | NodeTag::T_DeallocateStmt => {
                Utility::Prepared
            }
            NodeTag::T_VariableSetStmt
            | NodeTag::T_VariableShowStmt
            | NodeTag::T_ConstraintsSetStmt
            | NodeTag::T_DiscardStmt
            | NodeTag::T_LoadStmt => Utility::Session,
            NodeTag::T_ListenStmt | NodeTag::T_UnlistenStmt => Utility::Listen,
            _ => Utility::Other,
        };
        (utility, Statement(node))
    }
}

/// EXPLAIN ANALYZE of CREATE TABLE AS and the like: its query is a plain SELECT to the executor.
unsafe fn makes_table(explain: *mut pg_sys::ExplainStmt) -> bool {
    // SAFETY: the caller's node; after parse analysis its query is a Query node, and its options are a
    // list of DefElem nodes.
    unsafe {
        let query = (*explain).query.cast::<pg_sys::Query>();
        if query.is_null() || (*query).type_ != NodeTag::T_Query || (*query).utilityStmt.is_null() {
            return false;
        }
        if (*(*query).utilityStmt).type_ != NodeTag::T_CreateTableAsStmt {
            return false;
        }
        let options = (*explain).options;
        let count = if options.is_null() { 0 } else { (*options).length };
        let mut analyzes = false;
        for position in 0..count {
            let option = pg_sys::list_nth(options, position).cast::<pg_sys::DefElem>();
            if CStr::from_ptr((*option).defname).to_bytes() == b"analyze" {
                analyzes = pg_sys::defGetBoolean(option);
            }
        }
        analyzes
    }
}
