//! Files that appear under their name only when they are complete.

use bitnet_runtime::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Lets `write` write to a new file next to `path`, then renames it to `path`. What is incomplete is removed.
pub fn write_whole<T>(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>) -> Result<T> {
    let partial = Partial::create(path)?;
    let mut file = BufWriter::new(&partial.file);
    let written = write(&mut file)?;
    file.flush().map_err(|error| Error::io(&partial.path, error))?;
    drop(file);
    partial.rename(path)?;
    Ok(written)
}

/// A file under another name in the same directory, so that renaming is atomic; removed unless it is renamed.
pub struct Partial {
    pub file: File,
    path: PathBuf,
    renamed: bool,
}

impl Partial {
    pub fn create(path: &Path) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        Ok(Partial { file, path, renamed: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rename(mut self, path: &Path) -> Result<()> {
        std::fs::rename(&self.path, path).map_err(|error| Error::io(path, error))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that counts is the one that ended the writing.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
