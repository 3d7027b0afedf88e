//! Which engine makes the `pg_dist_*` catalog and the distributed writes of a cluster.

use std::sync::Once;

use crate::binaries::Installation;
use crate::error::{Error, Result};
use crate::root_dir::say;

/// Restricts the runs to one engine: `embedded` or `citus`.
const ENGINE_VARIABLE: &str = "CITUS_FENCE_ENGINE";

/// The library under test.
pub(crate) const FENCE: &str = "citus_fence";

/// What makes the catalog of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The `pg_dist` extension of this repository, on plain PostgreSQL nodes.
    Embedded,
    /// The real `citus` extension.
    Citus,
}

impl Engine {
    /// The engines to run a test on: the embedded one always, Citus where it is installed, or the
    /// one that `CITUS_FENCE_ENGINE` names. Where Citus is missing, standard error gets one line per
    /// process that says so.
    ///
    /// # Panics
    /// When `CITUS_FENCE_ENGINE` names something unknown or something that is not installed, or
    /// there is no PostgreSQL. A test that silently ran on no engine would pass.
    pub fn available() -> Vec<Engine> {
        match Engine::try_available() {
            Ok(engines) => engines,
            Err(error) => panic!("{error}"),
        }
    }

    fn try_available() -> Result<Vec<Engine>> {
        static SKIPPED: Once = Once::new();
        let installation = Installation::current()?;
        let citus = Engine::Citus.catalog_extension();
        let choice = choose(
            std::env::var(ENGINE_VARIABLE).ok().as_deref(),
            installation.has_extension(citus),
        );
        let missing = || {
            format!(
                "Citus is not installed ({} is missing)",
                installation.extension_control(citus).display()
            )
        };
        match choice {
            Choice::Run(engines) => Ok(engines),
            Choice::SkipCitus => {
                SKIPPED.call_once(|| say(&format!("skipped the runs on Citus: {}", missing())));
                Ok(vec![Engine::Embedded])
            }
            Choice::NoCitus => Err(Error::Environment(format!(
                "{ENGINE_VARIABLE} asks for Citus, but {}",
                missing()
            ))),
            Choice::Unknown(name) => Err(Error::Environment(format!(
                "{ENGINE_VARIABLE}={name}: it must be embedded or citus"
            ))),
        }
    }

    /// Its name, for messages and the names of tests.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Embedded => "embedded",
            Engine::Citus => "citus",
        }
    }

    /// The extension that makes the catalog.
    pub fn catalog_extension(self) -> &'static str {
        match self {
            Engine::Embedded => "pg_dist",
            Engine::Citus => "citus",
        }
    }

    /// What has to be in `shared_preload_libraries`. Citus insists on being the first.
    pub(crate) fn preload(self, with_fence: bool) -> Vec<String> {
        let engine = match self {
            Engine::Embedded => None,
            Engine::Citus => Some("citus"),
        };
        engine.into_iter().chain(with_fence.then_some(FENCE)).map(str::to_owned).collect()
    }
}

/// What to run on.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Run(Vec<Engine>),
    /// Citus would be run on too, and is not there.
    SkipCitus,
    /// Citus alone is wanted, and is not there.
    NoCitus,
    Unknown(String),
}

fn choose(wanted: Option<&str>, has_citus: bool) -> Choice {
    match (wanted, has_citus) {
        (None | Some(""), true) => Choice::Run(vec![Engine::Embedded, Engine::Citus]),
        (None | Some(""), false) => Choice::SkipCitus,
        (Some("embedded"), _) => Choice::Run(vec![Engine::Embedded]),
        (Some("citus"), true) => Choice::Run(vec![Engine::Citus]),
        (Some("citus"), false) => Choice::NoCitus,
        (Some(other), _) => Choice::Unknown(other.to_owned()),
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_never_silently_left_out() {
        let both = vec![Engine::Embedded, Engine::Citus];
        assert_eq!(choose(None, true), Choice::Run(both));
        assert_eq!(choose(None, false), Choice::SkipCitus);
        assert_eq!(choose(Some("citus"), false), Choice::NoCitus);
        assert_eq!(choose(Some("embedded"), true), Choice::Run(vec![Engine::Embedded]));
        assert_eq!(choose(Some("Citus"), true), Choice::Unknown(String::from("Citus")));
    }

    #[test]
    fn citus_is_preloaded_first() {
        assert_eq!(Engine::Citus.preload(true), ["citus", "citus_fence"]);
        assert_eq!(Engine::Citus.preload(false), ["citus"]);
        assert!(Engine::Embedded.preload(false).is_empty());
    }
}
