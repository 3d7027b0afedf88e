use super::{Facts, Sender, judge};
use crate::clone::fault::Fault;
use crate::report::Report;

fn source() -> Facts {
    Facts {
        place: "a:5432".into(),
        host: "a".into(),
        port: 5432,
        system_identifier: "7".into(),
        version: "150020".into(),
        libraries: "Citus 13.2.2 0.2.0".into(),
        preloaded: vec!["citus".into(), "citus_fence".into()],
        max_prepared: 10,
        max_connections: 100,
        archive: "cp %p /archive/%f".into(),
        senders: vec![sender("11", "async"), sender("12", "sync")],
        slots: vec![("one".into(), "11".into(), "reserved".into())],
        ..Facts::default()
    }
}

fn sender(pid: &str, sync_state: &str) -> Sender {
    Sender { pid: pid.into(), state: "streaming".into(), sync_state: sync_state.into() }
}

fn clone() -> Facts {
    Facts {
        place: "b:5433".into(),
        host: "b".into(),
        port: 5433,
        in_recovery: true,
        archive: String::new(),
        receiver: Some(("streaming".into(), "a".into(), "5432".into())),
        slot: Some("one".into()),
        senders: vec![],
        slots: vec![],
        ..source()
    }
}

#[test]
fn a_replica_with_a_slot_of_its_own_is_told_apart_from_a_synchronous_one() {
    assert_eq!(judge(&source(), &clone()), None);
}

/// Something that is wrong with a replica.
type Wrong = (&'static str, fn(&mut Facts, &mut Facts));

#[test]
fn each_fault_is_found_and_has_words_of_its_own() {
    let cases: &[Wrong] = &[
        ("is a standby", |source, _| source.in_recovery = true),
        ("is not a streaming replica", |_, clone| clone.in_recovery = false),
        ("is not a replica of", |_, clone| clone.system_identifier = "8".into()),
        ("does not run what", |_, clone| clone.version = "150019".into()),
        ("does not run what", |_, clone| clone.libraries = "Citus 13.2.1 0.2.0".into()),
        ("does not preload citus_fence", |_, clone| clone.preloaded = vec!["citus".into()]),
        ("has paused its replay", |_, clone| clone.paused = true),
        ("delays its replay", |_, clone| clone.delay = "60000 ms".into()),
        ("does not stream from", |_, clone| clone.receiver = None),
        ("does not stream from", |_, clone| {
            clone.receiver = Some(("waiting".into(), "a".into(), "5432".into()));
        }),
        ("does not stream from", |_, clone| {
            clone.receiver = Some(("streaming".into(), "c".into(), "5434".into()));
            clone.slot = None;
        }),
        ("does not stream from", |_, clone| clone.receives_from_source = Some(false)),
        ("does not stream from", |source, _| source.slots.clear()),
        ("does not stream from", |source, _| source.senders.clear()),
        ("has lost WAL", |source, _| source.slots[0].2 = "lost".into()),
        ("waits for", |source, _| source.synchronized_slots = "two, one".into()),
        ("is a synchronous standby", |source, _| source.slots[0].1 = "12".into()),
        // Without a slot it may be any of them.
        ("is a synchronous standby", |_, clone| clone.slot = None),
        ("other servers stream from", |_, clone| clone.senders = vec![sender("3", "async")]),
        ("max_prepared_transactions is lower", |_, clone| clone.max_prepared = 9),
        ("max_connections is lower", |_, clone| clone.max_connections = 9),
        ("cannot keep prepared transactions", |source, clone| {
            source.max_prepared = 1;
            clone.max_prepared = 1;
        }),
        ("archives its WAL as", |source, clone| clone.archive = source.archive.clone()),
        ("would wait for standbys", |_, clone| clone.standby_names = "ha1".into()),
        ("subscriptions", |_, clone| clone.subscriptions = true),
        ("scheduled jobs", |_, clone| clone.scheduled = true),
        ("is managed by", |_, clone| clone.manager = Some("Patroni".into())),
        ("citus.local_hostname", |_, clone| clone.local_hostname = "a".into()),
        ("collations", |_, clone| clone.collations = "de_DE".into()),
    ];
    for (words, make_wrong) in cases {
        let (mut source, mut clone) = (source(), clone());
        make_wrong(&mut source, &mut clone);
        let fault: Fault = judge(&source, &clone).unwrap_or_else(|| panic!("{words}: not found"));
        assert!(fault.to_string().contains(words), "{words}: {fault}");
        let report = Report::from(&fault);
        assert!(report.detail.is_some() && report.hint.is_some(), "{words}");
    }
}

#[test]
fn another_address_of_the_source_is_no_fault() {
    let mut clone = clone();
    clone.receiver = Some(("streaming".into(), "proxy".into(), "6432".into()));
    clone.receives_from_source = Some(true);
    assert_eq!(judge(&source(), &clone), None);
}

#[test]
fn a_host_that_both_share_is_no_fault() {
    let (source, mut clone) = (source(), clone());
    let mut source = Facts { host: "localhost".into(), ..source };
    clone.host = "localhost".into();
    clone.local_hostname = "localhost".into();
    assert_eq!(judge(&source, &clone), None);
    source.host = "h".into();
    clone.host = "h".into();
    clone.local_hostname = "h".into();
    assert_eq!(judge(&source, &clone), None);
}
