//! How much of a matrix a test is to run.

/// What `make test-all` sets.
const ALL_VARIABLE: &str = "CITUS_FENCE_TEST_ALL";

/// Whether a test over a matrix is to run all of it, as `make test-all` asks for, and not only the part
/// that `make test` has time for.  Both parts make the same claims.
///
/// # Panics
/// When the variable is neither `0` nor `1`: a misspelt "yes" would silently run less.
pub fn whole_matrix() -> bool {
    match std::env::var_os(ALL_VARIABLE) {
        None => false,
        Some(value) => means_all(&value.to_string_lossy()),
    }
}

fn means_all(value: &str) -> bool {
    match value {
        "" | "0" => false,
        "1" => true,
        other => panic!("{ALL_VARIABLE}={other}: it must be 0 or 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_means_all() {
        assert!(means_all("1"));
        assert!(!means_all("0"));
        assert!(!means_all(""));
        assert!(std::panic::catch_unwind(|| means_all("yes")).is_err());
    }
}
