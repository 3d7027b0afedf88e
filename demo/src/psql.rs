//! SQL the way an operator sees it in psql: the prompt, the statement, what the server says, the
//! result as a table, the time.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use test_cluster::Server;
use test_cluster::postgres::{Client, NoTls, SimpleQueryMessage};

use crate::console::Console;
use crate::error::{DemoError, Result};

/// What the server says beside the result, such as `NOTICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub severity: String,
    pub text: String,
    /// When it came.
    pub at: Instant,
}

/// An answer to one statement.
#[derive(Debug)]
pub struct Answer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    pub remarks: Vec<Remark>,
    pub sent: Instant,
    pub answered: Instant,
}

impl Answer {
    fn elapsed(&self) -> Duration {
        self.answered - self.sent
    }
}

/// A session whose statements are shown.
pub struct Session {
    client: Client,
    prompt: String,
    remarks: Arc<Mutex<Vec<Remark>>>,
}

impl Session {
    pub fn open(server: &Server, database: &str) -> Result<Session> {
        let remarks: Arc<Mutex<Vec<Remark>>> = Arc::default();
        let heard = Arc::clone(&remarks);
        let mut config = server.connect_params().application_name("demo").config();
        config.notice_callback(move |notice| {
            let mut text = notice.message().to_owned();
            for (kind, more) in [("DETAIL", notice.detail()), ("HINT", notice.hint())] {
                if let Some(more) = more {
                    let _ = write!(text, "\n{kind}:  {more}");
                }
            }
            let remark =
                Remark { severity: notice.severity().to_owned(), text, at: Instant::now() };
            // A list of remarks is whole whatever became of another thread.
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(remark);
        });
        let client = config.connect(NoTls).map_err(|source| DemoError::Statement {
            statement: format!("connecting to {}", server.name()),
            source,
        })?;
        Ok(Session { client, prompt: format!("{database}=#"), remarks })
    }

    /// Runs a statement and shows it with its answer.
    pub fn show(&mut self, console: &Console, sql: &str) -> Result<Answer> {
        let answer = self.run(sql)?;
        console.block(format!("{} {sql};\n{}", self.prompt, as_psql(&answer)));
        Ok(answer)
    }

    fn run(&mut self, sql: &str) -> Result<Answer> {
        let sent = Instant::now();
        let messages = self
            .client
            .simple_query(sql)
            .map_err(|source| DemoError::Statement { statement: sql.to_owned(), source })?;
        let answered = Instant::now();
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(described) => {
                    columns = described.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                // The count of rows, which the list has too, and whatever a later version adds.
                _ => {}
            }
        }
        let remarks =
            std::mem::take(&mut *self.remarks.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Answer { columns, rows, remarks, sent, answered })
    }
}

/// An answer in psql's form, with `\timing on`.
fn as_psql(answer: &Answer) -> String {
    let mut out = String::new();
    for remark in &answer.remarks {
        let _ = writeln!(out, "{}:  {}", remark.severity, remark.text);
    }
    let numbers = numeric_columns(answer.columns.len(), &answer.rows);
    out.push_str(&table(&answer.columns, &answer.rows, &numbers));
    let rows = answer.rows.len();
    let _ = writeln!(out, "({rows} {})", if rows == 1 { "row" } else { "rows" });
    let _ = write!(out, "\nTime: {:.3} ms\n", answer.elapsed().as_secs_f64() * 1000.0);
    out
}

/// Columns and rows as psql draws them, with the headings centred.
pub fn table(columns: &[String], rows: &[Vec<Option<String>>], to_the_right: &[bool]) -> String {
    let cell = |row: &[Option<String>], at: usize| -> String {
        row.get(at).cloned().flatten().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            let longest = rows.iter().map(|row| cell(row, at).chars().count()).max().unwrap_or(0);
            longest.max(columns[at].chars().count())
        })
        .collect();

    let mut out = String::new();
    let mut push = |cells: Vec<String>, joint: &str| {
        let _ = writeln!(out, "{}", cells.join(joint).trim_end());
    };
    let headings = columns.iter().zip(&widths).map(|(name, width)| format!(" {name:^width$} "));
    push(headings.collect(), "|");
    push(widths.iter().map(|width| "-".repeat(width + 2)).collect(), "+");
    for row in rows {
        let cells = (0..columns.len()).map(|at| {
            let (value, width) = (cell(row, at), widths[at]);
            if to_the_right.get(at).copied().unwrap_or(false) {
                format!(" {value:>width$} ")
            } else {
                format!(" {value:<width$} ")
            }
        });
        push(cells.collect(), "|");
    }
    out
}

/// Which columns have nothing but numbers. Values arrive as text, without their types.
fn numeric_columns(count: usize, rows: &[Vec<Option<String>>]) -> Vec<bool> {
    (0..count)
        .map(|at| {
            let mut values = rows.iter().filter_map(|row| row.get(at)?.as_deref()).peekable();
            values.peek().is_some() && values.all(looks_like_a_number)
        })
        .collect()
}

fn looks_like_a_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn tables_look_like_psqls() {
        let rows = vec![
            vec![Some(String::from("coordinator")), Some(String::from("7"))],
            vec![None, Some(String::from("1,234.50"))],
        ];
        let numbers = numeric_columns(2, &rows);
        assert_eq!(numbers, [false, true]);
        let drawn = table(&strings(&["node", "n"]), &rows, &numbers);
        let expected = "    node     |    n\n\
                        -------------+----------\n \
                        coordinator |        7\n             \
                        | 1,234.50\n";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn only_numbers_go_to_the_right() {
        assert!(looks_like_a_number("-12.5"));
        assert!(looks_like_a_number("200,000.00"));
        assert!(!looks_like_a_number("t"));
        assert!(!looks_like_a_number("0/3000148"));
        assert!(!looks_like_a_number(""));
    }
}
