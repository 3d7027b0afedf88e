//! What whoever watches sees: plain lines on standard output, and, only where standard error is a
//! terminal, a moving last line that tells what is going on.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

pub struct Console {
    begun: Instant,
    /// Draws nothing unless standard error is a terminal.
    activity: ProgressBar,
    /// Whether the last line is empty.
    is_apart: Cell<bool>,
}

impl Console {
    pub fn new() -> Console {
        let style = ProgressStyle::default_spinner();
        let activity = ProgressBar::new_spinner().with_style(
            style.template("        {spinner} {msg} {elapsed}").unwrap_or_else(|_| {
                // The template is a constant that the library accepts; without it the line only
                // looks different.
                ProgressStyle::default_spinner()
            }),
        );
        activity.enable_steady_tick(TICK);
        Console { begun: Instant::now(), activity, is_apart: Cell::new(false) }
    }

    /// A line with the time since the start in front.
    pub fn say(&self, line: impl AsRef<str>) {
        let at = self.begun.elapsed().as_secs_f64();
        self.plain(format!("{at:5.1} s  {}", line.as_ref()));
    }

    /// Lines as they are.
    pub fn plain(&self, text: impl AsRef<str>) {
        self.activity.suspend(|| println!("{}", text.as_ref()));
        self.is_apart.set(false);
    }

    /// Lines with an empty one before and one behind them.
    pub fn block(&self, text: impl AsRef<str>) {
        if !self.is_apart.get() {
            self.plain("");
        }
        self.plain(format!("{}\n", text.as_ref().trim_end()));
        self.is_apart.set(true);
    }

    /// The start of a part.
    pub fn heading(&self, text: &str) {
        if !self.is_apart.get() {
            self.plain("");
        }
        self.plain(format!("== {text}"));
    }

    /// What the moving line says from now on.
    pub fn busy(&self, doing: impl Into<String>) {
        self.activity.reset_elapsed();
        self.activity.set_message(doing.into());
    }

    /// No moving line any more.
    pub fn quiet(&self) {
        self.activity.finish_and_clear();
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.quiet();
    }
}
