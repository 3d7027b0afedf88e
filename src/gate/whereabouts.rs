//! Whether a file that says where it was written still lies there, or is a copy.  Pure.

use crate::pg::durable_file::Place;

/// Where a file was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its place in the file system.
    pub place: Place,
    /// The data directory, escaped as it is in the file: a line of its own, whatever is in it.
    pub directory: String,
}

/// Where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place, if that can be told.
    pub place: Option<Place>,
    /// The data directory, if that can be told.
    pub directory: Option<String>,
}

/// What to make of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It lies where it was written.
    Same,
    /// Nobody can tell, and why.
    Doubtful(&'static str),
    /// Another file lies in its place: put back by hand, or with all the others.
    Replaced,
    /// It was copied.
    Copied,
}

/// Why a copied file means nothing.
pub const COPIED: &str = "it was copied from another data directory";

impl Home {
    /// Of a file that is written there.
    pub fn new(place: Place, directory: &str) -> Self {
        Self { place, directory: directory.escape_default().to_string() }
    }
}

/// A copied file lies in another directory, and has another inode or lies on another file system.  Where only one
/// of these is another, it is most likely the same file: a boot numbers devices anew, a directory can be
/// moved.  One with another inode in the same directory may be a copy that was put there, or the node itself that was
/// moved to another disk, or away and back: what people make a node read-only for, so it stays so.
pub fn judge(home: &Home, found: &Found) -> Verdict {
    let Some(place) = found.place else {
        return Verdict::Doubtful("nobody can tell where it lies");
    };
    let Some(directory) = &found.directory else {
        return Verdict::Doubtful("the data directory's path is unknown");
    };
    let is_same_directory = home.directory == directory.escape_default().to_string();
    let is_same_device = home.place.device == place.device;
    match (home.place.inode == place.inode, is_same_device, is_same_directory) {
        (true, true, true) => Verdict::Same,
        (true, false, true) => Verdict::Doubtful("its device has another number"),
        (true, true, false) => Verdict::Doubtful("the data directory has another path"),
        (false, true, true) => Verdict::Replaced,
        (false, false, true) => Verdict::Doubtful("it was moved or copied to another file system"),
        (_, _, false) => Verdict::Copied,
    }
}
