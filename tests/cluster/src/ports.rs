//! Ports that stay ours. Asking the kernel for a free port (port 0) yields one out of the range it
//! also gives to outgoing connections, so while a server restarts, some client may be given its
//! port. Ports are therefore taken from below that range, and a lock file per port keeps test
//! processes that run side by side apart.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use crate::error::{Error, IoContext, Result};

/// The lowest port that is tried.
const LOWEST: u16 = 15_000;

/// Where the kernel's own range begins when it cannot be read.
const USUAL_EPHEMERAL_START: u16 = 32_768;

/// How many ports are tried before giving up.
const TRIES: usize = 2_000;

/// A port on 127.0.0.1 that no other test process takes while this value lives.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    /// Locked as long as it is open; the file itself stays, as removing it would race with others.
    _lock: File,
}

impl PortLease {
    /// Takes a free port.
    pub fn take() -> Result<PortLease> {
        let directory = lock_directory()?;
        let highest = ephemeral_start().max(LOWEST + 1_000);
        for _ in 0..TRIES {
            let port = fastrand::u16(LOWEST..highest);
            let path = directory.join(format!("{port}.lock"));
            // A lock file of another user's cannot be opened, which is as good as a taken port.
            let Ok(lock) =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o666).open(&path)
            else {
                continue;
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(source)) => {
                    return Err(source).at("cannot lock", &path);
                }
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(PortLease { port, _lock: lock });
            }
        }
        Err(Error::Environment(format!(
            "no free port between {LOWEST} and {highest} in {TRIES} tries"
        )))
    }

    /// The port's number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// The folder of the lock files, writable for every user of the machine as `/tmp` is. It does not
/// follow `TMPDIR`: all processes have to look in the same place.
fn lock_directory() -> Result<PathBuf> {
    let path = PathBuf::from("/tmp/citus-fence-ports");
    match fs::create_dir(&path) {
        Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))
            .at("cannot open up", &path)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).at("cannot create", &path),
    }
    Ok(path)
}

/// The first port of the range that outgoing connections are given.
fn ephemeral_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(USUAL_EPHEMERAL_START)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn leases_differ_and_can_be_bound() -> Result<()> {
        let leases = (0..20).map(|_| PortLease::take()).collect::<Result<Vec<_>>>()?;
        let ports: HashSet<u16> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), leases.len());
        for port in ports {
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        }
        Ok(())
    }

    #[test]
    fn leases_lie_below_the_outgoing_range() -> Result<()> {
        let lease = PortLease::take()?;
        assert!(lease.port() >= LOWEST);
        assert!(lease.port() < ephemeral_start().max(LOWEST + 1_000));
        Ok(())
    }
}
