//! The key/value cache of one sequence: half floats, allocated once, shape and capacity checked.
//!
//! Layout of keys and of values: [layer, kv_head, position, head_dim], so that attention of one head reads
//! one contiguous run. Deliberately absent: paging and several sequences.

use crate::{Error, Result};

pub struct KvCache {
    shape: KvShape,
    len: usize,
    keys: Vec<u16>,
    values: Vec<u16>,
}

/// Sizes of a cache, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions.
    pub capacity: usize,
}

impl KvShape {
    /// Bytes of keys and values together; `None` on overflow.
    pub fn bytes(&self) -> Option<usize> {
        let per_position =
            self.layers.checked_mul(self.kv_heads)?.checked_mul(self.head_dim)?.checked_mul(4)?;
        per_position.checked_mul(self.capacity)
    }
}

impl KvCache {
    /// # Errors
    /// [`Error::Limit`] where the memory is not to be had.
    pub fn new(shape: KvShape) -> Result<Self> {
        let allocate = |elements: usize| {
            // Asks the allocator first, since `vec!` aborts where it cannot; zeroed pages stay untouched.
            Vec::<u16>::new().try_reserve_exact(elements).ok()?;
            Some(vec![0u16; elements])
        };
        let caches = shape.bytes().and_then(|bytes| Some((allocate(bytes / 4)?, allocate(bytes / 4)?)));
        let Some((keys, values)) = caches else {
            let what = format!("a KV cache of {} positions does not fit into memory", shape.capacity);
            return Err(Error::limit(what, "choose a smaller --ctx-size"));
        };
        Ok(KvCache { shape, len: 0, keys, values })
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Positions in use.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `count` positions, to be filled with [`Self::store`] for every layer; returns the first.
    ///
    /// # Errors
    /// [`Error::Limit`] where they do not fit; the cache is unchanged then.
    pub fn extend(&mut self, count: usize) -> Result<usize> {
        let free = self.shape.capacity - self.len;
        if count > free {
            return Err(Error::limit(
                format!(
                    "{count} more tokens do not fit into the context of {} ({} in use)",
                    self.shape.capacity, self.len
                ),
                "choose a larger --ctx-size, a shorter prompt, fewer --max-tokens, or --context-shift",
            ));
        }
        self.len += count;
        Ok(self.len - count)
    }

    /// Forgets all positions from `len` on; does nothing where there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes one position of one layer. `keys` and `values` are [kv_heads, head_dim].
    ///
    /// # Panics
    /// On a layer, position or length outside the shape: a bug in the caller.
    pub fn store(&mut self, layer: usize, position: usize, keys: &[u16], values: &[u16]) {
        let KvShape { layers, kv_heads, head_dim, .. } = self.shape;
        assert!(layer < layers && position < self.len, "layer {layer}, position {position} of {}", self.len);
        assert_eq!((keys.len(), values.len()), (kv_heads * head_dim, kv_heads * head_dim));
        for head in 0..kv_heads {
            let (at, from) = (self.offset(layer, head) + position * head_dim, head * head_dim);
            self.keys[at..at + head_dim].copy_from_slice(&keys[from..from + head_dim]);
            self.values[at..at + head_dim].copy_from_slice(&values[from..from + head_dim]);
        }
    }

    /// Keys of one head [positions, head_dim], for the first `positions` positions.
    pub fn keys(&self, layer: usize, head: usize, positions: usize) -> &[u16] {
        assert!(positions <= self.len, "{positions} of {} positions", self.len);
        &self.keys[self.offset(layer, head)..][..positions * self.shape.head_dim]
    }

    /// Values of one head [positions, head_dim], for the first `positions` positions.
    pub fn values(&self, layer: usize, head: usize, positions: usize) -> &[u16] {
        assert!(positions <= self.len, "{positions} of {} positions", self.len);
        &self.values[self.offset(layer, head)..][..positions * self.shape.head_dim]
    }

    /// Forgets the positions `keep..keep + discard` and moves the later ones down. `rotate` is called with
    /// every moved key [head_dim], since a key carries the angle of its position.
    ///
    /// # Errors
    /// [`Error::Usage`] where the range is not inside the positions in use; the cache is unchanged then.
    pub fn shift(&mut self, keep: usize, discard: usize, mut rotate: impl FnMut(&mut [u16])) -> Result<()> {
        let KvShape { layers, kv_heads, head_dim, .. } = self.shape;
        let Some(first) = keep.checked_add(discard).filter(|first| *first <= self.len) else {
            let what = format!("cannot drop {discard} positions after the first {keep} of {}", self.len);
            return Err(Error::usage(what, "keep and drop fewer"));
        };
        for (layer, head) in (0..layers).flat_map(|layer| (0..kv_heads).map(move |head| (layer, head))) {
            let start = self.offset(layer, head);
            let moved = start + first * head_dim..start + self.len * head_dim;
            let to = start + keep * head_dim;
            let count = moved.len();
            self.keys.copy_within(moved.clone(), to);
            self.values.copy_within(moved, to);
            self.keys[to..to + count].chunks_exact_mut(head_dim).for_each(&mut rotate);
        }
        self.len -= discard;
        Ok(())
    }

    fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * self.shape.capacity * self.shape.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes() -> impl Strategy<Value = KvShape> {
        (1usize..4, 1usize..4, 1usize..5, 1usize..20).prop_map(|(layers, kv_heads, head_dim, capacity)| {
            KvShape { layers, kv_heads, head_dim, capacity }
        })
    }

    /// A value that names its layer, position and element; values differ from keys.
    fn stamp(layer: usize, position: usize, element: usize, value: u16) -> u16 {
        (layer * 5000 + position * 64 + element * 2) as u16 + value
    }

    fn filled(shape: KvShape) -> KvCache {
        let mut cache = KvCache::new(shape).unwrap();
        cache.extend(shape.capacity).unwrap();
        let row = |layer, position, kind| {
            (0..shape.kv_heads * shape.head_dim).map(|i| stamp(layer, position, i, kind)).collect::<Vec<_>>()
        };
        for layer in 0..shape.layers {
            for position in 0..shape.capacity {
                cache.store(layer, position, &row(layer, position, 0), &row(layer, position, 1));
            }
        }
        cache
    }

    /// Checks that position `at` holds what was stored as `from`, in every layer and head.
    fn holds(cache: &KvCache, at: usize, from: usize) {
        let KvShape { layers, kv_heads, head_dim, .. } = cache.shape();
        for layer in 0..layers {
            for head in 0..kv_heads {
                for d in 0..head_dim {
                    let element = head * head_dim + d;
                    let index = at * head_dim + d;
                    assert_eq!(cache.keys(layer, head, at + 1)[index], stamp(layer, from, element, 0));
                    assert_eq!(cache.values(layer, head, at + 1)[index], stamp(layer, from, element, 1));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back(shape in shapes()) {
            let cache = filled(shape);
            (0..shape.capacity).for_each(|position| holds(&cache, position, position));
        }

        #[test]
        fn overflow_is_an_error_and_changes_nothing(shape in shapes(), extra in 1usize..9) {
            let mut cache = filled(shape);
            let error = cache.extend(extra).unwrap_err();
            prop_assert_eq!(error.exit_code(), bitforge_schema::exit::ExitCode::Limit);
            prop_assert_eq!(cache.len(), shape.capacity);
            (0..shape.capacity).for_each(|position| holds(&cache, position, position));
        }

        #[test]
        fn truncate_keeps_the_prefix_and_frees_the_rest(shape in shapes(), len in 0usize..25) {
            let mut cache = filled(shape);
            cache.truncate(len);
            prop_assert_eq!(cache.len(), len.min(shape.capacity));
            (0..cache.len()).for_each(|position| holds(&cache, position, position));
            prop_assert_eq!(cache.extend(shape.capacity - cache.len()).unwrap(), len.min(shape.capacity));
        }

        #[test]
        fn shift_drops_the_range_and_moves_the_rest(shape in shapes(), keep in 0usize..20, discard in 0usize..20) {
            let mut cache = filled(shape);
            let mut rotated = 0;
            match cache.shift(keep, discard, |_| rotated += 1) {
                Ok(()) => {
                    let moved = shape.capacity - keep - discard;
                    prop_assert_eq!(cache.len(), keep + moved);
                    prop_assert_eq!(rotated, moved * shape.layers * shape.kv_heads);
                    (0..keep).for_each(|position| holds(&cache, position, position));
                    (keep..cache.len()).for_each(|position| holds(&cache, position, position + discard));
                }
                Err(_) => {
                    prop_assert!(keep + discard > shape.capacity);
                    prop_assert_eq!(cache.len(), shape.capacity);
                }
            }
        }

        #[test]
        fn extending_in_pieces_equals_extending_at_once(shape in shapes(), first in 0usize..20) {
            let mut cache = KvCache::new(shape).unwrap();
            let first = first.min(shape.capacity);
            prop_assert_eq!(cache.extend(first).unwrap(), 0);
            prop_assert_eq!(cache.extend(shape.capacity - first).unwrap(), first);
            prop_assert_eq!(cache.len(), shape.capacity);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_allocated_is_an_error() {
        let shape = KvShape { layers: usize::MAX / 8, kv_heads: 4, head_dim: 4, capacity: 4 };
        assert!(KvCache::new(shape).is_err());
        let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 1, capacity: usize::MAX / 8 };
        assert!(KvCache::new(shape).is_err());
    }
}
