//! Putting files in place: locks across processes, free space, and one rename that makes a file visible.

use super::{Context, with_suffix};
use crate::{Error, Result};
use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Free bytes that stay after a download.
const MARGIN: u64 = 64 << 20;

/// An exclusive lock on the file `path` (made where it is missing), waited for; dropping it unlocks. It is flock, as
/// Python's filelock takes, so that huggingface_hub and this program wait for each other.
pub fn lock(ctx: &Context<'_>, path: &Path) -> Result<File> {
    create_parent(path)?;
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|error| Error::io(path, error))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                ctx.check_interrupt()?;
                if !told {
                    ctx.note(format!("another process holds {}; waiting for it", path.display()));
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path, error)),
        }
    }
}

/// # Errors
/// [`Error::Limit`] where the file system of `dir` has less than `bytes` and a margin.
pub fn require_space(dir: &Path, bytes: u64) -> Result<()> {
    let free = free_space(dir)?;
    if free >= bytes.saturating_add(MARGIN) {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(Error::limit(
        format!(
            "{} has {} MiB free and {} MiB are needed",
            dir.display(),
            mib(free),
            mib(bytes) + mib(MARGIN)
        ),
        "free some, or set BITNET_CACHE_DIR or HF_HUB_CACHE to another disk",
    ))
}

fn free_space(dir: &Path) -> Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())
        .map_err(|_| Error::usage(format!("{} holds a NUL byte", dir.display()), "choose another folder"))?;
    // SAFETY: statvfs is plain data, for which zeros are a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated and `stat` outlives the call.
    let status = unsafe { libc::statvfs(path.as_ptr(), &mut stat) };
    if status != 0 {
        return Err(Error::io(dir, std::io::Error::last_os_error()));
    }
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

pub fn create_parent(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))
}

/// Makes the finished file `partial` visible as `path`; both are on disk afterwards.
pub fn publish(partial: &Path, path: &Path) -> Result<()> {
    let synced = File::open(partial).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io(partial, error))?;
    fs::rename(partial, path).map_err(|error| Error::io(path, error))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::io(dir, error))
}

/// Writes a small file whole or not at all.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    let partial = unfinished(path);
    fs::write(&partial, content).map_err(|error| Error::io(&partial, error))?;
    publish(&partial, path)
}

/// Makes `link` a symbolic link to `target`, replacing what is there.
pub fn link(target: &Path, link: &Path) -> Result<()> {
    create_parent(link)?;
    if fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let new = unfinished(link);
    remove(&new)?;
    std::os::unix::fs::symlink(target, &new).map_err(|error| Error::io(&new, error))?;
    fs::rename(&new, link).map_err(|error| Error::io(link, error))
}

/// A name beside `path` that no other process and no other thread of this one writes to.
fn unfinished(path: &Path) -> PathBuf {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    with_suffix(path, &format!(".{}-{number}.new", std::process::id()))
}

/// Removes a file, a link or a folder; nothing there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| Error::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_write_one_file_or_link_do_not_meet() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (file, to) = (dir.path().join("refs/main"), dir.path().join("link"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..20 {
                        write_whole(&file, b"0123456789").expect("written");
                        link(Path::new(["a", "b"][number % 2]), &to).expect("linked");
                    }
                });
            }
        });
        assert_eq!(fs::read(&file).expect("there"), b"0123456789");
        let left = fs::read_dir(dir.path())
            .expect("there")
            .chain(fs::read_dir(dir.path().join("refs")).expect("there"));
        assert_eq!(left.count(), 3);
    }
}
