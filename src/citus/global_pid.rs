//! Numbers of processes over all nodes.

/// Number of the process where a transaction was begun, as Citus counts it; `nodeid` 0 is a coordinator
/// that is not in `pg_dist_node`, for which Citus has a number of its own.
pub fn global_pid(nodeid: i32, pid: i32) -> u64 {
    const NODES: u64 = 10_000_000_000;
    const UNREGISTERED: u32 = 99_999_999;
    let node = if nodeid == 0 { UNREGISTERED } else { nodeid.unsigned_abs() };
    u64::from(node) * NODES + u64::from(pid.unsigned_abs())
}

/// The number in the application name of a session that serves another node.
pub fn parse_global_pid(application_name: &str) -> Option<u64> {
    let (_, digits) = application_name.split_once("gpid=")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{global_pid, parse_global_pid};

    #[test]
    fn global_pids_are_read_where_they_are() {
        assert_eq!(parse_global_pid("citus_internal gpid=30000001234"), Some(global_pid(3, 1234)));
        assert_eq!(parse_global_pid("citus_rebalancer gpid=10000000005 x"), Some(10_000_000_005));
        let unregistered = parse_global_pid("citus_internal gpid=999999990000003405");
        assert_eq!(unregistered, Some(global_pid(0, 3405)));
        assert_eq!(parse_global_pid("psql"), None);
        assert_eq!(parse_global_pid("gpid="), None);
    }
}
