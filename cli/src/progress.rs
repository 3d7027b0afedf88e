//! How far something has come: a bar where standard error is a terminal, a line now and then where it is not.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;
use crate::units::{size, spell};

/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// After how long without a byte that is told instead of an estimate.
const STANDS_STILL: Duration = Duration::from_secs(10);
/// How much of a bar may be full before the end: what is to be done is estimated.
const ALMOST: f64 = 0.99;

/// Something under way, counted in bytes.
pub struct Progress {
    shown: Shown,
    what: &'static str,
    /// None where it is not known how much there is.
    total: Option<u64>,
    began: Instant,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { next: Instant, output: Output, last: u64, grew: Instant },
}

impl Progress {
    /// Begins; with `--quiet` and `--json` nothing is shown.
    pub fn begin(output: &Output, what: &'static str, total: Option<u64>) -> Progress {
        let began = Instant::now();
        let shown = match (output.tells_people(), std::io::stderr().is_terminal()) {
            (false, _) => Shown::Nothing,
            (true, true) => Shown::Bar(bar(what, total)),
            (true, false) => {
                Shown::Lines { next: began + LINE_EVERY, output: *output, last: 0, grew: began }
            }
        };
        Progress { shown, what, total, began }
    }

    /// So much has been done, and so many files are left, where somebody counts them.
    pub fn at(&mut self, bytes: u64, left: impl Into<Option<usize>>) {
        let what = match left.into() {
            Some(left) => format!("{}, {left} files left", self.what),
            None => self.what.to_owned(),
        };
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_message(what);
                bar.set_position(self.total.map_or(bytes, |all| bytes.min(all)));
            }
            Shown::Lines { next, output, last, grew } => {
                let now = Instant::now();
                if bytes != *last {
                    (*last, *grew) = (bytes, now);
                }
                if now >= *next {
                    *next = now + LINE_EVERY;
                    output.progress(&match now - *grew > STANDS_STILL {
                        true => format!(
                            "{what}: {}, and nothing more for {}",
                            size(bytes),
                            spell(now - *grew)
                        ),
                        false => line(&what, bytes, self.total, now - self.began),
                    });
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{msg} {spinner} {bytes}, {bytes_per_sec}, for {elapsed}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    // The templates are constants that the library accepts.
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

/// A line, with the time left as far as it can be told.
fn line(what: &str, bytes: u64, total: Option<u64>, since: Duration) -> String {
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{what}: {}, for {}", size(bytes), spell(since));
    };
    let share = (bytes as f64 / total as f64).min(ALMOST);
    let left = match share > 0.01 && bytes <= total {
        true => format!(", {} left", spell(since.mul_f64((1.0 - share) / share))),
        false => String::new(),
    };
    format!("{what}: {} of {} ({:.0} %){left}", size(bytes), size(total), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long_yet() {
        let minute = Duration::from_secs(60);
        let text = line("copying", 25 << 20, Some(100 << 20), minute);
        assert!(text.starts_with("copying: ") && text.contains("(25 %)"), "{text}");
        assert!(text.ends_with(&format!("{} left", spell(3 * minute))), "{text}");
        // An estimate that was too low is no reason to say that it is done.
        assert!(line("copying", 9, Some(3), minute).contains("(99 %)"));
        assert!(!line("copying", 0, Some(3), minute).contains("left"));
        assert!(!line("copying", 9, Some(3), minute).contains("left"));
        assert!(!line("copying", 5, None, minute).contains('%'));
    }
}
