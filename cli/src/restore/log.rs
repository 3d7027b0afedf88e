//! What is told of a server's log: what it complains of, and what to do about it. Its messages are in English, as its
//! configuration here says.

/// How many lines are told.
const MOST: usize = 8;
/// How many of them are those of others than the server, such as a restore_command.
const MOST_OF_OTHERS: usize = 3;

/// The lines in which it says why it does not go on; and the last words of whatever else has written there.
pub fn complaints(log: &str) -> Vec<String> {
    let of_server = |line: &&str| {
        [" FATAL: ", " PANIC: ", " ERROR: ", "HINT: ", "DETAIL: "]
            .iter()
            .any(|level| line.contains(level))
    };
    // The server's own begin with the time.
    let of_others = |line: &&str| {
        !line.starts_with(|c: char| c.is_ascii_digit() || c.is_whitespace()) && !line.is_empty()
    };
    let last = |lines: Vec<&str>, most: usize| -> Vec<String> {
        lines[lines.len().saturating_sub(most)..].iter().map(|line| (*line).to_owned()).collect()
    };
    let mut lines = last(log.lines().filter(of_others).collect(), MOST_OF_OTHERS);
    lines.extend(last(log.lines().filter(of_server).collect(), MOST - lines.len()));
    if lines.is_empty() {
        lines = last(log.lines().collect(), MOST_OF_OTHERS);
    }
    lines
}

/// What can be done about what it says.
pub fn what_to_do(log: &str) -> &'static str {
    let known = [
        (
            "resource manager with ID",
            "Name the library that this WAL needs with --preload, and run the same command again.",
        ),
        (
            "No space left on device",
            "Make room there, and run the same command again: it goes on from where it was.",
        ),
        (
            "could not access file",
            "Install what is missing into the PostgreSQL of --bindir, and run the same command again.",
        ),
        (
            "WAL ends before end of online backup",
            "The copy lacks WAL that it needs: name an archive with --restore-command, or take another copy.",
        ),
        (
            "could not locate required checkpoint record",
            "The copy lacks WAL that it needs: name an archive with --restore-command, or take another copy.",
        ),
        (
            "could not map anonymous shared memory",
            "Give the machine more memory, or stop what takes it, and run the same command again.",
        ),
    ];
    let found = known.into_iter().find(|(words, _)| log.contains(words));
    found.map_or(
        "Mend what it says, and run the same command again: it goes on from where it was.",
        |(_, todo)| todo,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_are_complaints_and_the_words_of_others() {
        let log = "2031-01-01 00:00:00.000 UTC [1] LOG:  starting\n\
                   cp: cannot stat '/archive/0001': No such file or directory\n\
                   2031-01-01 00:00:00.000 UTC [1] FATAL:  recovery ended before configured recovery target was reached\n\
                   2031-01-01 00:00:00.000 UTC [1] LOG:  startup process (PID 2) exited with exit code 1\n";
        let lines = complaints(log);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("cp: ") && lines[1].contains("FATAL"), "{lines:?}");
        assert_eq!(complaints("one\ntwo\n"), ["one", "two"]);
        let many = "x FATAL: y\n".repeat(100);
        assert!(complaints(&many).len() <= MOST);
        assert!(complaints("").is_empty());
    }

    #[test]
    fn a_known_complaint_has_its_own_answer() {
        assert!(
            what_to_do("FATAL: resource manager with ID 128 not registered").contains("--preload")
        );
        assert!(what_to_do("x").contains("the same command again"));
    }
}
