//! Bytes that start at a cache line, in huge pages where the system has them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};

const ALIGNMENT: usize = 64;
/// Allocations from this size on ask for huge pages: streams of weights then miss the TLB 512 times less often.
#[cfg(any(target_os = "linux", test))]
const HUGE: usize = 1 << 20;

/// A fixed number of bytes, zero at first; untouched pages take no memory.
pub struct AlignedBytes {
    start: std::ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are owned by this value alone, as a `Box<[u8]>` owns its.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    pub fn zeroed(len: usize) -> Self {
        let Some(layout) = Self::layout(len) else {
            return AlignedBytes { start: std::ptr::NonNull::dangling(), len: 0 };
        };
        // SAFETY: the layout has a size above 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = std::ptr::NonNull::new(start) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if len >= HUGE {
            let page = 4096;
            let skip = start.as_ptr().align_offset(page);
            let whole = (len - skip) / page * page;
            // SAFETY: the whole pages inside the allocation just made; the advice changes no contents. Where it is not
            // taken, small pages do.
            unsafe { libc::madvise(start.as_ptr().add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
        }
        AlignedBytes { start, len }
    }

    fn layout(len: usize) -> Option<Layout> {
        (len > 0)
            .then(|| Layout::from_size_align(len, ALIGNMENT).expect("a length that fits the address space"))
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated by `zeroed` with this layout, and not freed before.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on are initialised and owned by `self`; dangling only where `len` is 0.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_kind() {
        for len in [0, 1, 63, 4096, HUGE, 3 * HUGE + 5] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!(bytes.len(), len);
            assert!(len == 0 || bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    }
}
