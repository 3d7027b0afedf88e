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

impl Table {
    /// Ratios of pairs, with the interval that holds their true median 19 times of 20, whatever their
    /// distribution is.
    pub fn interval(&mut self, what: &str, mut ratios: Vec<f64>, target: &str) {
        ratios.sort_by(f64::total_cmp);
        let rank = rank_of_interval(ratios.len());
        let at = |rank: usize| ratios.get(rank).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(rank), at(ratios.len().wrapping_sub(1 + rank)));
        self.rows.push([
            format!("{what} (95 % interval of the median: {low:.4} to {high:.4})"),
            format!("{:.4}", quantile(&ratios, 0.5)),
            format!("{:.4}", quantile(&ratios, 0.1)),
            format!("{:.4}", quantile(&ratios, 0.9)),
            target.to_owned(),
        ]);
    }

    /// Instructions of two that were counted, or that there is nothing to count them with.
    pub fn counts(&mut self, what: &str, counts: (Option<f64>, Option<f64>)) {
        match counts {
            (Some(first), Some(second)) => {
                self.note(what, &format!("{first:.0} / {second:.0} = {:.4}", first / second));
            }
            _ => self.note(what, "needs valgrind"),
        }
    }

    /// A figure that stands for itself.
    pub fn note(&mut self, what: &str, value: &str) {
        let nothing = String::new;
        self.rows.push([format!("{what}: {value}"), nothing(), nothing(), nothing(), nothing()]);
    }
}

/// How many of so many sorted values lie outside of the 95 % interval of the median, on either side: the
/// chance that as many or fewer lie below the true median is a coin's. With less than six values there is
/// no such interval, and the answer is all of their range.
fn rank_of_interval(count: usize) -> usize {
    let mut chance = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = chance;
    let mut rank = 0;
    while sum <= 0.025 && rank < count / 2 {
        // From the chance of `rank` heads to that of one more.
        chance *= (count - rank) as f64 / (rank + 1) as f64;
        sum += chance;
        if sum <= 0.025 {
            rank += 1;
        } else {
            break;
        }
    }
    rank
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
    use super::{quantile, rank_of_interval};

    #[test]
    fn intervals_of_the_median() {
        // The well-known ranks, counted from nought.
        assert_eq!(rank_of_interval(5), 0);
        assert_eq!(rank_of_interval(6), 0);
        assert_eq!(rank_of_interval(10), 1);
        assert_eq!(rank_of_interval(20), 5);
        assert_eq!(rank_of_interval(50), 17);
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
