//! Covers `conninfo`, `node`, `deadline`, `text` and `error`: what needs no connection.

use crate::script::ms;
use crate::text::{connect_failure, loss, one_line};
use crate::*;

/// Parameters with every kind of secret.
fn secretive() -> ConnParams {
    let mut params = base_params("h", 1, "d", "u", "app", ms(2500));
    params
        .merge_conninfo("password='hun ter2' sslpassword=s3cret sslkey=/k/ey sslmode=require")
        .unwrap();
    params
}

#[test]
fn secrets_are_masked_wherever_parameters_are_shown() {
    let params = secretive();
    let target = Target { node: NodeLabel::new(3, "h", 1), params: params.clone() };
    for shown in [params.to_string(), format!("{params:?}"), format!("{target:#?}")] {
        for secret in ["hun ter2", "s3cret", "/k/ey"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("password=****"), "{shown}");
        assert!(shown.contains("sslmode=require"), "{shown}");
        assert!(shown.contains("keepalives=1"), "{shown}");
    }
    assert_eq!(params.get("password"), Some("hun ter2"));
    assert_eq!(params.redact("bad password hun ter2!"), "bad password ****!");
}

#[test]
fn later_values_replace_earlier_ones_in_place() {
    let mut params = ConnParams::new();
    params.set("host", "a").set("port", "1").set("host", "b");
    assert_eq!(params.to_string(), "host=b port=1");
    params.merge_conninfo("port=2 user=u").unwrap();
    assert_eq!(params.to_string(), "host=b port=2 user=u");
    params.merge_conninfo("postgresql://x@c/db").unwrap();
    assert_eq!(params.to_string(), "host=c port=2 user=x dbname=db");
    params.merge_conninfo("").unwrap();
}

#[test]
fn a_string_that_cannot_be_parsed_is_not_repeated() {
    for bad in ["password=my secret", "hunter2", "password='hunter2", "hunter2=1"] {
        let mut params = ConnParams::new();
        let error = params.merge_conninfo(bad).unwrap_err();
        assert_eq!(error, ConnInfoError::Malformed);
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(params, ConnParams::new());
    }
    let zero = ConnParams::new().merge_conninfo("password=a\0b").unwrap_err();
    assert!(matches!(zero, ConnInfoError::ZeroByte { .. }));
}

#[test]
fn values_with_a_zero_byte_do_not_reach_libpq() {
    let mut params = ConnParams::new();
    params.set("password", "a\0b");
    assert_eq!(
        params.to_c().unwrap_err().to_string(),
        "the value of \"password\" contains a zero byte"
    );
}

#[test]
fn base_parameters() {
    let params = base_params("h", 5433, "d", "u", "app", ms(2500));
    assert_eq!(params.get("port"), Some("5433"));
    assert_eq!(params.get("connect_timeout"), Some("3"));
    assert_eq!(params.get("tcp_user_timeout"), Some("10000"));
    assert_eq!(params.get("application_name"), Some("app"));
    assert_eq!(params.get("options"), None);
    let patient = base_params("h", 1, "d", "u", "app", ms(60_000));
    assert_eq!(patient.get("tcp_user_timeout"), Some("60000"));
}

#[test]
fn a_name_for_certificates_is_not_dialled() {
    let mut params = base_params("10.0.0.1", 5433, "d", "u", "app", ms(2500));
    params.merge_conninfo("host=certificate.example").unwrap();
    params.dial("10.0.0.1");
    assert_eq!(params.get("host"), Some("certificate.example"));
    assert_eq!(params.get("hostaddr"), Some("10.0.0.1"));
    // A name is looked up; each of its addresses goes with the name of the certificate.
    params.dial("localhost");
    let count = |keyword| params.get(keyword).map(|list| list.split(',').count());
    assert_eq!(count("host"), count("hostaddr"));
    assert!(params.get("hostaddr").is_some_and(|list| list.contains("127.0.0.1")));
    assert!(params.get("host").is_some_and(|list| list.starts_with("certificate.example")));
}

#[test]
fn a_programs_parameters_leave_the_place_to_libpq() {
    let params = program_params("app", ms(2500));
    for left in ["host", "port", "user", "dbname", "password", "service", "sslmode", "gssencmode"] {
        assert_eq!(params.get(left), None, "{left}");
    }
    assert_eq!(params.get("client_encoding"), Some("UTF8"));
    assert_eq!(params.get("keepalives"), Some("1"));
}

#[test]
fn labels() {
    assert_eq!(NodeLabel::new(3, "127.0.0.1", 5433).to_string(), "127.0.0.1:5433");
    assert_eq!(NodeLabel::new(3, "127.0.0.1", 5433).described(), "node 3 at 127.0.0.1:5433");
    assert_eq!(NodeLabel::unregistered("w1", 1).described(), "w1:1");
    assert_eq!(NodeLabel::unregistered("::1", 5432).to_string(), "[::1]:5432");
    assert_eq!(NodeLabel::unregistered("/run/a:b", 5432).to_string(), "/run/a:b:5432");
}

#[test]
fn deadlines() {
    let waiter = PollWaiter::new();
    let near = Deadline::after(&waiter, ms(0));
    let far = Deadline::after(&waiter, std::time::Duration::MAX);
    assert!(near.expired(&waiter));
    assert!(!far.expired(&waiter));
    assert_eq!(near.earlier(far), near);
    assert_eq!(far.earlier(near), near);
    assert!(far.remaining(&waiter) > ms(1_000_000));
}

/// What `connect_failure` makes of a text.
fn failure(raw: &str) -> (Option<String>, String) {
    let (sqlstate, message) = connect_failure(raw, &NodeLabel::unregistered("h", 1), &secretive());
    (sqlstate.map(|code| code.to_string()), message)
}

#[test]
fn connect_failures_become_one_line() {
    let both = "connection to server at \"h\" (::1), port 1 failed: Connection refused\n\
                \tIs the server running on that host and accepting TCP/IP connections?\n\
                connection to server at \"h\" (127.0.0.1), port 1 failed: Connection refused\n\
                \tIs the server running on that host and accepting TCP/IP connections?\n";
    assert_eq!(
        failure(both).1,
        "connection to server at \"h\" (::1), port 1 failed: Connection refused; \
         connection to server at \"h\" (127.0.0.1), port 1 failed: Connection refused"
    );
    let twice = "connection to server at \"h\", port 1 failed: FATAL:  28000: no pg_hba.conf entry \
                 for host \"h\", SSL encryption\nLOCATION:  ClientAuthentication, auth.c:544\n\
                 connection to server at \"h\", port 1 failed: FATAL:  28000: no pg_hba.conf entry \
                 for host \"h\", no encryption\nLOCATION:  ClientAuthentication, auth.c:544\n";
    assert_eq!(
        failure(twice),
        (Some("28000".into()), "no pg_hba.conf entry for host \"h\", no encryption".into())
    );
    assert_eq!(failure("").1, "unknown reason");
    assert_eq!(failure("what is hun ter2?\n").1, "what is ****?");
    // A translated severity, and text that only looks like a code.
    assert_eq!(failure("x: ВАЖНО:  57P03: wird gestartet\n").0.as_deref(), Some("57P03"));
    assert_eq!(failure("error:  abcde: text\n").0, None);
}

#[test]
fn losses_become_one_line() {
    let params = ConnParams::new();
    assert_eq!(loss(crate::script::EOF, &params).1, "server closed the connection unexpectedly");
    let (sqlstate, message) = loss("FATAL:  57P01: going down\nLOCATION:  x, y.c:1\n", &params);
    assert_eq!((sqlstate, message.as_str()), (SqlState::parse("57P01"), "going down"));
    assert_eq!(loss("\n", &params).1, "unknown reason");
    assert_eq!(one_line(" a\n\tb  c\r\n"), "a b c");
}

#[test]
fn sqlstates() {
    for bad in ["", "28P0", "28P011", "28p01", "28 01", "ééé"] {
        assert_eq!(SqlState::parse(bad), None);
    }
    assert_eq!(SqlState::parse("28P01").unwrap().as_str(), "28P01");
}

#[test]
fn the_loaded_libpq_is_named() {
    let loaded = loaded_libpq();
    assert!(loaded.major >= 15, "{loaded:?}");
    let file = loaded.file.expect("a file");
    let name = file.file_name().expect("a name").to_string_lossy();
    assert!(name.starts_with("libpq.so"), "{}", file.display());
}
