//! A block is known by its number, which its start returns: so no second statement has to find out which one it is.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use fence_tests::{
    Client, Cluster, Engine, PATIENCE, Result, call, on_each_engine, refusal, start, state,
    wait_until, worker_pid,
};
use test_cluster::{HOST, Pooler, SUPERUSER, Signal};

fn stop(client: &mut Client, number: i64) -> bool {
    call(client, &format!("SELECT citus_backup_block_stop({number})"))
}

/// Number and mode, by the status and by each row of the manifest.
fn shown(client: &mut Client) -> Vec<(Option<i64>, Option<String>)> {
    let sql = "SELECT block_id, mode FROM citus_backup_block_status() \
               UNION SELECT block_id, mode FROM citus_backup_block_nodes()";
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{error}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn status_and_manifest_show_number_and_mode() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        assert_eq!(shown(&mut client), [(None, None)]);
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        let mut last = 0;
        for (arguments, mode) in [
            ("", "all"),
            ("60000", "all"),
            ("60000, '2pc'", "2pc"),
            ("mode => 'all'", "all"),
            ("60000, NULL", "all"),
        ] {
            let number = start(&mut client, arguments);
            assert!(number > last, "{number} after {last}");
            last = number;
            assert_eq!(shown(&mut client), [(Some(number), Some(mode.to_owned()))], "{arguments}");
            // Whoever has another number moves nothing and ends nothing.
            let error = refusal(
                &mut client,
                &format!("SELECT citus_backup_block_extend({}, 1)", number - 1),
            );
            assert_eq!(error.code().code(), "55000", "{error:?}");
            assert!(error.message().contains("is over"), "{error:?}");
            assert!(!stop(&mut client, number - 1));
            assert_eq!(state(&mut client), "active");
            let extend = format!(
                "SELECT citus_backup_block_extend({number}, 600000) > now() + interval '590 s'"
            );
            assert!(call(&mut client, &extend));
            assert!(stop(&mut client, number));
            assert!(!stop(&mut client, number), "it has been stopped already");
            let error = refusal(&mut client, &extend);
            assert_eq!(error.code().code(), "55000", "{error:?}");
        }
        for (sql, code) in [
            ("SELECT citus_backup_block_start(60000, 'ALL')", "22023"),
            ("SELECT citus_backup_block_start(60000, '')", "22023"),
            ("SELECT citus_backup_block_start(0)", "22023"),
            ("SELECT citus_backup_block_start(NULL)", "22004"),
            ("SELECT citus_backup_block_stop(NULL)", "22004"),
            ("SELECT citus_backup_block_extend(NULL, 1000)", "22004"),
            ("SELECT citus_backup_block_extend(1, NULL)", "22004"),
            ("SELECT citus_backup_block_extend(1, 0)", "22023"),
        ] {
            assert_eq!(refusal(&mut client, sql).code().code(), code, "{sql}");
        }
        assert_eq!(shown(&mut client), [(None, None)]);
        Ok(())
    });
}

/// With everything forgotten, a number of before must not fit a block of now.
#[test]
fn a_number_does_not_come_again_after_a_crash() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        let old = start(&mut client, "");
        let pid = worker_pid(&mut client);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("a kill");
        let mut client = wait_until("the coordinator's recovery", PATIENCE, || {
            let mut client = cluster.connect(0).ok()?;
            let row = client.query_one("SELECT state FROM citus_backup_block_status()", &[]);
            (row.ok()?.get::<_, String>(0) == "inactive").then_some(client)
        })?;
        let new = start(&mut client, "");
        assert!(new > old, "{new} after {old}");
        assert!(!stop(&mut client, old), "that one is lost");
        assert!(stop(&mut client, new));
        Ok(())
    });
}

/// The page's functions for scripts without the command, for this server.
fn recipe(port: u16) -> String {
    let page = include_str!("../../../docs/backup.md");
    let begin = page.find("sql() {").expect("the functions of the page");
    let end = begin + page[begin..].find("```").expect("their end");
    let text = page[begin..end].replace("-h coordinator", &format!("-h {HOST} -p {port}"));
    assert!(text.contains("unblock()") && text.contains(HOST), "{text}");
    text
}

/// What the page said before: whose block it is was asked in a second statement.
fn former_recipe(port: u16) -> String {
    format!(
        "sql() {{ psql -X -At -v ON_ERROR_STOP=1 -h {HOST} -p {port} \"$@\"; }}
         block() {{
             began=$(sql -c \"SELECT citus_block_writes_for_backup($1)\" \
                 -c \"SELECT block_start_time FROM citus_backup_block_status() \
                      WHERE requestor_pid = pg_backend_pid()\" | sed -n 2p)
             test -n \"$began\"
         }}
         unblock() {{ test \"$(sql -c \"SELECT citus_unblock_backup_block('$began')\" 2>&1)\" = t; }}"
    )
}

/// How many of so many blocks are had, and given back, by bash.
fn rounds(functions: &str, count: u32) -> u32 {
    let script = format!(
        "{functions}
         good=0
         for round in $(seq {count}); do
             if block 20000; then unblock && good=$((good + 1));
             else sql -c 'SELECT citus_unblock_writes_for_backup()' >/dev/null 2>&1; fi
         done
         echo $good"
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PGUSER", SUPERUSER)
        .env("PGDATABASE", "node0")
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
}

/// Others who come and go through the pooler, so that two statements of one client are run by two sessions.
fn with_traffic<R>(pooler: &Pooler, body: impl FnOnce() -> R) -> R {
    /// The others end with the body, whichever way that ends.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                let conninfo =
                    format!("host={HOST} port={} user={SUPERUSER} dbname=node0", pooler.port());
                let mut client = Client::connect(&conninfo, fence_tests::NoTls).expect("a client");
                while !stop.load(Ordering::Relaxed) {
                    let turn = "SELECT pg_sleep(0.003)"; // wait: a session of the pooler is busy
                    client.simple_query(turn).expect("a turn");
                }
            });
        }
        body()
    })
}

#[test]
fn the_pages_functions_work_through_a_pooler_in_transaction_mode() {
    on_each_engine(|engine: Engine| -> Result<()> {
        const ROUNDS: u32 = 50;
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let pooler = Pooler::start(&[cluster.coordinator()], cluster.database())?;
        let good = with_traffic(&pooler, || rounds(&recipe(pooler.port()), ROUNDS));
        assert_eq!(good, ROUNDS);
        assert_eq!(state(&mut cluster.connect(0)?), "inactive");
        // The control: with that traffic a second statement does not find its block.
        let good = with_traffic(&pooler, || rounds(&former_recipe(pooler.port()), ROUNDS));
        assert!(good < ROUNDS, "the pooler never gave a client another session");
        Ok(())
    });
}
