//! Files that appear under their name only when they are complete.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Lets `write` write to a new file next to `path`, then renames it to `path`. What is incomplete is removed.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let partial = partial_path(path);
    let io = |error| Error::io(&partial, error);
    let outcome = File::create(&partial).map_err(io).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush().map_err(io)
    });
    if let Err(error) = outcome {
        // The error that counts is the one of writing.
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    std::fs::rename(&partial, path).map_err(|e| Error::io(path, e))
}

/// A name in the same directory, so that renaming is atomic.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}
