//! The file that a read-only node finds after a restart: its text, and what to make of it.  Pure.
//!
//! A manager (Patroni, CloudNativePG and others) starts every primary as a standby and promotes it, so neither
//! `standby.signal` nor a new timeline means that the node is another one.  It stays read-only until it is seen
//! to have replayed WAL that it had not written: then another server has written since, and this one carries on
//! from there ([`Stay::is_over`]).

use super::sealed_text::{Fields, seal};
use super::whereabouts::{self, COPIED, Found, Home, Verdict};
use crate::pg::durable_file::Place;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The data directory's identity when it was written.
    pub system_identifier: u64,
    /// The timeline that the node writes, or wrote last.
    pub timeline: u32,
    /// No commit has a later position.
    pub lsn: u64,
    /// When, in microseconds as `timestamptz` counts them.
    pub since: i64,
    /// It was switched together with all other nodes of its cluster.
    pub with_cluster: bool,
    /// Where its own WAL ends, if it was stopped in order and starts as a standby since; 0 where nobody knows.
    pub own_end: u64,
    /// Where the file was written; the first version did not say.
    pub home: Option<Home>,
}

/// How the server was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// In order, while it took writes: where its WAL ends.
    InOrder(u64),
    /// In recovery, in order or not.
    InRecovery,
    /// In any other way.
    Other,
}

/// What a start finds out about its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Its identity.
    pub system_identifier: u64,
    /// The timeline that it was last on.
    pub timeline: u32,
    /// It is a base backup that was not started yet: `backup_label` is there.
    pub has_backup_label: bool,
    /// It starts as a standby, or into a recovery to some point: a file that says so is there.
    pub recovers: bool,
    /// How it ended.
    pub last_stop: LastStop,
    /// Where the file lies.
    pub found: Found,
}

/// What to make of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The node is read-only.
    ReadOnly {
        /// What the file has to say from now on.
        record: Record,
        /// It says so only until the node is seen to carry on from another server's WAL.
        stay: Option<Stay>,
        /// Why nobody can tell whether it speaks of this node; then it does, to be on the safe side.
        doubt: Option<&'static str>,
    },
    /// It speaks of another server: not read-only, and the file can go.
    Void(&'static str),
    /// Nobody can tell what it said: read-only, to be on the safe side.
    Damaged(&'static str),
}

/// A read-only node that starts as a standby: up to where the WAL that it may replay is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Its own timeline.
    pub timeline: u32,
    /// Where its own WAL ends there; 0 where nobody knows.
    pub own_end: u64,
}

impl Stay {
    /// Whether it has replayed WAL that it had not written, given what was replayed last.  Later timelines than
    /// its own are others': its own next one comes with its promotion, when there is no more to replay.  What is
    /// once true stays true.
    pub fn is_over(self, timeline: u32, end: u64) -> bool {
        timeline > self.timeline
            || timeline == self.timeline && self.own_end != 0 && end > self.own_end
    }
}

const TITLE: &str = "citus_fence read-only node, version 2";
/// What release 0.1.0 wrote: without the last fields.
const FIRST_TITLE: &str = "citus_fence read-only node, version 1";

impl Record {
    /// The file's text, where it is written at that place of that directory.
    pub fn to_text(&self, home: &Home) -> String {
        seal(
            TITLE,
            &[
                ("system_identifier", &self.system_identifier),
                ("timeline", &self.timeline),
                ("lsn", &self.lsn),
                ("since", &self.since),
                ("with_cluster", &u8::from(self.with_cluster)),
                ("own_end", &self.own_end),
                ("device", &home.place.device),
                ("inode", &home.place.inode),
                ("directory", &home.directory),
            ],
        )
    }

    /// What the text says, or what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (mut fields, is_first) = match Fields::of(bytes, TITLE) {
            Ok(fields) => (fields, false),
            Err(what) => (Fields::of(bytes, FIRST_TITLE).map_err(|_| what)?, true),
        };
        let mut record = Self {
            system_identifier: fields.number("system_identifier")?,
            timeline: fields.number("timeline")?,
            lsn: fields.number("lsn")?,
            since: fields.number("since")?,
            with_cluster: false,
            own_end: 0,
            home: None,
        };
        if !is_first {
            record.with_cluster = fields.number::<u8>("with_cluster")? != 0;
            record.own_end = fields.number("own_end")?;
            record.home = Some(Home {
                place: Place { device: fields.number("device")?, inode: fields.number("inode")? },
                directory: fields.text("directory")?.to_owned(),
            });
        }
        fields.end()?;
        Ok(record)
    }
}

/// What to make of the file in these surroundings.  A base backup's file is void whatever is in it.
pub fn judge(bytes: &[u8], here: &Surroundings) -> Judgement {
    if here.has_backup_label {
        return Judgement::Void("this is a base backup of the server that wrote it");
    }
    let record = match Record::parse(bytes) {
        Ok(record) => record,
        Err(what) => return Judgement::Damaged(what),
    };
    if record.system_identifier != here.system_identifier {
        return Judgement::Void("it was written by another server");
    }
    let mut doubt = match &record.home {
        None if here.recovers => Some("release 0.1.0 wrote it, and did not say where it lies"),
        None => None,
        Some(home) => match whereabouts::judge(home, &here.found) {
            Verdict::Same => None,
            Verdict::Doubtful(why) => Some(why),
            Verdict::Replaced => Some("another file lies in its place"),
            Verdict::Copied => return Judgement::Void(COPIED),
        },
    };
    if record.timeline != here.timeline {
        // A standby reaches another timeline by replaying what a server has written that was promoted.  The
        // signal file is gone before a promotion reaches the control file.
        if here.recovers
            && here.last_stop == LastStop::InRecovery
            && here.timeline > record.timeline
        {
            return Judgement::Void("this server has replayed WAL of another one since");
        }
        doubt = Some("it was written on another timeline");
    }
    let own_end = match here.last_stop {
        LastStop::InOrder(end) => end,
        LastStop::InRecovery => record.own_end,
        LastStop::Other => 0,
    };
    let own_end = if here.recovers { own_end } else { 0 };
    let timeline = here.timeline;
    let stay = here.recovers.then_some(Stay { timeline, own_end });
    Judgement::ReadOnly { record: Record { timeline, own_end, ..record }, stay, doubt }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { device: 2049, inode: 131_072 };
    const DIRECTORY: &str = "/var/lib/pg\n data";
    const OWN: u64 = 7_000_000_000_000_000_001;

    fn record() -> Record {
        let home = Some(Home::new(PLACE, DIRECTORY));
        Record {
            system_identifier: OWN,
            timeline: 3,
            lsn: 42,
            since: -5,
            with_cluster: false,
            own_end: 0,
            home,
        }
    }

    fn text() -> Vec<u8> {
        record().to_text(&Home::new(PLACE, DIRECTORY)).into_bytes()
    }

    fn found(place: Option<Place>, directory: Option<&str>) -> Found {
        Found { place, directory: directory.map(str::to_owned) }
    }

    fn home() -> Surroundings {
        Surroundings {
            system_identifier: OWN,
            timeline: 3,
            has_backup_label: false,
            recovers: false,
            last_stop: LastStop::InOrder(99),
            found: found(Some(PLACE), Some(DIRECTORY)),
        }
    }

    fn standby() -> Surroundings {
        Surroundings { recovers: true, ..home() }
    }

    /// Read-only for good, without a doubt.
    fn plain(record: Record) -> Judgement {
        Judgement::ReadOnly { record, stay: None, doubt: None }
    }

    #[test]
    fn at_home_it_counts() {
        for last_stop in [LastStop::InOrder(99), LastStop::InRecovery, LastStop::Other] {
            let here = Surroundings { last_stop, ..home() };
            assert_eq!(judge(&text(), &here), plain(record()), "{here:?}");
        }
    }

    #[test]
    fn started_as_a_standby_it_stays_until_others_wal_is_replayed() {
        for (last_stop, own_end) in
            [(LastStop::InOrder(99), 99), (LastStop::InRecovery, 0), (LastStop::Other, 0)]
        {
            let here = Surroundings { last_stop, ..standby() };
            let Judgement::ReadOnly { record, stay: Some(stay), doubt: None } =
                judge(&text(), &here)
            else {
                panic!("{here:?}: {:?}", judge(&text(), &here));
            };
            assert_eq!((record.own_end, stay), (own_end, Stay { timeline: 3, own_end }));
            // Nothing, an older part of its own history, its own end.
            for (timeline, end) in [(0, 0), (2, 1000), (3, 98), (3, 99)] {
                assert!(!stay.is_over(timeline, end), "{timeline} {end}");
            }
            assert!(stay.is_over(4, 50));
            assert_eq!(stay.is_over(3, 100), own_end != 0);
        }
    }

    #[test]
    fn where_its_own_wal_ends_is_remembered_while_it_is_a_standby() {
        let stopped = Record { own_end: 99, ..record() };
        let text = stopped.to_text(&Home::new(PLACE, DIRECTORY)).into_bytes();
        let own_end = |last_stop, recovers| {
            let here = Surroundings { last_stop, recovers, ..home() };
            match judge(&text, &here) {
                Judgement::ReadOnly { record, .. } => record.own_end,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(own_end(LastStop::InRecovery, true), 99);
        assert_eq!(own_end(LastStop::InOrder(120), true), 120);
        assert_eq!(own_end(LastStop::Other, true), 0);
        // It takes writes again, and its WAL grows.
        assert_eq!(own_end(LastStop::InRecovery, false), 0);
    }

    #[test]
    fn a_standby_that_was_stopped_behind_others_wal_is_free_of_it() {
        let here = Surroundings { timeline: 4, last_stop: LastStop::InRecovery, ..standby() };
        assert!(matches!(judge(&text(), &here), Judgement::Void(_)));
    }

    #[test]
    fn elsewhere_it_is_void() {
        let place = |device, inode| Some(Place { device, inode });
        let at = |place, directory| Surroundings { found: found(place, Some(directory)), ..home() };
        for here in [
            Surroundings { system_identifier: 1, ..home() },
            Surroundings { has_backup_label: true, ..home() },
            Surroundings { has_backup_label: true, ..standby() },
            at(place(2049, 1), "/elsewhere"),
            at(place(1, 1), "/elsewhere"),
            at(place(1, 131_072), "/elsewhere"),
            Surroundings { recovers: true, ..at(place(1, 1), "/elsewhere") },
        ] {
            assert!(matches!(judge(&text(), &here), Judgement::Void(_)), "{here:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_stays_read_only_and_is_doubted() {
        let moved = Some(Place { device: 1, ..PLACE });
        let replaced = Some(Place { inode: 1, ..PLACE });
        let migrated = Some(Place { device: 1, inode: 1 });
        for here in [
            Surroundings { timeline: 4, ..home() },
            Surroundings { timeline: 2, ..home() },
            Surroundings { timeline: 4, ..standby() },
            Surroundings { timeline: 4, last_stop: LastStop::Other, ..standby() },
            Surroundings { timeline: 4, last_stop: LastStop::InRecovery, ..home() },
            Surroundings { found: found(moved, Some(DIRECTORY)), ..home() },
            Surroundings { found: found(replaced, Some(DIRECTORY)), ..home() },
            // On another disk in the same path: its storage was moved, which it was made read-only for.
            Surroundings { found: found(migrated, Some(DIRECTORY)), ..home() },
            Surroundings { found: found(Some(PLACE), Some("/elsewhere")), ..home() },
            Surroundings { found: found(None, Some(DIRECTORY)), ..home() },
            Surroundings { found: found(Some(PLACE), None), ..home() },
        ] {
            let judged = judge(&text(), &here);
            let Judgement::ReadOnly { record, doubt: Some(_), .. } = &judged else {
                panic!("{here:?}: {judged:?}");
            };
            // What was once decided is not doubted again.
            assert_eq!(record.timeline, here.timeline);
        }
    }

    #[test]
    fn the_first_version_is_read() {
        let sealed = seal(
            FIRST_TITLE,
            &[("system_identifier", &OWN), ("timeline", &3u32), ("lsn", &42u64), ("since", &-5i64)],
        );
        let expected = Record { home: None, ..record() };
        assert_eq!(judge(sealed.as_bytes(), &home()), plain(expected));
        assert!(matches!(
            judge(sealed.as_bytes(), &standby()),
            Judgement::ReadOnly { doubt: Some(_), stay: Some(_), .. }
        ));
        let backup = Surroundings { has_backup_label: true, ..home() };
        assert!(matches!(judge(sealed.as_bytes(), &backup), Judgement::Void(_)));
    }

    #[test]
    fn a_base_backup_is_not_read_only_even_by_a_damaged_file() {
        let here = Surroundings { has_backup_label: true, ..home() };
        assert!(matches!(judge(b"", &here), Judgement::Void(_)));
    }

    fn any_record() -> impl Strategy<Value = (Record, Home)> {
        (any::<(u64, u32, u64, i64, u64, bool)>(), any::<(u64, u64)>(), ".*").prop_map(
            |(numbers, (device, inode), directory)| {
                let (system_identifier, timeline, lsn, since, own_end, with_cluster) = numbers;
                let home = Home::new(Place { device, inode }, &directory);
                let kept = Some(home.clone());
                let record = Record {
                    system_identifier,
                    timeline,
                    lsn,
                    since,
                    with_cluster,
                    own_end,
                    home: kept,
                };
                (record, home)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((record, home) in any_record()) {
            prop_assert_eq!(Record::parse(record.to_text(&home).as_bytes()), Ok(record));
        }

        #[test]
        fn a_cut_file_is_damaged((record, home) in any_record(), keep in 0.0..1.0f64) {
            let text = record.to_text(&home);
            let keep = (text.len() as f64 * keep) as usize;
            prop_assert!(Record::parse(&text.as_bytes()[..keep]).is_err());
        }

        #[test]
        fn a_changed_byte_is_damage(
            (record, home) in any_record(),
            place: prop::sample::Index,
            flip in 1u8..
        ) {
            let mut bytes = record.to_text(&home).into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            prop_assert!(Record::parse(&bytes).is_err());
        }

        #[test]
        fn noise_is_damaged(noise: Vec<u8>) {
            prop_assert!(matches!(judge(&noise, &home()), Judgement::Damaged(_)));
        }
    }
}
