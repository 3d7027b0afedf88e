//! The `citus-fence` command. All of it is in the library, so that it can be tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    fence_command::main(std::env::args_os()).into()
}
