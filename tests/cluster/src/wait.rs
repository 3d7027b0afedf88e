//! Waiting for a state. Nothing else in the tests sleeps: a sleep is too long on a quick machine
//! and too short on a busy one.

use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Result, describe, shorten};

/// How long a helper of this crate waits where the caller did not say. It is generous because it is
/// only ever reached when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The first pause between two looks. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Looks until `look` finds something, and returns it; after `timeout` an error that names `what`.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    try_wait_until(what, timeout, || Ok(look()))
}

/// Like [`wait_until`], for looks that can fail; a failure ends the wait at once.
pub fn try_wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        let waited = begin.elapsed();
        if waited >= timeout {
            return Err(Error::Timeout { what: what.into(), waited });
        }
        thread::sleep(pause.min(timeout.saturating_sub(waited)));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs `sql` until the first column of its first row is true. The error of a wait in vain tells
/// what the last answer was.
pub fn wait_for_sql(client: &mut Client, sql: &str, timeout: Duration) -> Result<()> {
    let mut last = String::from("nothing yet");
    let outcome = try_wait_until("", timeout, || {
        let messages = client.simple_query(sql).map_err(|error| Error::Sql {
            server: "while waiting".into(),
            statement: shorten(sql).into(),
            message: describe(&error).into(),
            sqlstate: error.code().map(|code| code.code().into()),
            log: Box::default(),
        })?;
        let first = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten()),
            _ => None,
        });
        last = match first {
            None => String::from("no row"),
            Some(None) => String::from("NULL"),
            Some(Some("t")) => return Ok(Some(())),
            Some(Some(other)) => other.to_owned(),
        };
        Ok(None)
    });
    outcome.map_err(|error| match error {
        Error::Timeout { waited, .. } => Error::Timeout {
            what: format!("{} to be true; its last answer was {last}", shorten(sql)).into(),
            waited,
        },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found() {
        let mut looks = 0;
        let found = wait_until("the third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.ok(), Some(3));
    }

    #[test]
    fn names_what_was_awaited() {
        let outcome = wait_until("a miracle", Duration::from_millis(5), || None::<()>);
        let message = outcome.err().map(|error| error.to_string());
        assert!(message.is_some_and(|text| text.contains("a miracle")));
    }

    #[test]
    fn a_failed_look_ends_the_wait() {
        let begin = Instant::now();
        let outcome: Result<()> = try_wait_until("anything", Duration::from_secs(60), || {
            Err(Error::Environment(String::from("broken")))
        });
        assert!(matches!(outcome, Err(Error::Environment(_))));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
