//! What `pg` promises, inside a real backend.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::{
        clock, fd::ReservedDescriptors, guc, ident, process, small_table, wal, worker,
    };
    use remote::{Interest, WaitEnd, Waiter};

    fn lsn(function: &str) -> u64 {
        let query = format!("SELECT ({function}() - '0/0')::bigint");
        Spi::get_one::<i64>(&query).expect("a query").expect("a position") as u64
    }

    #[pg_test]
    fn a_flush_reaches_what_was_written_before_it() {
        Spi::run("CREATE TEMP TABLE filler AS SELECT generate_series(1, 1000)").expect("a table");
        Spi::run("SELECT pg_logical_emit_message(false, 'test', repeat('x', 10000))").expect("WAL");
        let flushed = wal::flush();
        assert!(lsn("pg_current_wal_flush_lsn") >= flushed);
        // At every kind of position in a page: each message moves the end by another amount.
        for size in 1..600 {
            Spi::run(&format!("SELECT pg_logical_emit_message(false, 't', repeat('x', {size}))"))
                .expect("WAL");
            let flushed = wal::flush();
            assert!(flushed <= lsn("pg_current_wal_insert_lsn"));
        }
    }

    #[pg_test]
    fn this_process_is_alive_and_others_with_its_pid_are_not() {
        let me = process::me();
        assert!(process::is_alive(me));
        assert!(!process::is_alive(process::ProcessId { place: me.place + 1, ..me }));
        assert!(!process::is_alive(process::ProcessId { place: -1, ..me }));
        assert!(!process::is_alive(process::ProcessId { place: i32::MAX, ..me }));
        assert!(!process::is_alive(process::ProcessId { pid: 0, ..me }));
    }

    #[pg_test]
    fn a_wait_ends_by_its_latch_its_socket_or_its_time() {
        let mut waiter = crate::pg::wait::interruptible();
        let started = waiter.now();
        let timeout = std::time::Duration::from_millis(30);
        while !matches!(waiter.wait(&[], timeout), WaitEnd::TimedOut) {}
        assert!(waiter.now() - started >= timeout);

        let (near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        std::io::Write::write_all(&mut &far, b"x").expect("a byte");
        let socket = std::os::fd::AsRawFd::as_raw_fd(&near);
        let interest = Interest { socket, read: true, write: false };
        let minute = std::time::Duration::from_secs(60);
        loop {
            match waiter.wait(&[interest], minute) {
                WaitEnd::Ready(ready) if ready.is_empty() => {}
                WaitEnd::Ready(ready) => break assert!(ready[0].index == 0 && ready[0].read),
                other => panic!("{other:?}"),
            }
        }
        process::wake(process::me());
        let mut stoppable = crate::pg::wait::BackendWaiter::new(|| true);
        assert!(matches!(stoppable.wait(&[], minute), WaitEnd::Stopped));
    }

    #[pg_test]
    fn an_error_is_caught_with_its_code() {
        let error = worker::catch(|| Spi::run("SELECT 1/0")).expect_err("a division by zero");
        assert_eq!(error.sqlstate, PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO);
        assert_eq!(error.message, "division by zero");
    }

    #[pg_test]
    fn descriptors_are_all_or_none() {
        let some = ReservedDescriptors::acquire(3).expect("three descriptors");
        assert!(ReservedDescriptors::acquire(1_000_000).is_none());
        drop(some);
        // Nothing leaked: the same number can be had again and again.
        for _ in 0..1000 {
            assert!(ReservedDescriptors::acquire(50).is_some());
        }
    }

    #[pg_test]
    fn settings_and_names_are_read() {
        assert_eq!(guc::read_number("deadlock_timeout"), Some(1000.0));
        assert_eq!(guc::read("no.such_setting"), None);
        assert!(ident::database_exists(ident::database().to_u32()));
        assert!(!ident::database_exists(1_234_567));
        assert_eq!(
            ident::role_name(pg_sys::Oid::from(10)),
            ident::role_name(ident::current_role())
        );
        assert!(clock::now() > 0);
    }

    #[pg_test]
    fn small_tables_are_read_as_queries_read_them() {
        Spi::run(
            "CREATE TYPE shade AS ENUM ('light', 'dark');
             CREATE TABLE small (gone int, n int, t text, e shade, long text);
             ALTER TABLE small DROP COLUMN gone;
             INSERT INTO small VALUES (1, NULL, 'dark', repeat('x', 100000));
             ALTER TABLE small ADD COLUMN later bool DEFAULT true",
        )
        .expect("a table");
        let table = Spi::get_one::<pg_sys::Oid>("SELECT 'small'::regclass::oid");
        let table = table.expect("a query").expect("the table");
        let columns = [c"n", c"t", c"e", c"long", c"later", c"gone", c"never"];
        let rows = small_table::rows(table, &columns);
        let text = |text: &str| Some(text.to_owned());
        let long = text(&"x".repeat(100_000));
        assert_eq!(rows, [vec![text("1"), None, text("dark"), long, text("t"), None, None]]);
    }
}
