//! The exit codes, in one place: `--help` and the tests read them from here.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done,
    /// It is not done, and nothing of the attempt is left behind.
    Failed,
    /// The command line asks for nothing that can be done.
    WrongUse,
    /// It is done, and something was found that a human has to look at.
    Findings,
    /// What a command ended with that was run under a block; or 125 to 128 and above, as a shell has them.
    Of(u8),
}

impl Exit {
    /// All of the program's own, in the order of their codes.
    pub const ALL: [Exit; 4] = [Exit::Done, Exit::Failed, Exit::WrongUse, Exit::Findings];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WrongUse => 2,
            Exit::Findings => 3,
            Exit::Of(code) => code,
        }
    }

    /// What it means, for `--help` and the page.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed, with nothing left behind",
            Exit::WrongUse => "wrong use",
            Exit::Findings => "done, with findings that need a look",
            Exit::Of(_) => "as the command ended",
        }
    }

    /// The list of them, a line each.
    pub fn list() -> String {
        Exit::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.meaning())).join("\n")
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_code() {
        let page = include_str!("../../docs/command.md");
        for exit in Exit::ALL {
            let line = format!("| {} | {}", exit.code(), exit.meaning());
            assert!(page.contains(&line), "docs/command.md lacks: {line}");
        }
    }

    #[test]
    fn no_code_is_used_twice() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 3]);
    }
}
