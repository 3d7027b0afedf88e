//! Which releases there are, and the ways from one of them to today's version.

use std::fs;
use std::path::Path;

/// Today's version: all crates of the workspace have it.
pub fn current() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The released versions, oldest first, by the files in `sql/releases/`.
///
/// # Panics
/// When there is none, or a file is named in another way: a test over no release would pass.
pub fn released() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql/releases");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut versions: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name.ends_with(".sql"))
        .map(|name| {
            let version =
                name.strip_prefix("citus_fence--").and_then(|rest| rest.strip_suffix(".sql"));
            version.unwrap_or_else(|| panic!("{name} is not the SQL of a release")).to_owned()
        })
        .collect();
    versions.sort_by_key(|version| numbers(version));
    assert!(!versions.is_empty(), "no release in {folder:?}");
    versions
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or_else(|_| panic!("{version} is not a version")))
        .collect()
}

/// The ways from every release to `current`: at once, and by every release in between.  Each begins with
/// the release and ends with `current`.
pub fn paths(released: &[String], current: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (number, from) in released.iter().enumerate() {
        let between = &released[number + 1..];
        paths.push(vec![from.clone(), current.to_owned()]);
        if !between.is_empty() {
            let mut stops = released[number..].to_vec();
            stops.push(current.to_owned());
            paths.push(stops);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_leads_to_today_at_once_and_step_by_step() {
        let released = ["0.1.0", "0.2.0", "0.10.0"].map(String::from);
        let expected: [&[&str]; 5] = [
            &["0.1.0", "1.0.0"],
            &["0.1.0", "0.2.0", "0.10.0", "1.0.0"],
            &["0.2.0", "1.0.0"],
            &["0.2.0", "0.10.0", "1.0.0"],
            &["0.10.0", "1.0.0"],
        ];
        assert_eq!(paths(&released, "1.0.0"), expected);
        assert!(numbers("0.10.0") > numbers("0.2.0"));
    }

    #[test]
    fn the_first_release_is_kept() {
        assert_eq!(released()[0], "0.1.0");
        assert!(!released().iter().any(|version| version == current()), "released, and goes on?");
    }
}
