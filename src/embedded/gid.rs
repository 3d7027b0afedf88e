//! Names of prepared transactions, in Citus' form: `citus_<group>_<pid>_<number>_<connection>`.

/// The name of what one connection of a distributed transaction prepares.  The number is one that
/// the coordinating node never uses again, so the name is unique in the cluster.
pub fn name(group: i32, pid: u32, number: u64, connection: usize) -> String {
    format!("citus_{group}_{pid}_{number}_{connection}")
}

/// What the names of all that a group has prepared begin with.
pub fn prefix(group: i32) -> String {
    format!("citus_{group}_")
}

#[cfg(test)]
mod tests {
    use super::{name, prefix};

    #[test]
    fn names_begin_with_their_groups_prefix_and_no_others() {
        let gid = name(1, 4242, 7, 0);
        assert_eq!(gid, "citus_1_4242_7_0");
        assert!(gid.starts_with(&prefix(1)));
        assert!(!name(12, 1, 1, 1).starts_with(&prefix(1)));
    }
}
