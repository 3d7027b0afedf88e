//! Citus as a library of this server.

use std::sync::OnceLock;

use crate::pg::library::{self, Question};

/// Its name.
pub const LIBRARY: &str = "citus";

/// Whether it is loaded into every process of this server.
pub fn is_preloaded() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| library::is_preloaded(LIBRARY))
}

/// Whether Citus will write commit records when this transaction commits.  It takes a transaction number
/// for that later than anyone else.
///
/// `may_be_distributed`: the transaction has done something that Citus may have sent to other nodes.
pub fn will_commit_in_two_phases(may_be_distributed: bool) -> bool {
    static QUESTION: OnceLock<Option<Question>> = OnceLock::new();
    match QUESTION.get_or_init(find) {
        None => false,
        Some(plain @ Question::Plain(_)) => plain.is_answered_yes(),
        // This one raises an error outside of distributed transactions, so it is not asked lightly.
        Some(for_sql @ Question::ForSql(_)) => may_be_distributed && for_sql.is_answered_yes(),
    }
}

/// Where Citus says whether it will write commit records.  Servers from PostgreSQL 16 on build libraries
/// so that only functions for SQL can be found from outside.  Their types in Citus 11.3 to 14 are those that
/// a [`Question`] asks for.
fn find() -> Option<Question> {
    if !is_preloaded() {
        return None;
    }
    Question::plain(LIBRARY, c"GetCoordinatedTransactionShouldUse2PC")
        .or_else(|| Question::for_sql(LIBRARY, c"coordinated_transaction_should_use_2PC"))
}
