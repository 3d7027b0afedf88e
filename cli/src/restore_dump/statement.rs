//! Which statement of pg_dump's psql has failed at, by the line that psql names: its last one.

/// A statement of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is of, as the lines before it say: `INDEX public.a`.
    pub object: Option<String>,
    /// The line where it begins, from 1.
    pub line: usize,
    /// That line.
    pub first: String,
}

/// Where psql says that an error is: its file, and the line. Its words are `psql:FILE:LINE: ERROR:  …`.
pub fn place_of(said: &str) -> Option<(&str, usize)> {
    let line = said.lines().find(|line| line.starts_with("psql:") && line.contains(": ERROR:"))?;
    let (place, _) = line.strip_prefix("psql:")?.split_once(": ERROR:")?;
    let (file, line) = place.rsplit_once(':')?;
    Some((file, line.parse().ok()?))
}

/// The statement that a line is in.
pub fn at_line(text: &str, line: usize) -> Option<Place> {
    let (from, _) = statements(text).into_iter().find(|(_, to)| *to >= line)?;
    let lines: Vec<&str> = text.lines().collect();
    let object = lines.get(..from - 1)?.iter().rev().find_map(|line| title(line));
    Some(Place { object, line: from, first: (*lines.get(from - 1)?).to_owned() })
}

/// What an entry is of, by pg_dump's line: `-- Name: a; Type: INDEX; Schema: public; Owner: x`.
fn title(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("-- Name: ")?.rsplit_once("; Type: ")?;
    let (kind, rest) = rest.split_once("; Schema: ")?;
    let schema = rest.split_once("; ").map_or(rest, |(schema, _)| schema);
    Some(match schema {
        "-" => format!("{kind} {name}"),
        schema => format!("{kind} {schema}.{name}"),
    })
}

/// The first and the last line of every statement, as psql takes them apart: quotes, comments, parentheses and bodies
/// of functions may have semicolons that end nothing.
fn statements(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut line, mut begun) = (1, None);
    let (mut depth, mut blocks) = (0_u32, 0_u32);
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let taken = token(rest);
        let (word, after) = rest.split_at(taken);
        let lines = word.matches('\n').count();
        let is_comment = word.starts_with("--") || word.starts_with("/*");
        // A command of psql's own is a line.
        let is_command = begun.is_none() && letter == '\\';
        if !letter.is_whitespace() && !is_comment && !is_command {
            begun.get_or_insert(line);
            if letter.is_ascii_alphabetic() {
                let word = word.to_ascii_uppercase();
                let makes_function = words.first().is_some_and(|first| first == "CREATE")
                    && words.iter().any(|word| word == "FUNCTION" || word == "PROCEDURE");
                match word.as_str() {
                    "BEGIN" if makes_function => blocks += 1,
                    "CASE" if blocks > 0 => blocks += 1,
                    "END" => blocks = blocks.saturating_sub(1),
                    _ => {}
                }
                if words.len() < 4 {
                    words.push(word);
                }
            }
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ';' if depth == 0 && blocks == 0 => {
                    found.push((begun.take().unwrap_or(line), line));
                    words.clear();
                }
                _ => {}
            }
        }
        line += lines;
        rest = match is_command {
            true => rest.find('\n').map_or("", |end| &rest[end..]),
            false => after,
        };
    }
    if let Some(begun) = begun {
        found.push((begun, line));
    }
    found
}

/// The length of the token that a text begins with.
pub fn token(text: &str) -> usize {
    let to = |end: &str, from: usize| {
        text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
    };
    let letter = text.chars().next().unwrap_or(' ');
    match letter {
        '\'' | '"' => to(&letter.to_string(), 1),
        'E' | 'e' if text[1..].starts_with('\'') => escaped(text),
        '-' if text.starts_with("--") => to("\n", 2).saturating_sub(1).max(2),
        '/' if text.starts_with("/*") => to("*/", 2),
        '$' => {
            let tag = text[1..].find(|c: char| !c.is_alphanumeric() && c != '_');
            match tag {
                Some(end) if text[1 + end..].starts_with('$') => {
                    let tag = &text[..end + 2];
                    to(tag, tag.len())
                }
                _ => 1,
            }
        }
        letter if letter.is_alphabetic() || letter == '_' => {
            text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(text.len())
        }
        letter => letter.len_utf8(),
    }
}

/// The length of a text `E'…'`.
fn escaped(text: &str) -> usize {
    let mut letters = text.char_indices().skip(2);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            '\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
\\restrict a;b

SET a = 1;

--
-- Name: f(integer); Type: FUNCTION; Schema: s; Owner: x
--

CREATE FUNCTION s.f(a int) RETURNS int
    LANGUAGE sql
    AS $_$
SELECT ';';
-- Name: no; Type: X; Schema: y; Owner: z
$_$;


ALTER FUNCTION s.f(a int) OWNER TO x;

--
-- Name: g(); Type: FUNCTION; Schema: s; Owner: x
--

CREATE FUNCTION s.g() RETURNS int
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT CASE WHEN true THEN 1 END;
 SELECT 2;
END;

--
-- Name: t r; Type: RULE; Schema: s; Owner: x
--

CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u;
 DELETE FROM v WHERE a = E'\\';(''' OR b = 'it''s;');

--
-- Name: e; Type: EVENT TRIGGER; Schema: -; Owner: x
--

CREATE EVENT TRIGGER e";

    #[test]
    fn a_line_leads_to_its_statement_and_to_what_that_is_of() {
        let at = |line| {
            let place = at_line(TEXT, line).expect("a statement");
            (place.object.unwrap_or_default(), place.line, place.first)
        };
        let of = |object: &str, line, first: &str| (object.to_owned(), line, first.to_owned());
        assert_eq!(at(3), of("", 3, "SET a = 1;"));
        let f = "CREATE FUNCTION s.f(a int) RETURNS int";
        assert_eq!(at(9).1, 9);
        assert_eq!((at(14).1, at(14).2), (9, f.to_owned()));
        assert_eq!(at(17).2, "ALTER FUNCTION s.f(a int) OWNER TO x;");
        assert_eq!(at(28), of("FUNCTION s.g()", 23, "CREATE FUNCTION s.g() RETURNS int"));
        assert_eq!(at(35).0, "RULE s.t r");
        assert_eq!(at(35).1, 34);
        assert_eq!(at(41), of("EVENT TRIGGER e", 41, "CREATE EVENT TRIGGER e"));
        assert_eq!(at_line(TEXT, 99), None);
    }

    #[test]
    fn psql_says_where() {
        let said = "psql:/a:b/c:7: NOTICE:  x\npsql:/a:b/c:12: ERROR:  no\nLINE 1: x\n";
        assert_eq!(place_of(said), Some(("/a:b/c", 12)));
        assert_eq!(place_of("psql: error: could not connect"), None);
    }
}
