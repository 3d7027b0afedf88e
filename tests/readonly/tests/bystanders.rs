//! Who has written nothing is refused and keeps his session, also in the middle of a switch that takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use readonly_tests::{
    Engine, READ_ONLY, REFUSED, assert_agrees, assert_untouched, db_error, on_each_engine, refusal,
    serve, single,
};
use test_cluster::postgres::Client;

/// Sessions that write without a pause.
const SESSIONS: usize = 100;
const WRITE: &str = "INSERT INTO served VALUES (1)";

/// Writes until it is told to stop; how often it was refused.
///
/// # Panics
/// On any other end.
fn repeat(mut client: Client, stop: &AtomicBool) -> u64 {
    let mut refused = 0;
    while !stop.load(Ordering::SeqCst) {
        match client.batch_execute(WRITE) {
            // Before the switch, and when it is given up.
            Ok(()) => {}
            Err(error) => {
                let error = db_error(WRITE, &error);
                assert_eq!(
                    (error.severity(), error.code().code()),
                    ("ERROR", REFUSED),
                    "{error:?}"
                );
                refused += 1;
            }
        }
    }
    refused
}

#[test]
fn who_is_refused_keeps_his_session() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("BEGIN; INSERT INTO served VALUES (2); PREPARE TRANSACTION 'in the way'")?;
        // Each of them writes for the first time when the node is being closed, so none has anything to lose.
        let begun = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for _ in 0..SESSIONS {
            let client = node.connect()?;
            let (begun, stop) = (begun.clone(), stop.clone());
            writers.push(std::thread::spawn(move || {
                while !begun.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                repeat(client, &stop)
            }));
        }
        let mut closer = node.connect()?;
        closer.batch_execute("SET citus_fence.lock_timeout = '3s'").expect("a setting");
        let call = std::thread::spawn(move || refusal(&mut closer, READ_ONLY));
        readonly_tests::await_closing(node)?;
        begun.store(true, Ordering::SeqCst);
        let error = call.join().expect("a thread");
        assert_eq!(error.code().code(), "55006", "{error:?}");
        stop.store(true, Ordering::SeqCst);
        let refused: Vec<u64> = writers
            .into_iter()
            .map(|writer| writer.join().expect("a session that lives"))
            .collect();
        assert!(refused.iter().all(|refused| *refused > 0), "{refused:?}");
        assert!(!assert_agrees(node)?);
        node.execute("ROLLBACK PREPARED 'in the way'")?;
        assert_untouched(node)
    });
}
