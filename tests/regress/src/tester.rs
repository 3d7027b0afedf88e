//! Finding and running the testers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_cluster::{Cluster, HOST, Installation, SUPERUSER};

use crate::{Result, Suite};

/// How long isolationtester waits for one step.  Steps wait for each other for seconds at most.
const STEP_TIMEOUT_S: u32 = 90;

/// One of PostgreSQL's testers, and where its files are.
pub struct Tester {
    suite: Suite,
    program: PathBuf,
    bindir: PathBuf,
    major: u32,
    /// `pg_regress/` of this repository.
    pub sources: PathBuf,
}

impl Tester {
    /// The tester of the PostgreSQL that `PG_CONFIG` names.
    pub fn find(suite: Suite) -> Result<Self> {
        let place = match suite {
            Suite::Regress => "pgxs/src/test/regress/pg_regress",
            Suite::Isolation => "pgxs/src/test/isolation/pg_isolation_regress",
        };
        let program = Path::new(&pg_config("--pkglibdir")?).join(place);
        if !program.is_file() {
            return Err(format!(
                "{} is missing; it comes with the server's development files (on Debian the \
                 package postgresql-server-dev)",
                program.display()
            )
            .into());
        }
        Ok(Self {
            suite,
            program,
            bindir: pg_config("--bindir")?.into(),
            major: Installation::current()?.major(),
            sources: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../pg_regress")
                .canonicalize()?,
        })
    }

    /// Runs the schedule, or only some tests, and shows the differences if there are any.  True if
    /// all passed.
    pub fn run(&self, cluster: &Cluster, only: &[String]) -> Result<bool> {
        let output = output_dir()?.join(format!("{}-{}", self.suite.name(), cluster.engine()));
        if output.exists() {
            fs::remove_dir_all(&output)?;
        }
        fs::create_dir_all(&output)?;
        let launcher = self.sources.join("launch");
        let mut command = Command::new(&self.program);
        // Variables like PGOPTIONS of the caller's shell would change what a test does.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command
            .arg("--use-existing")
            .args(["--dbname", cluster.database()])
            .args(["--host", HOST, "--user", SUPERUSER])
            .arg(format!("--port={}", cluster.coordinator().port()))
            .arg(option("--bindir", &self.bindir))
            .arg(option("--inputdir", &self.sources))
            .arg(option("--outputdir", &output))
            // Goes to a shell.
            .arg(format!("--launcher='{}'", launcher.display()))
            .env("PGISOLATIONTIMEOUT", STEP_TIMEOUT_S.to_string())
            .env("COORDINATOR_PORT", cluster.coordinator().port().to_string());
        if self.major >= 16 {
            // Older ones look beside the input.
            command.arg(option("--expecteddir", &self.sources));
        }
        for (number, worker) in cluster.workers().iter().enumerate() {
            command.env(format!("WORKER_{}_PORT", number + 1), worker.port().to_string());
        }
        if only.is_empty() {
            let schedule = self.sources.join(format!("{}_schedule", self.suite.name()));
            command.arg(option("--schedule", &schedule));
        } else {
            command.args(only);
        }
        if command.status()?.success() {
            return Ok(true);
        }
        match fs::read_to_string(output.join("regression.diffs")) {
            Ok(differences) => println!("{differences}"),
            Err(_) => println!("# no differences were written to {}", output.display()),
        }
        Ok(false)
    }
}

fn option(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

/// Beside what cargo builds, and so outside the source tree.
fn output_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let target = executable.ancestors().nth(2).ok_or("this program is not in a target folder")?;
    Ok(target.join("pg_regress"))
}

fn pg_config(option: &str) -> Result<String> {
    let program = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let output = Command::new(&program)
        .arg(option)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", Path::new(&program).display()))?;
    if !output.status.success() {
        return Err(format!("pg_config {option} failed ({})", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
