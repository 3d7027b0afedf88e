//! From words to a command line; and words that are no use, told without the secrets in them.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::{self, Output};

/// What stands in the place of a word that may hold a secret.
const HIDDEN: &str = "****";

/// Reads the words. Help and version are printed here, and wrong use is told here: then the
/// program ends with that code.
pub fn parse(words: &[OsString]) -> Result<Cli, Exit> {
    let error = match Cli::try_parse_from(words) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match output::print(&error.render().to_string()) {
                Ok(()) => Err(Exit::Done),
                Err(_) => Err(Exit::Failed),
            }
        }
        _ => {
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            let text = masked(&error.render().to_string(), words.iter().map(AsRef::as_ref));
            // The command line could not be read, but this much of it can.
            let json = words.iter().any(|word| word == "--json");
            Output::new(json, false).wrong_use(&text);
            Err(Exit::WrongUse)
        }
    }
}

/// clap repeats words it does not understand: not those that look like connection strings, as
/// what people try first is `citus-fence status postgresql://me:secret@host/db`.
fn masked<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> String {
    let mut secrets: Vec<&str> = words
        .filter(|word| looks_secret(word))
        .flat_map(|word| {
            // clap may name what stands after the equals sign alone, or what follows a short option.
            let value = word.split_once('=').map(|(_, value)| value);
            let short = word.strip_prefix('-').and_then(|rest| rest.get(1..));
            [Some(word), value, short]
        })
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    // The longest first: a part must not be taken out of the middle of a whole.
    secrets.sort_by_key(|part| std::cmp::Reverse(part.len()));
    secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
}

/// Whether a word may be, or hold, a connection string with a password.
fn looks_secret(word: &str) -> bool {
    if word.starts_with("--") && !word.contains('=') {
        // The name of an option.
        return false;
    }
    let word = word.to_ascii_lowercase();
    word.contains("://") || ["password", "secret", "key"].iter().any(|part| word.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(words: &[&str]) -> String {
        let error = Cli::try_parse_from(words).expect_err("words that are no use");
        masked(&error.render().to_string(), words.iter().copied())
    }

    #[test]
    fn words_that_may_hold_a_secret_are_not_repeated() {
        for words in [
            ["citus-fence", "status", "postgresql://me:hunter2@h/db"],
            ["citus-fence", "status", "password=hunter2"],
            ["citus-fence", "status", "--password=hunter2"],
            ["citus-fence", "status", "--connect-timeout=postgres://a:hunter2@h"],
            ["citus-fence", "status", "-ppassword=hunter2"],
            ["citus-fence", "postgresql://me:hunter2@h/db", "status"],
        ] {
            let text = complaint(&words);
            assert!(!text.contains("hunter2"), "{words:?}: {text}");
        }
    }

    #[test]
    fn other_words_are() {
        let text = complaint(&["citus-fence", "status", "--no-pasword"]);
        assert!(text.contains("'--no-pasword'") && text.contains("'--no-password'"), "{text}");
        let text = complaint(&["citus-fence", "statsu"]);
        assert!(text.contains("statsu") && text.contains("status"), "{text}");
        let text = complaint(&["citus-fence", "status", "--connect-timeout", "10"]);
        assert!(text.contains("'10'") && text.contains("lacks a unit"), "{text}");
    }
}
