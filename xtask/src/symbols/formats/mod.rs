//! One reader per container format; each takes bytes and fills a `Library`.
//!
//! Readers never trust a count, an offset or a chain: every table is bounds-checked by `object`'s views and
//! paid for from a `Budget`. A message says what is wrong and at which offset; the caller adds the path.

pub(super) mod archive;
pub(super) mod coff;
pub(super) mod elf;
mod letters;
pub(super) mod macho;
mod pe;
mod trie;
mod versions;

pub(super) use pe::read as read_pe;

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
