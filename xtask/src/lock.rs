//! One lock for everything that two processes must not do at once: an exclusive file lock that is waited for.
//!
//! In: the path of a lock file. Out: the locked file; dropping it, or the end of the process, unlocks.

use crate::ctx::Ctx;
use crate::proc;
use anyhow::{Context, Result};
use std::fs::{File, TryLockError};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// Takes the lock; says so once where another process holds it, and waits. Ctrl-C ends the waiting.
pub fn lock(ctx: &Ctx, path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                proc::check_interrupted()?;
                if !told {
                    ctx.out.line(format!("another process holds {}; waiting for it", path.display()));
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
}

/// Lets every process that is started from now on hold the lock as well: where this one is killed, the lock ends
/// with the last of them. Not for processes that start daemons.
pub fn share_with_children(lock: &File) -> Result<()> {
    // SAFETY: fcntl with F_SETFD takes plain integers, and the descriptor is open as long as `lock` lives.
    let status = unsafe { libc::fcntl(lock.as_raw_fd(), libc::F_SETFD, 0) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("sharing a lock with child processes");
    }
    Ok(())
}
