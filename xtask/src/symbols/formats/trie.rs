//! The exports trie of a Mach-O image, for files whose symbol table was stripped.
//!
//! In: the trie's bytes. Out: exported symbols. A node holds its payload (flags, address), then edges: a
//! piece of the name and the offset of the child. Offsets may form a cycle or share children, which in an
//! honest trie never happens, so more nodes than bytes is damage. Layout: dyld's `Trie.hpp` as described in
//! `mach-o/loader.h` at `LC_DYLD_EXPORTS_TRIE`.

use crate::symbols::model::{Budget, Symbol};
use std::borrow::Cow;

const REEXPORT: u64 = 0x08;
const WEAK: u64 = 0x04;

/// Every symbol in the trie; names are put together from the edges.
pub(super) fn read<'d>(trie: &[u8], budget: &mut Budget) -> Result<Vec<Symbol<'d>>, String> {
    let mut symbols = Vec::new();
    let mut nodes = 0usize;
    let mut pending = if trie.is_empty() { Vec::new() } else { vec![(0u64, Vec::new())] };
    while let Some((offset, name)) = pending.pop() {
        nodes += 1;
        if nodes > trie.len() {
            return Err("the exports trie has more nodes than bytes: its offsets form a cycle".to_owned());
        }
        let mut at = Cursor { trie, at: usize::try_from(offset).unwrap_or(usize::MAX), node: offset };
        let payload = at.uleb()?;
        if payload != 0 {
            let mut inner = Cursor { ..at };
            let flags = inner.uleb()?;
            let address = if flags & REEXPORT != 0 { 0 } else { inner.uleb()? };
            let letter = match flags {
                _ if flags & REEXPORT != 0 => b'I',
                _ if flags & WEAK != 0 => b'W',
                _ => b'?',
            };
            symbols.push(Symbol {
                name: Cow::Owned(name.clone()),
                address,
                size: 0,
                version: 0,
                library: 0,
                letter,
                default_version: false,
            });
            at.at = at.at.saturating_add(usize::try_from(payload).unwrap_or(usize::MAX));
        }
        for _ in 0..at.byte()? {
            let mut child = name.clone();
            loop {
                match at.byte()? {
                    0 => break,
                    byte => child.push(byte),
                }
            }
            budget.spend(child.len() + 8)?;
            pending.push((at.uleb()?, child));
        }
    }
    Ok(symbols)
}

struct Cursor<'t> {
    trie: &'t [u8],
    at: usize,
    node: u64,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.trie.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte.ok_or_else(|| {
            format!(
                "the exports trie's node at {:#x} reaches past its {:#x} bytes",
                self.node,
                self.trie.len()
            )
        })
    }

    fn uleb(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("the exports trie's node at {:#x} holds a number of more than 64 bits", self.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_along_the_edges() {
        // Root -> "_f" -> terminal at 0x10 with child "oo" -> terminal at 0x20.
        let trie = [
            0, 1, b'_', b'f', 0, 6, // root
            2, 0, 0x10, 1, b'o', b'o', 0, 14, // "_f"
            2, 0, 0x20, 0, // "_foo"
        ];
        let symbols = read(&trie, &mut Budget::for_image(trie.len())).unwrap();
        let found: Vec<_> = symbols.iter().map(|symbol| (symbol.name.to_vec(), symbol.address)).collect();
        assert_eq!(found, [(b"_f".to_vec(), 0x10), (b"_foo".to_vec(), 0x20)]);
    }

    #[test]
    fn cycles_and_shared_children_end() {
        let to_root = [0, 1, b'a', 0, 0];
        let error = read(&to_root, &mut Budget::for_image(to_root.len())).unwrap_err();
        assert!(error.contains("cycle"), "{error}");
        // Each node has two edges to the next one: 2^15 paths through 122 bytes.
        let mut doubling = Vec::new();
        for level in 1..=15u8 {
            doubling.extend([0, 2, b'a', 0, level * 8, b'b', 0, level * 8]);
        }
        doubling.extend([0, 0]);
        let error = read(&doubling, &mut Budget::for_image(doubling.len())).unwrap_err();
        assert!(error.contains("more nodes than bytes"), "{error}");
    }
}
