//! Facts about plans and statements.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

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

/// What there is to know of a planned query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan<'a> {
    /// It is no SELECT.
    pub modifies: bool,
    /// A WITH query of it is none.
    pub has_modifying_cte: bool,
    /// It locks rows, which writes to them.
    pub locks_rows: bool,
    /// Another library runs it as a whole.
    pub custom_scan: Option<CustomScan<'a>>,
}

/// The scan of another library at the top of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomScan<'a> {
    /// What its library calls it.
    pub name: &'a CStr,
    /// The query needs more than the right to read some table.  That is how the server itself tells what a
    /// read-only transaction may do.
    pub needs_more_than_reading: bool,
    /// The functions whose rows it reads; `None` where it names a table as well.
    pub functions: Option<Vec<CString>>,
}

/// A plan that the server is about to run.
///
/// # Safety
/// The pointer must be the one that the executor was started with, and live as long as the facts.
pub unsafe fn plan<'a>(statement: *mut pg_sys::PlannedStmt) -> (Plan<'a>, Statement) {
    // SAFETY: the caller's pointer.
    let planned = unsafe { &*statement };
    let is_select = planned.commandType == pg_sys::CmdType::CMD_SELECT;
    let plan = Plan {
        modifies: !is_select,
        has_modifying_cte: planned.hasModifyingCTE,
        locks_rows: is_select && !planned.rowMarks.is_null(),
        // SAFETY: the plan of the caller's pointer.
        custom_scan: unsafe { custom_scan(planned) },
    };
    (plan, Statement(statement.cast()))
}

/// Whether a plan is a SELECT that writes nothing itself and that no other library runs.
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

unsafe fn custom_scan<'a>(planned: &pg_sys::PlannedStmt) -> Option<CustomScan<'a>> {
    // SAFETY: the caller's plan; every plan starts with its tag; a custom scan has methods, and they have a
    // name that lives as long as its library.
    unsafe {
        let tree = planned.planTree;
        if tree.is_null() || (*tree).type_ != NodeTag::T_CustomScan {
            return None;
        }
        let scan = tree.cast::<pg_sys::CustomScan>();
        Some(CustomScan {
            name: CStr::from_ptr((*(*scan).methods).CustomName),
            needs_more_than_reading: needs_more_than_reading(planned),
            functions: functions(planned),
        })
    }
}

unsafe fn needs_more_than_reading(planned: &pg_sys::PlannedStmt) -> bool {
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

/// The functions in the range table, unless there is a table.
unsafe fn functions(planned: &pg_sys::PlannedStmt) -> Option<Vec<CString>> {
    // SAFETY: the caller's plan; its range table is a list of entries, and those of functions have a list
    // of function calls; a name from the system cache is a C string of its own.
    unsafe {
        let entries = || members::<pg_sys::RangeTblEntry>(planned.rtable);
        if entries().any(|entry| (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION) {
            return None;
        }
        let calls = entries().flat_map(|entry| {
            members::<pg_sys::RangeTblFunction>((*entry).functions)
                .map(|function| (*function).funcexpr.cast::<pg_sys::FuncExpr>())
        });
        let names = calls.filter_map(|call| {
            if call.is_null() || (*call).xpr.type_ != NodeTag::T_FuncExpr {
                return None;
            }
            let name = pg_sys::get_func_name((*call).funcid);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
        });
        Some(names.collect())
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

/// Utility statements, as far as they are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utility<'a> {
    /// BEGIN, COMMIT, ROLLBACK, savepoints.
    Transaction,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED, ROLLBACK PREPARED.
    EndPrepared,
    /// COPY TO.
    CopyTo,
    /// COPY FROM.
    CopyFrom {
        /// What it says of the format, if anything.
        format: Option<&'a CStr>,
    },
    /// EXPLAIN.
    Explain {
        /// EXPLAIN ANALYZE of a statement that makes a table.
        makes_table: bool,
    },
    /// LOCK TABLE.
    Lock {
        /// In ACCESS EXCLUSIVE mode.
        access_exclusive: bool,
    },
    /// ALTER SYSTEM.
    AlterSystem,
    /// DO.
    Do,
    /// DROP DATABASE.
    DropDatabase,
    /// What is done CONCURRENTLY commits several times on its way.
    Concurrently,
    /// CALL.
    Call,
    /// CHECKPOINT.
    Checkpoint,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// PREPARE, EXECUTE, DEALLOCATE.
    Prepared,
    /// SET, RESET, SHOW, SET CONSTRAINTS, DISCARD, LOAD.
    Session,
    /// LISTEN, UNLISTEN.
    Listen,
    /// All others, and what later servers bring.
    Other,
}

/// A utility statement that the server is about to run.
///
/// # Safety
/// The pointer must be the one that the utility hook was called with, and live as long as the facts.
pub unsafe fn utility<'a>(statement: *mut pg_sys::PlannedStmt) -> (Utility<'a>, Statement) {
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
                if (*copy).is_from {
                    Utility::CopyFrom { format: format(copy) }
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
            NodeTag::T_CallStmt => Utility::Call,
            NodeTag::T_DoStmt => Utility::Do,
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

/// Whether a statement drops the extension that this library is of.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn drops_own_extension(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer, and nodes of the kinds that their tags say; an extension's name is a string, whose
    // text is a C string.
    unsafe {
        let node = (*statement).utilityStmt;
        if node.is_null() || (*node).type_ != NodeTag::T_DropStmt {
            return false;
        }
        let drop = node.cast::<pg_sys::DropStmt>();
        (*drop).removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            && members::<pg_sys::Node>((*drop).objects).any(|name| {
                (*name).type_ == NodeTag::T_String
                    && CStr::from_ptr((*name.cast::<pg_sys::String>()).sval) == own!("")
            })
    }
}

/// Whether a statement sets what its transaction may do: SET, or BEGIN with READ ONLY or READ WRITE.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn sets_read_only(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer, and a node of the kind that its tag says; the name is a C string or null.
    unsafe {
        let node = (*statement).utilityStmt;
        match (*node).type_ {
            NodeTag::T_VariableSetStmt => sets(node, &[c"TRANSACTION", c"transaction_read_only"]),
            NodeTag::T_TransactionStmt => {
                members::<pg_sys::DefElem>((*node.cast::<pg_sys::TransactionStmt>()).options)
                    .any(|option| CStr::from_ptr((*option).defname) == c"transaction_read_only")
            }
            _ => false,
        }
    }
}

/// Whether a statement sets what the session's transactions may do from now on.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn sets_default_read_only(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer.
    unsafe {
        let node = (*statement).utilityStmt;
        (*node).type_ == NodeTag::T_VariableSetStmt
            && sets(node, &[c"SESSION CHARACTERISTICS", c"default_transaction_read_only"])
    }
}

/// Whether a SET names one of these.
unsafe fn sets(node: *mut pg_sys::Node, names: &[&CStr]) -> bool {
    // SAFETY: the caller's node is a SET; the name is a C string or null.
    unsafe {
        let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
        !name.is_null() && names.contains(&CStr::from_ptr(name))
    }
}

/// Whether a statement gives a session that somebody has used to somebody else: DISCARD ALL, RESET ALL, and
/// those about the session's role.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn resets_session(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's pointer, and a node of the kind that its tag says; the name is a C string or null.
    unsafe {
        let node = (*statement).utilityStmt;
        match (*node).type_ {
            NodeTag::T_DiscardStmt => {
                (*node.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL
            }
            NodeTag::T_VariableSetStmt => {
                let set = node.cast::<pg_sys::VariableSetStmt>();
                let name = (*set).name;
                (*set).kind == pg_sys::VariableSetKind::VAR_RESET_ALL
                    || !name.is_null() && CStr::from_ptr(name) == c"session_authorization"
            }
            _ => false,
        }
    }
}

/// Whether a statement frees a session of its temporary tables: DISCARD ALL, DISCARD TEMP.  Poolers reset sessions with
/// them.
///
/// # Safety
/// As for [`utility`].
pub unsafe fn discards_tables(statement: *mut pg_sys::PlannedStmt) -> bool {
    use pg_sys::DiscardMode::{DISCARD_ALL, DISCARD_TEMP};
    // SAFETY: the caller's pointer, and a node of the kind that its tag says.
    unsafe {
        let node = (*statement).utilityStmt;
        (*node).type_ == NodeTag::T_DiscardStmt
            && matches!((*node.cast::<pg_sys::DiscardStmt>()).target, DISCARD_ALL | DISCARD_TEMP)
    }
}

/// What COPY says of the format.
unsafe fn format<'a>(copy: *mut pg_sys::CopyStmt) -> Option<&'a CStr> {
    // SAFETY: the caller's node; its options are a list of DefElem nodes with a name each, and an argument
    // that is asked for its own tag, whose text is part of the node.
    unsafe {
        members::<pg_sys::DefElem>((*copy).options).find_map(|option| {
            let argument = (*option).arg;
            let is_text = CStr::from_ptr((*option).defname) == c"format"
                && !argument.is_null()
                && (*argument).type_ == NodeTag::T_String;
            is_text.then(|| CStr::from_ptr(pg_sys::defGetString(option)))
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
        // The last one counts.
        members::<pg_sys::DefElem>((*explain).options)
            .filter(|option| CStr::from_ptr((**option).defname) == c"analyze")
            .last()
            .is_some_and(|option| pg_sys::defGetBoolean(option))
    }
}
