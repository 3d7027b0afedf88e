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
        let has_citus = installation.has_extension(Engine::Citus.catalog_extension());
        let control = installation.extension_control(Engine::Citus.catalog_extension());
        match std::env::var(ENGINE_VARIABLE).ok().as_deref() {
            None | Some("") if has_citus => Ok(vec![Engine::Embedded, Engine::Citus]),
            None | Some("") => {
                SKIPPED.call_once(|| {
                    say(&format!(
                        "skipped the runs on Citus: it is not installed ({} is missing)",
                        control.display()
                    ));
                });
                Ok(vec![Engine::Embedded])
            }
            Some("embedded") => Ok(vec![Engine::Embedded]),
            Some("citus") if has_citus => Ok(vec![Engine::Citus]),
            Some("citus") => Err(Error::Environment(format!(
                "{ENGINE_VARIABLE}=citus, but Citus is not installed ({} is missing)",
                control.display()
            ))),
            Some(other) => Err(Error::Environment(format!(
                "{ENGINE_VARIABLE}={other}: it must be embedded or citus"
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

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citus_is_preloaded_first() {
        assert_eq!(Engine::Citus.preload(true), ["citus", "citus_fence"]);
        assert_eq!(Engine::Citus.preload(false), ["citus"]);
        assert!(Engine::Embedded.preload(false).is_empty());
    }
}
