//! The text below a subcommand's options.

/// Its paragraphs in a line each, for the terminal to break: at the width of the source they would be broken twice.
/// What is a list or an example stays as it is: its lines begin with blanks, but for the first.
pub fn flowed(text: &str) -> String {
    let paragraph = |lines: &str| match lines.lines().skip(1).any(|line| line.starts_with(' ')) {
        true => lines.to_owned(),
        false => lines.lines().collect::<Vec<_>>().join(" "),
    };
    text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::flowed;

    #[test]
    fn paragraphs_flow_and_lists_do_not() {
        let text = "Examples:\n  a\n  b\n\nOne sentence\nof two lines.\n\nLast.";
        assert_eq!(flowed(text), "Examples:\n  a\n  b\n\nOne sentence of two lines.\n\nLast.");
    }
}
