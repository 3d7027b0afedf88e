//! The file of a node that is reserved for a clone: its text, and what to make of it.  Pure.
//!
//! It is to survive a promotion, and a manager that starts every primary as a standby, so neither
//! `standby.signal` nor a timeline is in it.  What voids it is that it was copied: a base backup has a
//! `backup_label`, and a copied file another inode.

use super::sealed_text::{Fields, seal};
use super::whereabouts::{self, COPIED, Found, Home, Verdict};
use crate::pg::durable_file::Place;

/// The secret by which the clone split proves itself.
#[derive(Clone, Copy)]
pub struct Token([u64; Self::WORDS]);

impl Token {
    /// Its size in words.
    pub const WORDS: usize = 16;
    /// How many bytes of text it has at most.
    pub const MOST_BYTES: usize = Self::WORDS * size_of::<u64>();

    /// The token of that text; `None` for one that is empty or too long.
    pub fn of(text: &str) -> Option<Self> {
        Self::of_bytes(text.as_bytes())
    }

    fn of_bytes(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > Self::MOST_BYTES {
            return None;
        }
        // The server's texts have no zero bytes, so those at the end say how long it is.
        let mut bytes = [0; Self::MOST_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        let (words, _) = bytes.as_chunks();
        Some(Self(std::array::from_fn(|at| u64::from_ne_bytes(words[at]))))
    }

    /// As it lies in shared memory.
    pub fn words(self) -> [u64; Self::WORDS] {
        self.0
    }

    /// From there.
    pub fn of_words(words: [u64; Self::WORDS]) -> Self {
        Self(words)
    }

    /// Whether the two are the same.  Takes the same time wherever they differ.
    pub fn is(self, other: Self) -> bool {
        let differ = |seen, (one, two): (&u64, &u64)| std::hint::black_box(seen | (one ^ two));
        self.0.iter().zip(&other.0).fold(0, differ) == 0
    }

    fn to_hex(self) -> String {
        let bytes = self.0.iter().flat_map(|word| word.to_ne_bytes());
        bytes.take_while(|byte| *byte != 0).map(|byte| format!("{byte:02x}")).collect()
    }

    fn of_hex(hex: &str) -> Option<Self> {
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        rest.is_empty().then(|| Self::of_bytes(&bytes?)).flatten()
    }
}

/// Tells nobody.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What the file says.
#[derive(Clone, Debug)]
pub struct Record {
    /// The clone's id.
    pub clone: i32,
    /// The secret.
    pub token: Token,
    /// The data directory's identity when it was written.
    pub system_identifier: u64,
    /// Where the file was written.
    pub home: Home,
}

/// What a start finds out about its data directory.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its identity.
    pub system_identifier: u64,
    /// It is a base backup that was not started yet: `backup_label` is there.
    pub has_backup_label: bool,
    /// Where the file lies.
    pub found: Found,
}

/// What to make of a file.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// The node is reserved.
    Reserved(Record),
    /// Nobody can tell whether it was copied: reserved, to be on the safe side.
    Doubtful(Record, &'static str),
    /// Nobody can tell what it said: reserved, to be on the safe side.
    Damaged(&'static str),
    /// It speaks of another node: not reserved, and the file can go.
    Void(&'static str),
}

const TITLE: &str = "citus_fence reserved node, version 1";

impl Record {
    /// The file's text.
    pub fn to_text(&self) -> String {
        seal(
            TITLE,
            &[
                ("clone", &self.clone),
                ("token", &self.token.to_hex()),
                ("system_identifier", &self.system_identifier),
                ("device", &self.home.place.device),
                ("inode", &self.home.place.inode),
                ("directory", &self.home.directory),
            ],
        )
    }

    /// What the text says, or what is wrong with it.
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields::of(bytes, TITLE)?;
        let record = Self {
            clone: fields.number("clone")?,
            token: Token::of_hex(fields.text("token")?).ok_or("it lacks the token")?,
            system_identifier: fields.number("system_identifier")?,
            home: Home {
                place: Place { device: fields.number("device")?, inode: fields.number("inode")? },
                directory: fields.text("directory")?.to_owned(),
            },
        };
        fields.end()?;
        Ok(record)
    }
}

/// What to make of the file in these surroundings.  To open a node of which nobody can tell whether it is a copy
/// would lose what is written on it.
pub fn judge(bytes: &[u8], here: &Surroundings) -> Judgement {
    if here.has_backup_label {
        return Judgement::Void("this is a base backup of the node that wrote it");
    }
    let record = match Record::parse(bytes) {
        Ok(record) => record,
        Err(what) => return Judgement::Damaged(what),
    };
    if record.system_identifier != here.system_identifier {
        return Judgement::Void("it was written by another server");
    }
    match whereabouts::judge(&record.home, &here.found) {
        Verdict::Same => Judgement::Reserved(record),
        Verdict::Doubtful(why) => Judgement::Doubtful(record, why),
        Verdict::Replaced | Verdict::Copied => Judgement::Void(COPIED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            clone: 7,
            token: Token::of("0123456789abcdef").expect("a token"),
            system_identifier: 7_000_000_000_000_000_001,
            home: Home::new(Place { device: 2049, inode: 131_072 }, DIRECTORY),
        }
    }

    const DIRECTORY: &str = "/var/lib/pg\n data";

    fn home() -> Surroundings {
        let Record { system_identifier, home, .. } = record();
        let found = Found { place: Some(home.place), directory: Some(DIRECTORY.to_owned()) };
        Surroundings { system_identifier, has_backup_label: false, found }
    }

    /// Found elsewhere.
    fn at(place: Option<Place>, directory: Option<&str>) -> Surroundings {
        Surroundings { found: Found { place, directory: directory.map(str::to_owned) }, ..home() }
    }

    fn judged(here: &Surroundings) -> Judgement {
        judge(record().to_text().as_bytes(), here)
    }

    #[test]
    fn at_home_it_counts() {
        let Judgement::Reserved(read) = judged(&home()) else { panic!("{:?}", judged(&home())) };
        assert!((read.clone, &read.home) == (7, &record().home) && read.token.is(record().token));
    }

    #[test]
    fn a_copy_is_void() {
        let place = |device, inode| Some(Place { device, inode });
        for here in [
            Surroundings { has_backup_label: true, ..home() },
            Surroundings { system_identifier: 1, ..home() },
            at(place(2049, 1), Some(DIRECTORY)),
            at(place(1, 1), Some("/elsewhere")),
            at(place(1, 131_072), Some("/elsewhere")),
        ] {
            assert!(matches!(judged(&here), Judgement::Void(_)), "{here:?}");
        }
        let backup = Surroundings { has_backup_label: true, ..home() };
        assert!(matches!(judge(b"", &backup), Judgement::Void(_)));
    }

    #[test]
    fn what_cannot_be_told_stays_reserved() {
        let place = |device| Some(Place { device, inode: 131_072 });
        for here in [
            at(Some(Place { device: 1, inode: 1 }), Some(DIRECTORY)),
            at(place(1), Some(DIRECTORY)),
            at(place(2049), Some("/elsewhere")),
            at(None, Some(DIRECTORY)),
            at(place(2049), None),
        ] {
            assert!(matches!(judged(&here), Judgement::Doubtful(..)), "{here:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_damaged(noise: Vec<u8>) {
            prop_assert!(matches!(judge(&noise, &home()), Judgement::Damaged(_)));
        }

        #[test]
        fn tokens_are_told_apart(one in "[^\0]{0,150}", two in "[^\0]{0,150}") {
            let token = Token::of(&one);
            prop_assert_eq!(token.is_some(), !one.is_empty() && one.len() <= Token::MOST_BYTES);
            if let (Some(token), Some(other)) = (token, Token::of(&two)) {
                prop_assert_eq!(token.is(other), one == two);
            }
            if let Some(token) = token {
                prop_assert!(Token::of_words(token.words()).is(token));
                prop_assert!(Token::of_hex(&token.to_hex()).expect("a token").is(token));
                prop_assert!(!Token::of_words([0; Token::WORDS]).is(token));
            }
        }
    }

    #[test]
    fn a_token_is_shown_to_nobody() {
        assert!(!format!("{:?}", record()).contains("0123"));
    }
}
