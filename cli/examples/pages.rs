//! Writes the command's man pages and the completions of shells into a directory: what `make package` ships.
//!
//! usage: pages DIRECTORY

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap_complete::{Shell, generate_to};
use clap_mangen::generate_to as generate_pages_to;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pages DIRECTORY");
        return ExitCode::from(2);
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &std::path::Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    generate_pages_to(fence_command::command(), directory)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut fence_command::command(), "citus-fence", directory)?;
    }
    Ok(())
}
