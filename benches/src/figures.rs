//! Medians, and the table of what was measured.

use std::fmt;
use std::time::Duration;

/// The value below which the given share of the sorted values lies.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count => sorted[((count - 1) as f64 * share).round() as usize],
    }
}

/// Milliseconds, sorted.
pub fn sorted_ms(times: &[Duration]) -> Vec<f64> {
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// One line per figure.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    /// Times of one thing.
    pub fn times(&mut self, what: &str, times: &[Duration], target: &str) -> f64 {
        let ms = sorted_ms(times);
        let median = quantile(&ms, 0.5);
        self.rows.push([
            what.to_owned(),
            format!("{median:.2} ms"),
            format!("{:.2} ms", quantile(&ms, 0.1)),
            format!("{:.2} ms", quantile(&ms, 0.9)),
            target.to_owned(),
        ]);
        median
    }

    /// Ratios of pairs.
    pub fn ratios(&mut self, what: &str, mut ratios: Vec<f64>, target: &str) {
        ratios.sort_by(f64::total_cmp);
        self.rows.push([
            what.to_owned(),
            format!("{:.2}", quantile(&ratios, 0.5)),
            format!("{:.2}", quantile(&ratios, 0.1)),
            format!("{:.2}", quantile(&ratios, 0.9)),
            target.to_owned(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["figure", "p50", "p10", "p90", "target"].map(str::to_owned);
        let width = |column: usize| {
            self.rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0)
        };
        for row in [&head].into_iter().chain(&self.rows) {
            let [what, p50, p10, p90, target] = row;
            writeln!(
                f,
                "{what:<0$}  {p50:>1$}  {p10:>2$}  {p90:>3$}  {target}",
                width(0),
                width(1),
                width(2),
                width(3)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
