//! Two things in turns, so that what else the machine does hits both alike.

use std::thread;
use std::time::Duration;

use test_cluster::{Result, Server};

use crate::figures::Table;
use crate::load::{BOTH, HALF, Load, rate};

/// Pairs of what the first gives and the second.  Which comes first changes from pair to pair (A B B A), so
/// that what drifts is for either as often as against it.
pub fn pairs<S, T>(
    subject: &mut S,
    pairs: usize,
    mut first: impl FnMut(&mut S) -> Result<T>,
    mut second: impl FnMut(&mut S) -> Result<T>,
) -> Result<Vec<(T, T)>> {
    (0..pairs)
        .map(|pair| {
            if pair % 2 == 0 {
                let one = first(subject)?;
                Ok((one, second(subject)?))
            } else {
                let other = second(subject)?;
                Ok((first(subject)?, other))
            }
        })
        .collect()
}

/// The first by the second, of such pairs.
pub fn ratios<S>(
    subject: &mut S,
    count: usize,
    first: impl FnMut(&mut S) -> Result<f64>,
    second: impl FnMut(&mut S) -> Result<f64>,
) -> Result<Vec<f64>> {
    let pairs = pairs(subject, count, first, second)?;
    Ok(pairs.into_iter().map(|(first, second)| first / second).collect())
}

/// The same of one time that both of a pair have.
pub fn ratios_of<T>(pairs: &[(T, T)], time: impl Fn(&T) -> Duration) -> Vec<f64> {
    pairs
        .iter()
        .map(|(first, second)| time(first).as_secs_f64() / time(second).as_secs_f64())
        .collect()
}

/// Ratios of the rates of two servers.
#[derive(Default)]
pub struct Rates {
    /// Each had the machine for itself.
    pub in_turns: Vec<f64>,
    /// Both ran at the same time: what else disturbs the machine then disturbs both.
    pub together: Vec<f64>,
}

impl Rates {
    /// Takes so many pairs more.
    pub fn take(
        &mut self,
        load: Load,
        (first, second): (&Server, &Server),
        pairs: usize,
        seconds: &str,
    ) -> Result<()> {
        self.in_turns.extend(ratios(
            &mut (),
            pairs,
            |()| rate(first, load, seconds, BOTH),
            |()| rate(second, load, seconds, BOTH),
        )?);
        for _ in 0..pairs {
            self.together.push(thread::scope(|scope| -> Result<f64> {
                let other = scope.spawn(|| rate(second, load, seconds, HALF));
                Ok(rate(first, load, seconds, HALF)? / other.join().expect("no panic")?)
            })?);
        }
        Ok(())
    }

    /// Writes both into the table.
    pub fn show(self, what: &str, target: &str, table: &mut Table) {
        table.interval(&format!("{what}, in turns"), self.in_turns, target);
        table.interval(&format!("{what}, at the same time"), self.together, target);
    }
}

#[cfg(test)]
mod tests {
    use super::ratios;

    #[test]
    fn turns_change_from_pair_to_pair() {
        let mut order = String::new();
        let ratios = ratios(
            &mut order,
            3,
            |order| {
                order.push('A');
                Ok(3.0)
            },
            |order| {
                order.push('B');
                Ok(2.0)
            },
        );
        assert_eq!(ratios.expect("ratios"), [1.5, 1.5, 1.5]);
        assert_eq!(order, "ABBAAB");
    }
}
