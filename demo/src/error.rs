//! Why the demo can come to no verdict.

use std::io;
use std::path::PathBuf;

use test_cluster::{describe, postgres};

pub type Result<T> = std::result::Result<T, DemoError>;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A server, or a program of PostgreSQL's, did not do its part.
    #[error(transparent)]
    Cluster(#[from] test_cluster::Error),

    /// A statement that the demo shows was refused.
    #[error("{statement}\n{}", describe(.source))]
    Statement { statement: String, source: postgres::Error },

    /// The command that the demo shows has failed.
    #[error("{words}\n{said}")]
    Command { words: String, said: String },

    /// The machine has not got what the chosen engine needs.
    #[error("{what}\n  {advice}")]
    NotInstalled { what: String, advice: &'static str },

    /// A file of the demo's own: a copy that is measured, the picture.
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
}

impl DemoError {
    /// For `map_err` on file operations; `action` reads as "cannot …".
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| DemoError::File { action, path, source }
    }
}
