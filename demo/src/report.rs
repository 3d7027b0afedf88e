//! Numbers as people read them, and the table at the end.

use std::time::Duration;

use test_cluster::Audit;

use crate::outcome::Outcome;
use crate::psql::table;

/// An amount of cents, as money.
pub fn cents(amount: i64) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    let magnitude = amount.unsigned_abs();
    let digits = (magnitude / 100).to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}.{:02}", magnitude % 100)
}

pub fn seconds(length: Duration) -> String {
    format!("{:.2} s", length.as_secs_f64())
}

pub fn milliseconds(length: Duration) -> String {
    let ms = length.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn verdict(outcome: &Outcome) -> &'static str {
    if !outcome.audit.is_clean() {
        "damaged"
    } else if !outcome.complaints.is_empty() {
        // The books are right, and that may be luck.
        "void"
    } else {
        "whole"
    }
}

/// How a line of the comparison is got from an audit.
type Shown = fn(&Audit) -> String;

/// The comparison.
pub fn comparison(with: &Outcome, without: &Outcome) -> String {
    let lines: [(&str, Shown); 5] = [
        ("total", |audit| cents(audit.total)),
        ("expected", |audit| cents(audit.expected_total)),
        ("transfers", |audit| audit.transfers.to_string()),
        ("half transfers", |audit| audit.half_transfers.len().to_string()),
        ("prepared left", |audit| audit.prepared_left.len().to_string()),
    ];
    let mut rows: Vec<Vec<Option<String>>> = lines
        .iter()
        .map(|(name, value)| {
            vec![Some((*name).to_owned()), Some(value(&with.audit)), Some(value(&without.audit))]
        })
        .collect();
    let verdicts = ["verdict", verdict(with), verdict(without)];
    rows.push(verdicts.map(|word| Some(word.to_owned())).to_vec());
    let columns = ["restored copies", "with the block", "without"].map(str::to_owned);
    table(&columns, &rows, &[false, true, true])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_grouped() {
        assert_eq!(cents(0), "0.00");
        assert_eq!(cents(-5), "-0.05");
        assert_eq!(cents(12_345), "123.45");
        assert_eq!(cents(20_000_000), "200,000.00");
        assert_eq!(cents(-123_456_789), "-1,234,567.89");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(plural(1, "writer", "writers"), "1 writer");
        assert_eq!(plural(0, "writer", "writers"), "0 writers");
    }
}
