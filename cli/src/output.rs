//! Standard output and standard error.
//!
//! | | result, on standard output | failure, on standard error |
//! | --- | --- | --- |
//! | text | lines for people | `citus-fence: error: …`, `detail: …`, `hint: …` |
//! | `--json` | one object on one line | `{"error": {…}}` on one line |
//! | `--quiet` | nothing | as above |
//!
//! A reader that goes away (`| head`) is no failure: nobody wants the rest, and what was done is
//! done. Any other error of standard output is one where the answer is all that was asked for, and a finding where
//! something was done.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{Failure, Report};

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// As the options say.
    pub fn new(json: bool, quiet: bool) -> Output {
        Output { json, quiet }
    }

    /// Prints a result, as JSON or in the text that `lines` makes of it.
    pub fn result<T: Serialize>(
        &self,
        result: &T,
        lines: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        let text = match self.json {
            true => json_line(result).map_err(Failure::Output)?,
            false => lines(result),
        };
        print(&text).map_err(Failure::Output)
    }

    /// Prints the result of something that is done whether anybody hears of it or not. Where standard output does not take it,
    /// that is a finding: an error would say that nothing is left of what was done.
    pub fn outcome<T: Serialize>(
        &self,
        result: &T,
        lines: impl FnOnce(&T) -> String,
        end: Exit,
    ) -> Exit {
        match self.result(result, lines) {
            Ok(()) => end,
            Err(failure) => {
                let told = Told { look: format!("it is done, but {failure}") };
                match self.json {
                    true => complain(&json_line(&told).unwrap_or_default()),
                    false => complain(&format!("citus-fence: look: {}\n", told.look)),
                }
                Exit::Findings
            }
        }
    }

    /// Tells of a result on standard error, where standard output is somebody else's.
    pub fn remark<T: Serialize>(&self, result: &T, line: impl FnOnce(&T) -> String) {
        if self.quiet {
            return;
        }
        match self.json {
            true => complain(&json_line(result).unwrap_or_default()),
            false => complain(&format!("citus-fence: {}\n", line(result))),
        }
    }

    /// Whether people are told more than the result.
    pub fn tells_people(&self) -> bool {
        !self.quiet && !self.json
    }

    /// Tells people on standard error what is being done.
    pub fn progress(&self, line: &str) {
        if self.tells_people() {
            complain(&format!("{line}\n"));
        }
    }

    /// Tells of a failure.
    pub fn failure(&self, failure: &Failure) {
        let report = failure.report();
        match self.json {
            true => complain_in_json(&report),
            false => complain(&in_lines(&report)),
        }
    }

    /// Tells of wrong use, in clap's words, which begin with `error: `.
    pub fn wrong_use(&self, text: &str) {
        if !self.json {
            return complain(&format!("citus-fence: {text}"));
        }
        let text = text.strip_prefix("error: ").unwrap_or(text);
        let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
        complain_in_json(&Report {
            message: message.trim().to_owned(),
            detail: None,
            hint: Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty()),
            sqlstate: None,
            exit_code: Exit::WrongUse.code(),
        });
    }
}

/// What needs a look, as JSON.
#[derive(Serialize)]
struct Told {
    look: String,
}

/// A failure in lines.
fn in_lines(report: &Report) -> String {
    let mut text = format!("citus-fence: error: {}\n", report.message);
    for (name, line) in [("detail", &report.detail), ("hint", &report.hint)] {
        if let Some(line) = line {
            text.push_str(&format!("citus-fence: {name}: {line}\n"));
        }
    }
    text
}

/// A value as one line of JSON.
fn json_line<T: Serialize>(value: &T) -> io::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Writes to standard output.
pub fn print(text: &str) -> io::Result<()> {
    write_all(&mut io::stdout().lock(), text)
}

/// Writes all of it, or as much as somebody reads.
fn write_all(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes to standard error. Where that fails, there is nobody left to tell.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a failure to standard error as JSON.
fn complain_in_json(report: &Report) {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a Report,
    }
    match json_line(&Error { error: report }) {
        Ok(line) => complain(&line),
        Err(_) => complain(&in_lines(report)),
    }
}

/// Has the events of this crate written to standard error.
pub fn log_to_stderr() {
    // It fails where there is a subscriber already, which then has the events.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that fails in one way.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is() {
        assert!(write_all(&mut Failing(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_all(&mut Failing(ErrorKind::StorageFull), "x").is_err());
    }

    #[test]
    fn a_failure_in_lines() {
        let report = Report {
            message: "m".into(),
            detail: Some("d".into()),
            hint: Some("h".into()),
            sqlstate: None,
            exit_code: 1,
        };
        assert_eq!(
            in_lines(&report),
            "citus-fence: error: m\ncitus-fence: detail: d\ncitus-fence: hint: h\n"
        );
    }
}
