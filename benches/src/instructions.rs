//! Instructions of the processor that a session's server process needs for a transaction, counted by valgrind:
//! the same on every machine and at every load, and so what tells the price of the gate when rates scatter.
//! The kernel's own are not among them.

use std::fs;
use std::process::{Command, Stdio};

use test_cluster::{PATIENCE, Result, Server, StopMode, wait_until};

use crate::load::{Load, tidy};

/// Transactions of the two sessions whose difference counts: beginning and ending a session costs as much in
/// both.
const TRANSACTIONS: [u32; 2] = [500, 1500];

/// Instructions for a transaction; `None` where there is no valgrind.  Leaves the server running as it was.
pub fn instructions(server: &Server, load: Load) -> Result<Option<f64>> {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    tidy(server)?;
    let counts = server.socket_dir().join("instructions");
    server.stop(StopMode::Fast)?;
    let out = format!("--callgrind-out-file={}.%p", counts.display());
    server.start_through(&["valgrind", "--quiet", "--tool=callgrind", &out])?;
    let mut counted = [0.0; 2];
    for (count, transactions) in counted.iter_mut().zip(TRANSACTIONS) {
        let mut client = server.connect()?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a number").get(0);
        load.run(&mut client, transactions);
        drop(client);
        let file = counts.with_extension(pid.to_string());
        *count = wait_until("the counts of a session that has ended", PATIENCE, || {
            sum(&fs::read_to_string(&file).ok()?)
        })?;
    }
    server.stop(StopMode::Fast)?;
    server.start()?;
    Ok(Some((counted[1] - counted[0]) / f64::from(TRANSACTIONS[1] - TRANSACTIONS[0])))
}

/// The sum in what callgrind writes.
fn sum(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn reads_what_callgrind_writes() {
        assert_eq!(sum("# callgrind format\nfn=(1)\n1 5\n\ntotals: 12345\n"), Some(12345.0));
        assert_eq!(sum("# callgrind format\n"), None);
    }
}
