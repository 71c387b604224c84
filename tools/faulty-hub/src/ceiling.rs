//! What a fetch is compared with: bare sockets that receive, or receive and hash, and a bare disk.
//!
//! In: the address of a file, or bytes. Out: when all has arrived, and its digest; when all is on the disk. A block is
//! asked for at a time over each of several connections, as the binary does on loopback; nothing of it is written,
//! checked or tried again.

use crate::drill::BLOCK;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

const PAGE: usize = 4096;

/// Receives `len` bytes of `url` over `connections` and forgets them.
pub fn receive(url: &str, len: usize, connections: usize) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let receiving = || {
            let mut block = vec![0; BLOCK];
            blocks(url, len, &next, |_, body, len| body.read_exact(&mut block[..len]))
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(receiving)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// Receives as [`receive`] does while this thread hashes, in order.
pub fn receive_and_hash(url: &str, len: usize, connections: usize) -> io::Result<String> {
    let next = AtomicUsize::new(0);
    let free: Mutex<Vec<Vec<u8>>> = Mutex::default();
    let locked = || free.lock().expect("no thread panics");
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<(usize, Vec<u8>)>(8);
        let receiving = |sender: mpsc::SyncSender<(usize, Vec<u8>)>| {
            blocks(url, len, &next, |index, body, len| {
                let mut block = locked().pop().unwrap_or_default();
                block.resize(len, 0);
                body.read_exact(&mut block)?;
                sender.send((index, block)).map_err(io::Error::other)
            })
        };
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(move || receiving(sender))
            })
            .collect();
        drop(sender);
        let (mut hasher, mut early, mut hashed) = (Sha256::new(), BTreeMap::new(), 0);
        for (index, block) in receiver {
            early.insert(index, block);
            while let Some(block) = early.remove(&hashed) {
                hasher.update(&block);
                locked().push(block);
                hashed += 1;
            }
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

/// Writes a file through the page cache, until it is on the disk.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    content.chunks(BLOCK).try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

/// Writes a file past the page cache, into space that was reserved, two blocks at a time, until it is on the disk.
pub fn write_direct(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = File::options().create(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    // SAFETY: the descriptor is open and the call takes plain integers.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, content.len() as i64) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let next = AtomicUsize::new(0);
    let writing = || -> io::Result<()> {
        // Begins at a page.
        let mut memory = vec![0; BLOCK + PAGE];
        let skip = memory.as_ptr().align_offset(PAGE);
        loop {
            let offset = next.fetch_add(BLOCK, Ordering::Relaxed);
            let Some(rest) = content.get(offset..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            let block = &mut memory[skip..skip + BLOCK];
            block.copy_from_slice(&rest[..BLOCK]);
            file.write_all_at(block, offset as u64)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(writing)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    file.sync_all()
}

/// Seconds that processors spent on this process or on its children that ended.
pub fn processor_seconds(whose: i32) -> f64 {
    // SAFETY: rusage is plain data, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    unsafe { libc::getrusage(whose, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Asks for block after block that nobody has taken, over one connection.
fn blocks(
    url: &str,
    len: usize,
    next: &AtomicUsize,
    mut each: impl FnMut(usize, &mut BufReader<TcpStream>, usize) -> io::Result<()>,
) -> io::Result<()> {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| io::Error::other(format!("{url} is no http URL with a path")))?;
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 10, stream.try_clone()?);
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let (first, end) = (index * BLOCK, len.min((index + 1) * BLOCK));
        if first >= len {
            return Ok(());
        }
        let last = end - 1;
        let range = format!("bytes={first}-{last}");
        let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nrange: {range}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 206") {
            return Err(io::Error::other(format!("the hub answered {line:?}")));
        }
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        each(index, &mut reader, end - first)?;
    }
}
