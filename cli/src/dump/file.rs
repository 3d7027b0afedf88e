//! Files of a dump: compressed and hashed as they are written, readable by their owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use zstd::stream::write::Encoder;

use super::args::Compress;
use super::error::DumpError;
use crate::failure::Failure;
use crate::folder::{self, Folder};

/// How much is given to the compressor at once: it is called per row otherwise.
const BUFFER: usize = 128 * 1024;

/// An error of a file.
pub fn at(path: &Path) -> impl Fn(io::Error) -> DumpError + '_ {
    move |error| DumpError::File { path: path.to_owned(), error }
}

/// The parts of a dump's directory.
const PARTS: [&str; 2] = ["schema", "data"];

/// The directory of a dump. Dropped before it is [kept](Self::keep), all that is in it is removed.
pub struct Directory(Folder);

impl Directory {
    /// Makes it, or takes an empty one.
    pub fn create(path: &Path) -> Result<Directory, Failure> {
        let this = Directory(Folder::claim(path)?);
        this.make_parts()?;
        Ok(this)
    }

    fn make_parts(&self) -> Result<(), Failure> {
        PARTS.iter().try_for_each(|part| self.0.make(&self.path().join(part)))
    }

    /// Removes what has been written, for another attempt.
    pub fn empty(&self) -> Result<(), Failure> {
        for part in PARTS.map(|part| self.path().join(part)) {
            fs::remove_dir_all(&part).map_err(at(&part))?;
        }
        self.make_parts()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Writes the manifest: the dump is whole from the rename on.
    pub fn keep(self, manifest: &impl Serialize) -> Result<(), Failure> {
        for part in PARTS {
            folder::sync(&self.path().join(part))?;
        }
        folder::write_json(&self.path().join(crate::manifest::FILE), manifest)?;
        self.0.keep();
        Ok(())
    }
}

/// A file that is new, or begun again.
pub fn new_file(path: &Path) -> Result<File, DumpError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(at(path))
}

/// A file, counted and hashed.
struct Hashing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.file.write(data)?;
        self.hash.update(&data[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What becomes of the bytes.
enum Form {
    Plain(Hashing),
    Zstd(Box<Encoder<'static, Hashing>>),
}

impl Write for Form {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Form::Plain(file) => file.write(data),
            Form::Zstd(encoder) => encoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Form::Plain(file) => file.flush(),
            Form::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// A data file that is being written.
pub struct DataWriter {
    form: BufWriter<Form>,
    bytes: u64,
}

/// A file that is whole and on disk.
#[derive(Debug)]
pub struct Written {
    /// Before compression.
    pub bytes: u64,
    pub stored_bytes: u64,
    pub sha256: String,
}

impl DataWriter {
    /// Begins it, over what an earlier attempt may have left.
    pub fn create(path: &Path, compress: Compress) -> Result<DataWriter, DumpError> {
        let hashing = Hashing { file: new_file(path)?, hash: Sha256::new(), bytes: 0 };
        let form = match compress {
            Compress::None => Form::Plain(hashing),
            Compress::Zstd(level) => {
                let encoder = Encoder::new(hashing, level).and_then(|mut encoder| {
                    encoder.include_checksum(true)?;
                    Ok(encoder)
                });
                Form::Zstd(Box::new(encoder.map_err(at(path))?))
            }
        };
        Ok(DataWriter { form: BufWriter::with_capacity(BUFFER, form), bytes: 0 })
    }

    /// Takes a row.
    pub fn take(&mut self, row: &[u8]) -> io::Result<()> {
        self.bytes += row.len() as u64;
        self.form.write_all(row)
    }

    /// Ends it, and has it on disk.
    pub fn finish(self) -> io::Result<Written> {
        let form = self.form.into_inner().map_err(io::IntoInnerError::into_error)?;
        let done = match form {
            Form::Plain(hashing) => hashing,
            Form::Zstd(encoder) => encoder.finish()?,
        };
        done.file.sync_all()?;
        Ok(Written { bytes: self.bytes, stored_bytes: done.bytes, sha256: hex(done.hash) })
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size and hash of a file that is there.
pub fn measure(path: &Path) -> io::Result<(u64, String)> {
    measure_unless(path, &|| false)
}

/// The same, given up as soon as somebody is told to.
pub fn measure_unless(path: &Path, told: &dyn Fn() -> bool) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        if told() {
            return Err(io::Error::other("given up"));
        }
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hex(hash))),
            length => {
                hash.update(&buffer[..length]);
                bytes += length as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_was_given_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for compress in [Compress::None, Compress::Zstd(3)] {
            let path = folder.path().join("f");
            let mut writer = DataWriter::create(&path, compress).expect("a file");
            for _ in 0..1000 {
                writer.take(b"row\n").expect("room");
            }
            let written = writer.finish().expect("an end");
            assert_eq!(written.bytes, 4000);
            let found = measure(&path).expect("a file");
            assert_eq!((written.stored_bytes, written.sha256), found);
            let raw = fs::read(&path).expect("a file");
            let text = match compress {
                Compress::None => raw,
                Compress::Zstd(_) => zstd::decode_all(raw.as_slice()).expect("zstd"),
            };
            assert_eq!(text, b"row\n".repeat(1000));
        }
    }

    #[test]
    fn a_directory_that_is_not_kept_goes_and_one_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump");
        drop(Directory::create(&path).expect("new"));
        assert!(!path.exists());
        fs::create_dir(&path).expect("a folder");
        let directory = Directory::create(&path).expect("empty");
        fs::write(path.join("data/x"), "x").expect("a file");
        drop(directory);
        assert!(path.exists() && fs::read_dir(&path).expect("a folder").next().is_none());
        fs::write(path.join("mine"), "x").expect("a file");
        assert!(matches!(Directory::create(&path), Err(Failure::Directory { .. })));
        assert!(path.join("mine").exists());
        fs::remove_file(path.join("mine")).expect("a file");
        Directory::create(&path).expect("empty").keep(&1).expect("kept");
        assert!(path.join("manifest.json").exists());
    }
}
