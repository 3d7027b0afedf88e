//! From libpq's several-line texts to one line that belongs into a message. Pure.

use crate::conninfo::ConnParams;
use crate::node::NodeLabel;
use crate::pq::SqlState;

/// A text on one line: line breaks and what surrounds them become single spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a connection could not be made, from `PQerrorMessage`: the server's primary message with
/// its SQLSTATE if a server spoke at all, else what libpq says of each address it tried.
pub(super) fn connect_failure(
    raw: &str,
    node: &NodeLabel,
    params: &ConnParams,
) -> (Option<SqlState>, String) {
    let raw = params.redact(raw);
    // libpq may try twice (with TLS and without; several addresses): the last word counts.
    if let Some((sqlstate, message)) = raw.lines().filter_map(verbose_line).next_back() {
        return (Some(sqlstate), one_line(message));
    }
    let prefix = format!("connection to server at \"{}\", port {} failed: ", node.host, node.port);
    let mut attempts: Vec<String> = Vec::new();
    for line in raw.lines().filter(|line| is_statement(line)) {
        let line = one_line(line.strip_prefix(prefix.as_str()).unwrap_or(line));
        if !attempts.contains(&line) {
            attempts.push(line);
        }
    }
    (None, if attempts.is_empty() { "unknown reason".to_owned() } else { attempts.join("; ") })
}

/// Why a connection was lost, from `PQerrorMessage`: the server's primary message, else the first
/// line of libpq's.
pub(super) fn loss(raw: &str, params: &ConnParams) -> (Option<SqlState>, String) {
    let raw = params.redact(raw);
    if let Some((sqlstate, message)) = raw.lines().find_map(verbose_line) {
        return (Some(sqlstate), one_line(message));
    }
    let line = raw.lines().find(|line| is_statement(line)).map(one_line);
    (None, line.unwrap_or_else(|| "unknown reason".to_owned()))
}

/// Whether a line says something itself; libpq indents the advice it adds below.
fn is_statement(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with('\t')
}

/// SQLSTATE and primary message of a line such as `FATAL:  28P01: password authentication failed
/// for user "bank"`. Found by its form, as the severity is in the server's language.
fn verbose_line(line: &str) -> Option<(SqlState, &str)> {
    line.match_indices(":  ").find_map(|(position, gap)| {
        let rest = &line[position + gap.len()..];
        let (code, message) = rest.split_once(": ")?;
        Some((SqlState::parse(code)?, message))
    })
}
