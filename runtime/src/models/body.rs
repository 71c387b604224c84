//! The body of an answer, read in blocks, that must not stall.
//!
//! In: a [`Reply`]. Out: full buffers, or the [`Fault`] that kept one from being filled. Bytes count as received when
//! they come and stop counting when their block fails.

use super::download::Shared;
use super::http::{Fault, Reply, read_fault};
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes per second below which a connection counts as stalled.
const SLOWEST: f64 = 1024.0;

pub struct Body<'s, 'm, R> {
    reader: R,
    shared: &'s Shared<'m>,
    since: Instant,
    bytes: u64,
    /// Bytes of the block under way, which do not count if it fails.
    pub counted: u64,
}

impl<'s, 'm> Body<'s, 'm, ()> {
    pub fn new(reply: Reply, shared: &'s Shared<'m>) -> Body<'s, 'm, impl Read> {
        Body { reader: reply.into_reader(), shared, since: Instant::now(), bytes: 0, counted: 0 }
    }
}

impl<R: Read> Body<'_, '_, R> {
    pub fn fill(&mut self, block: &mut [u8]) -> Result<(), Fault> {
        let mut at = 0;
        while at < block.len() {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(self.failed("stopped"));
            }
            let count = match self.reader.read(&mut block[at..]) {
                Ok(0) => return Err(self.failed("the connection ended before the last byte")),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_fault(&error, self.shared.job.remote)),
            };
            at += count;
            self.bytes += count as u64;
            self.counted += count as u64;
            self.shared.received.fetch_add(count as u64, Ordering::Relaxed);
            let (elapsed, stall) = (self.since.elapsed(), self.shared.ctx.tuning.stall);
            if elapsed >= stall {
                if (self.bytes as f64) < SLOWEST * elapsed.as_secs_f64() {
                    return Err(self.failed("the connection gives next to nothing"));
                }
                (self.since, self.bytes) = (Instant::now(), 0);
            }
        }
        Ok(())
    }

    /// Reads what is there already.
    pub fn skip(&mut self, len: usize) -> Result<(), Fault> {
        let mut piece = [0; 8 << 10];
        (0..len).step_by(piece.len()).try_for_each(|at| self.fill(&mut piece[..(len - at).min(8 << 10)]))
    }

    /// Nothing follows; having seen that, the connection can be used again.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err(self.failed("more bytes came than were announced")),
        }
    }

    pub fn failed(&self, what: &str) -> Fault {
        Fault::Again { what: format!("{}: {what}", self.shared.job.remote.what), after: None }
    }
}

impl<R> Drop for Body<'_, '_, R> {
    fn drop(&mut self) {
        self.shared.received.fetch_sub(self.counted, Ordering::Relaxed);
    }
}
