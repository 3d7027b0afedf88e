//! Disks that are full soon.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that is a file system of its own, and gone with the value.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of so many kilobytes. None where this user may not make one: then a line says so, past the capture of the test
    /// runner.
    pub fn mount(path: &Path, kilobytes: u64) -> Option<SmallDisk> {
        fs::create_dir_all(path).expect("a directory");
        let options = format!("size={kilobytes}k,mode=0777");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(path.to_owned()));
        }
        let _ = writeln!(std::io::stderr(), "skipped: this user may not mount a small disk");
        None
    }

    /// Makes it larger, or smaller.
    pub fn resize(&self, kilobytes: u64) {
        let options = format!("remount,size={kilobytes}k");
        let resized = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(resized.expect("mount").success());
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a test that failed may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
