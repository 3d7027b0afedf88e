//! pg_dump's files in entries, and their statements in words, as far as it takes to find the names in them.

use super::statement::token;
use crate::dump::Name;

/// Where an entry begins.
const ENTRY: &str = "--\n-- Name: ";

/// Where entries begin. A comment or a function may have such lines too, within its quotes.
pub fn starts(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut at, mut is_line) = (0, true);
    while at < text.len() {
        let rest = &text[at..];
        if is_line && rest.starts_with(ENTRY) {
            let header = rest[ENTRY.len()..].split_once('\n');
            if header.is_some_and(|(_, after)| after.starts_with("--\n")) {
                found.push(at);
            }
        }
        let length = match is_line && rest.starts_with('\\') {
            // A command of psql's own is a line.
            true => rest.find('\n').unwrap_or(rest.len()),
            false => token(rest),
        };
        is_line = rest[..length].ends_with('\n');
        at += length;
    }
    found
}

/// A word of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Without quotes, in lower case.
    Plain(String),
    /// A name in double quotes, without them.
    Quoted(String),
    Sign(char),
    /// A text, a body, or a name that is none.
    Other,
}

/// A statement of an entry, and where it is.
pub struct Statement {
    pub words: Vec<Word>,
    pub from: usize,
    pub to: usize,
}

/// The statements of an entry. A body without quotes (`BEGIN ATOMIC`) is parted too, behind the words that count.
pub fn statements(text: &str, is_bytes: bool) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut open: Option<Statement> = None;
    let (mut at, mut depth) = (0, 0_u32);
    while let Some(letter) = text[at..].chars().next() {
        let word = &text[at..at + token(&text[at..])];
        let from = at;
        at += word.len();
        if letter.is_whitespace() || word.starts_with("--") || word.starts_with("/*") {
            continue;
        }
        let open_one = open.get_or_insert_with(|| Statement { words: Vec::new(), from, to: from });
        open_one.to = at;
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => {
                found.extend(open.take());
                continue;
            }
            _ => {}
        }
        open_one.words.push(match letter {
            '"' => name_in_quotes(word, is_bytes).map_or(Word::Other, Word::Quoted),
            '\'' | '$' => Word::Other,
            'E' | 'e' if word.ends_with('\'') => Word::Other,
            letter if letter.is_alphabetic() || letter == '_' => decoded(word, is_bytes, false)
                .map_or(Word::Other, |word| Word::Plain(word.to_ascii_lowercase())),
            letter => Word::Sign(letter),
        });
        // Two double quotes within a name: the name goes on.
        if let [.., Word::Quoted(before), Word::Quoted(after)] = open_one.words.as_mut_slice()
            && text[..from].ends_with('"')
        {
            before.push('"');
            before.push_str(after);
            open_one.words.pop();
        }
    }
    found.extend(open);
    found
}

fn name_in_quotes(word: &str, is_bytes: bool) -> Option<String> {
    let inner = word.strip_prefix('"')?.strip_suffix('"')?;
    decoded(inner, is_bytes, false)
}

/// A text whose letters may each stand for a byte.
pub fn decoded(text: &str, is_bytes: bool, is_lossy: bool) -> Option<String> {
    if !is_bytes {
        return Some(text.to_owned());
    }
    let bytes: Vec<u8> = text.chars().filter_map(|letter| u8::try_from(letter).ok()).collect();
    match is_lossy {
        true => Some(String::from_utf8_lossy(&bytes).into_owned()),
        false => String::from_utf8(bytes).ok(),
    }
}

/// The parts of a name as the server writes it: `shop."Or.ders"`.
pub fn name_parts(text: &str) -> Option<Vec<String>> {
    let statements = statements(text, false);
    let mut words = Reader::of(&statements.first()?.words);
    let parts = words.parts()?;
    (words.at == words.words.len()).then_some(parts)
}

/// Reads words.
pub struct Reader<'a> {
    pub words: &'a [Word],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn of(words: &'a [Word]) -> Reader<'a> {
        Reader { words, at: 0 }
    }

    pub fn next_is(&self, sign: char) -> bool {
        self.words.get(self.at) == Some(&Word::Sign(sign))
    }

    /// Passes over these words if they come next.
    pub fn takes(&mut self, words: &str) -> bool {
        let begun = self.at;
        for word in words.split(' ') {
            if self.words.get(self.at) != Some(&Word::Plain(word.to_owned())) {
                self.at = begun;
                return false;
            }
            self.at += 1;
        }
        true
    }

    /// The same where they must come.
    pub fn needs(&mut self, words: &str) -> Option<()> {
        self.takes(words).then_some(())
    }

    /// Passes over whatever comes before these words, outside of parentheses, and over them.
    pub fn seeks(&mut self, words: &str) -> Option<()> {
        let mut depth = 0_u32;
        while self.at < self.words.len() {
            if depth == 0 && self.takes(words) {
                return Some(());
            }
            match self.words[self.at] {
                Word::Sign('(') => depth += 1,
                Word::Sign(')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
        None
    }

    /// One part of a name.
    pub fn part(&mut self) -> Option<String> {
        let (Word::Plain(part) | Word::Quoted(part)) = self.words.get(self.at)? else {
            return None;
        };
        self.at += 1;
        Some(part.clone())
    }

    /// All parts of a name.
    pub fn parts(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![self.part()?];
        while self.next_is('.') {
            self.at += 1;
            parts.push(self.part()?);
        }
        Some(parts)
    }

    /// A name with its schema.
    pub fn name(&mut self) -> Option<Name> {
        let [schema, name] = <[String; 2]>::try_from(self.parts()?).ok()?;
        Some(Name { schema, name })
    }

    /// The name of a column's relation.
    pub fn column(&mut self) -> Option<Name> {
        let [schema, name, _] = <[String; 3]>::try_from(self.parts()?).ok()?;
        Some(Name { schema, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, sql: &str) -> String {
        format!("--\n-- Name: x; Type: {kind}; Schema: s; Owner: x\n--\n\n{sql}\n\n")
    }

    #[test]
    fn a_line_within_quotes_begins_no_entry() {
        let line = "\n--\n-- Name: z; Type: INDEX; Schema: a; Owner: b\n--\n";
        let comment = format!("COMMENT ON TABLE s.t IS 'a{line}';");
        let comment = entry("COMMENT", &comment);
        let body = entry("FUNCTION", &format!("CREATE FUNCTION s.f() AS $_${line}$_$;"));
        let table = entry("TABLE", "CREATE TABLE s.t ();");
        let text = format!("\\restrict a'b\n\n{comment}{body}{table}");
        let found = starts(&text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(text[found[1]..].starts_with(&body) && text[found[2]..].starts_with(&table));
    }

    #[test]
    fn names_are_taken_apart_as_the_server_writes_them() {
        for (text, parts) in [
            ("shop.orders", &["shop", "orders"][..]),
            (r#""a.b"."c""d""#, &["a.b", "c\"d"]),
            (r#""e""""#, &["e\""]),
        ] {
            assert_eq!(
                name_parts(text).as_deref(),
                Some(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>()[..])
            );
        }
        assert_eq!(name_parts("a.b c"), None);
    }
}
