//! From an answer's text to values. What is not of the form this program relies on is an error
//! that names the server and the question, never a default.

use std::str::FromStr;

use remote::{RemoteError, Reply, ResultSet};

/// A row of the last statement's result.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    reply: &'a Reply,
    set: &'a ResultSet,
    index: usize,
}

/// Whether a server takes no more sessions: too_many_connections.
pub fn is_full(error: &RemoteError) -> bool {
    error.sqlstate() == Some("53300")
}

/// All rows.
pub fn rows(reply: &Reply) -> Result<impl Iterator<Item = Row<'_>>, RemoteError> {
    let set = reply.last_set()?;
    Ok((0..set.rows.len()).map(move |index| Row { reply, set, index }))
}

/// The one row.
pub fn only_row(reply: &Reply) -> Result<Row<'_>, RemoteError> {
    reply.single_row()?;
    Ok(Row { reply, set: reply.last_set()?, index: 0 })
}

impl<'a> Row<'a> {
    /// A value that may be NULL.
    pub fn maybe<T: FromStr>(&self, column: &str) -> Result<Option<T>, RemoteError> {
        if !self.set.columns.iter().any(|name| name == column) {
            return Err(self.reply.unexpected("a column is missing"));
        }
        let parse =
            |text: &str| text.parse().map_err(|_| self.reply.unexpected("a value of another type"));
        self.set.value(self.index, column).map(parse).transpose()
    }

    /// A value that is never NULL.
    pub fn get<T: FromStr>(&self, column: &str) -> Result<T, RemoteError> {
        self.maybe(column)?.ok_or_else(|| self.reply.unexpected("NULL where a value was expected"))
    }

    /// A boolean as the server writes it; NULL is false.
    pub fn is_true(&self, column: &str) -> Result<bool, RemoteError> {
        Ok(self.maybe::<String>(column)?.as_deref() == Some("t"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remote::NodeLabel;

    use super::*;

    fn reply() -> Reply {
        Reply {
            node: NodeLabel::unregistered("h", 1),
            command: "question",
            sets: vec![ResultSet {
                columns: vec!["number".into(), "nothing".into(), "yes".into()],
                rows: vec![vec![Some("7".into()), None, Some("t".into())]],
                ..ResultSet::default()
            }],
            took: Duration::ZERO,
        }
    }

    #[test]
    fn values_are_what_they_have_to_be() {
        let reply = reply();
        let row = only_row(&reply).expect("a row");
        assert_eq!(row.get::<i32>("number"), Ok(7));
        assert_eq!(row.maybe::<i32>("nothing"), Ok(None));
        assert_eq!(row.is_true("yes"), Ok(true));
        assert_eq!(row.is_true("nothing"), Ok(false));
        for error in [
            row.get::<i32>("nothing").expect_err("NULL"),
            row.get::<i32>("yes").expect_err("no number"),
            row.maybe::<i32>("missing").expect_err("no such column"),
        ] {
            assert!(error.to_string().contains("question from h:1"), "{error}");
        }
        assert_eq!(rows(&reply).expect("rows").count(), 1);
    }
}
