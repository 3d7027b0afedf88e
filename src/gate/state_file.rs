//! The file that a read-only node finds after a restart: its text, and what to make of it.  Pure.

use super::sealed_text::{Fields, seal};

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The data directory's identity when it was written.
    pub system_identifier: u64,
    /// Its timeline.
    pub timeline: u32,
    /// No commit has a later position.
    pub lsn: u64,
    /// When, in microseconds as `timestamptz` counts them.
    pub since: i64,
}

/// What a start finds out about its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Its identity.
    pub system_identifier: u64,
    /// The timeline that it was last on.
    pub timeline: u32,
    /// It is a restored base backup, or starts as a standby or into a recovery to some point: a file that
    /// says so is there.
    pub is_copy: bool,
}

/// What to make of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The node is read-only.
    ReadOnly(Record),
    /// It speaks of another server: not read-only, and the file can go.
    Void(&'static str),
    /// Nobody can tell what it said: read-only, to be on the safe side.
    Damaged(&'static str),
}

const TITLE: &str = "citus_fence read-only node, version 1";

impl Record {
    /// The file's text.
    pub fn to_text(self) -> String {
        seal(
            TITLE,
            &[
                ("system_identifier", &self.system_identifier),
                ("timeline", &self.timeline),
                ("lsn", &self.lsn),
                ("since", &self.since),
            ],
        )
    }

    /// What the text says, or what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields::of(bytes, TITLE)?;
        let record = Self {
            system_identifier: fields.number("system_identifier")?,
            timeline: fields.number("timeline")?,
            lsn: fields.number("lsn")?,
            since: fields.number("since")?,
        };
        fields.end()?;
        Ok(record)
    }
}

/// What to make of the file in these surroundings.  A copy's file is void whatever is in it.
pub fn judge(bytes: &[u8], here: Surroundings) -> Judgement {
    if here.is_copy {
        return Judgement::Void("this is a base backup or a standby of the server that wrote it");
    }
    match Record::parse(bytes) {
        Err(what) => Judgement::Damaged(what),
        Ok(record) if record.system_identifier != here.system_identifier => {
            Judgement::Void("it was written by another server")
        }
        Ok(record) if record.timeline != here.timeline => {
            Judgement::Void("it was written on another timeline")
        }
        Ok(record) => Judgement::ReadOnly(record),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORD: Record =
        Record { system_identifier: 7_000_000_000_000_000_001, timeline: 3, lsn: 42, since: -5 };
    const HOME: Surroundings = Surroundings {
        system_identifier: RECORD.system_identifier,
        timeline: RECORD.timeline,
        is_copy: false,
    };

    #[test]
    fn at_home_it_counts() {
        assert_eq!(judge(RECORD.to_text().as_bytes(), HOME), Judgement::ReadOnly(RECORD));
    }

    #[test]
    fn elsewhere_it_is_void() {
        let text = RECORD.to_text();
        for here in [
            Surroundings { system_identifier: 1, ..HOME },
            Surroundings { timeline: 4, ..HOME },
            Surroundings { timeline: 2, ..HOME },
            Surroundings { is_copy: true, ..HOME },
        ] {
            assert!(matches!(judge(text.as_bytes(), here), Judgement::Void(_)), "{here:?}");
        }
    }

    #[test]
    fn a_copy_is_not_read_only_even_by_a_damaged_file() {
        let here = Surroundings { is_copy: true, ..HOME };
        assert!(matches!(judge(b"", here), Judgement::Void(_)));
    }

    fn record() -> impl Strategy<Value = Record> {
        (any::<u64>(), any::<u32>(), any::<u64>(), any::<i64>()).prop_map(
            |(system_identifier, timeline, lsn, since)| Record {
                system_identifier,
                timeline,
                lsn,
                since,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(Record::parse(record.to_text().as_bytes()), Ok(record));
        }

        #[test]
        fn a_cut_file_is_damaged(record in record(), keep in 0.0..1.0f64) {
            let text = record.to_text();
            let keep = (text.len() as f64 * keep) as usize;
            prop_assert!(Record::parse(&text.as_bytes()[..keep]).is_err());
        }

        #[test]
        fn a_changed_byte_is_damage(record in record(), place: prop::sample::Index, flip in 1u8..) {
            let mut bytes = record.to_text().into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            prop_assert!(Record::parse(&bytes).is_err());
        }

        #[test]
        fn noise_is_damaged(noise: Vec<u8>) {
            prop_assert!(matches!(judge(&noise, HOME), Judgement::Damaged(_)));
        }
    }
}
