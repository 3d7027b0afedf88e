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
    let plan = Plan {
        modifies: !is_select,
        has_modifying_cte: planned.hasModifyingCTE,
        locks_rows: is_select && !planned.rowMarks.is_null(),
        // SAFETY: the plan of the caller's pointer.
        writes_elsewhere: unsafe {
            is_distributed(statement) && asks_for_more_than_reading(planned)
        },
        // SAFETY: the plan of the caller's pointer.
        is_delegated: unsafe { is_delegated(planned) },
    };
    (plan, Statement(statement.cast()))
}

/// Whether a plan is a SELECT that writes nothing itself and that Citus has no part in.
///
/// # Safety
/// As for [`plan`].
pub unsafe fn only_reads_here(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer; every plan starts with its tag.
    unsafe {
        let planned = &*statement;
        planned.commandType == pg_sys::CmdType::CMD_SELECT
            && !planned.hasModifyingCTE
            && planned.rowMarks.is_null()
            && !planned.planTree.is_null()
            && (*planned.planTree).type_ != NodeTag::T_CustomScan
    }
}

/// Whether a statement begins or ends a transaction, and none that is prepared.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn is_begin_or_end(statement: *mut pg_sys::PlannedStmt) -> bool {
    use pg_sys::TransactionStmtKind::*;
    // SAFETY: the caller's pointer, and a node of the kind that its tag says.
    unsafe {
        let node = (*statement).utilityStmt;
        (*node).type_ == NodeTag::T_TransactionStmt
            && matches!(
                (*node.cast::<pg_sys::TransactionStmt>()).kind,
                TRANS_STMT_BEGIN | TRANS_STMT_COMMIT | TRANS_STMT_ROLLBACK
            )
    }
}

/// Whether a plan is handed as a whole to Citus' executor.
///
/// # Safety
/// As for [`plan`].
pub unsafe fn is_distributed(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer.
    unsafe { citus_scan((*statement).planTree).is_some() }
}

/// Whether a plan needs more than the right to read some table.  That is how the server itself tells what a
/// read-only transaction may do; it is all that Citus' plans say of row locks and of WITH queries that modify.
unsafe fn asks_for_more_than_reading(planned: &pg_sys::PlannedStmt) -> bool {
    const READ: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
    // SAFETY: the caller's plan, whose list has members of the type that its release of the server says.
    unsafe {
        #[cfg(feature = "pg15")]
        return members::<pg_sys::RangeTblEntry>(planned.rtable)
            .any(|entry| (*entry).requiredPerms & !READ != 0);
        #[cfg(not(feature = "pg15"))]
        members::<pg_sys::RTEPermissionInfo>(planned.permInfos)
            .any(|permission| (*permission).requiredPerms & !READ != 0)
    }
}

/// The scan of Citus' executor at the top of a plan.
unsafe fn citus_scan(tree: *mut pg_sys::Plan) -> Option<*mut pg_sys::CustomScan> {
    // SAFETY: every plan starts with its tag; a custom scan has methods, and they have a name.
    unsafe {
        if tree.is_null() || (*tree).type_ != NodeTag::T_CustomScan {
            return None;
        }
        let scan = tree.cast::<pg_sys::CustomScan>();
        let name = (*(*scan).methods).CustomName;
        CStr::from_ptr(name).to_bytes().starts_with(b"Citus ").then_some(scan)
    }
}

/// Whether a plan is a function call that Citus runs elsewhere: a scan of its executor in a plan that names
/// no table (Citus lists them for the sake of their permissions) and reads no result of a subplan.
unsafe fn is_delegated(planned: &pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's plan; its range table is a list of entries, and those of functions have a list
    // of function calls.
    unsafe {
        citus_scan(planned.planTree).is_some()
            && !members::<pg_sys::RangeTblEntry>(planned.rtable).any(|entry| {
                (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION || reads_result(entry)
            })
    }
}

/// Whether a range table entry is the result of a subplan.
unsafe fn reads_result(entry: *mut pg_sys::RangeTblEntry) -> bool {
    // SAFETY: the caller's entry; a name from the system cache is a C string of its own.
    unsafe {
        members::<pg_sys::RangeTblFunction>((*entry).functions).any(|function| {
            let call = (*function).funcexpr.cast::<pg_sys::FuncExpr>();
            if call.is_null() || (*call).xpr.type_ != NodeTag::T_FuncExpr {
                return false;
            }
            let name = pg_sys::get_func_name((*call).funcid);
            !name.is_null()
                && CStr::from_ptr(name).to_bytes().starts_with(b"read_intermediate_result")
        })
    }
}

/// The members of a list of pointers.
///
/// # Safety
/// The list must be null or one of pointers to `T`, and live as long as the iterator.
unsafe fn members<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's list.
    let count = unsafe { if list.is_null() { 0 } else { (*list).length.max(0) as usize } };
    (0..count).map(move |position| {
        // SAFETY: the position is within the list, whose members are pointers.
        unsafe { (*(*list).elements.add(position)).ptr_value.cast::<T>() }
    })
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
                let copy = node.cast::<pg_sys::CopyStmt>();
                if (*copy).is_from && !is_intermediate_result(copy) {
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
            NodeTag::T_DropdbStmt => Utility::DropDatabase,
            _ if is_concurrent(node) => Utility::Concurrently,
            NodeTag::T_AlterSystemStmt => Utility::AlterSystem,
            NodeTag::T_CallStmt if super::session::has_citus() => Utility::Call,
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

/// Whether a statement says CONCURRENTLY, where that has it commit on its way.
unsafe fn is_concurrent(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's node, of the kind that its tag says; lists have members of the kind that the
    // grammar puts into them.
    unsafe {
        match (*node).type_ {
            NodeTag::T_IndexStmt => (*node.cast::<pg_sys::IndexStmt>()).concurrent,
            NodeTag::T_DropStmt => (*node.cast::<pg_sys::DropStmt>()).concurrent,
            NodeTag::T_ReindexStmt => {
                members::<pg_sys::DefElem>((*node.cast::<pg_sys::ReindexStmt>()).params)
                    .any(|option| CStr::from_ptr((*option).defname) == c"concurrently")
            }
            NodeTag::T_AlterTableStmt => members::<pg_sys::AlterTableCmd>(
                (*node.cast::<pg_sys::AlterTableStmt>()).cmds,
            )
            .any(|command| {
                let partition = (*command).def.cast::<pg_sys::PartitionCmd>();
                (*command).subtype == pg_sys::AlterTableType::AT_DetachPartition
                    && !partition.is_null()
                    && (*partition).concurrent
            }),
            _ => false,
        }
    }
}

/// Whether a statement sets what its transaction may do.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn sets_read_only(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer, and a node of the kind that its tag says; the name is a C string or null.
    unsafe {
        let node = (*statement).utilityStmt;
        if (*node).type_ != NodeTag::T_VariableSetStmt {
            return false;
        }
        let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
        !name.is_null()
            && matches!(CStr::from_ptr(name).to_bytes(), b"TRANSACTION" | b"transaction_read_only")
    }
}

/// Citus gives a node the result of a subquery this way.  It goes to a file that is gone with the
/// transaction, and to no table: Citus' utility hook takes the statement before the server sees it.
unsafe fn is_intermediate_result(copy: *mut pg_sys::CopyStmt) -> bool {
    // SAFETY: the caller's node; its options are a list of DefElem nodes with a name each, and an argument
    // that is asked for its own tag.
    unsafe {
        if !super::session::has_citus() {
            return false;
        }
        members::<pg_sys::DefElem>((*copy).options).any(|option| {
            let argument = (*option).arg;
            CStr::from_ptr((*option).defname) == c"format"
                && !argument.is_null()
                && (*argument).type_ == NodeTag::T_String
                && CStr::from_ptr(pg_sys::defGetString(option)) == c"result"
        })
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
