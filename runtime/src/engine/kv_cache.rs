//! The key/value cache of all sequences in main memory: pages of half floats or q8_0, allocated once.
//!
//! Layout of keys and of values: [layer, page, kv_head, PAGE, head_dim], so that attention of one head reads one
//! contiguous run per page; which page holds what is the [`PageTable`]'s business. q8_0 keys lie four elements of
//! sixteen positions side by side (see [`KeysQ8`]), so that one vector holds the dot products of sixteen positions.
//! A position's bytes depend on nothing but its key and value. Deliberately absent: arithmetic of attention.

use super::pages::{PAGE, PageCopy, PageTable, PageUse, SequenceId};
use crate::kernels::KernelSet;
use crate::kernels::ops::{KeysQ8, Q8_BLOCK, Q8_GROUP, RunQ8};
use crate::quant::activation::ActivationType;
use crate::quant::blocks::{BlockQ8_0, blocks};
use crate::quant::panels::advise_huge_pages;
use crate::{Error, Result};
use half::f16;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half floats, as llama.cpp's default.
    #[default]
    F16,
    /// Blocks of 32 int8 with a half-precision scale: a little over half the bytes.
    Q8_0,
}

impl KvType {
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of `elements` elements, a whole number of blocks.
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            KvType::F16 => 2 * elements,
            KvType::Q8_0 => elements + elements / Q8_BLOCK * 2,
        }
    }
}

/// Sizes of a cache, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions that one sequence may have.
    pub context: usize,
    /// Pages of all sequences together.
    pub pages: usize,
    pub ty: KvType,
}

impl KvShape {
    /// Elements of the keys (and as many of the values); `None` on overflow.
    fn elements(&self) -> Option<usize> {
        let per_position = self.layers.checked_mul(self.kv_heads)?.checked_mul(self.head_dim)?;
        per_position.checked_mul(self.pages.checked_mul(PAGE)?)
    }

    /// Bytes of keys and values together; `None` on overflow.
    pub fn bytes(&self) -> Option<usize> {
        Some(self.ty.bytes(self.elements().filter(|elements| *elements < usize::MAX / 4)?) * 2)
    }

    /// Bytes of the keys and values that attention reads for `positions` positions.
    pub fn bytes_of(&self, positions: usize) -> usize {
        2 * self.ty.bytes(self.layers * self.kv_heads * self.head_dim) * positions
    }
}

/// The keys and values of one head in one page.
#[derive(Clone, Copy)]
pub enum Run<'a> {
    /// [PAGE, head_dim] each.
    F16 {
        keys: &'a [u16],
        values: &'a [u16],
    },
    Q8 {
        keys: KeysQ8<'a>,
        values: RunQ8<'a>,
    },
}

pub struct KvCache {
    shape: KvShape,
    table: PageTable,
    store: Store,
    copies: Vec<PageCopy>,
}

enum Store {
    F16 { keys: Vec<u16>, values: Vec<u16> },
    Q8 { keys: Vec<i8>, key_scales: Vec<u16>, values: Vec<i8>, value_scales: Vec<u16>, packed: Vec<u8> },
}

impl KvCache {
    /// # Errors
    /// [`Error::Limit`] where the memory is not to be had, [`Error::Usage`] where heads are not whole blocks of the
    /// type.
    pub fn new(shape: KvShape) -> Result<Self> {
        if shape.ty == KvType::Q8_0 && !shape.head_dim.is_multiple_of(Q8_BLOCK) {
            return Err(Error::usage(
                format!(
                    "--kv q8_0 needs heads of a multiple of {Q8_BLOCK}, this model's have {}",
                    shape.head_dim
                ),
                "use --kv f16",
            ));
        }
        let Some(store) = shape.bytes().and_then(|_| Store::new(&shape)) else {
            let what =
                format!("a KV cache of {} pages of {PAGE} positions does not fit into memory", shape.pages);
            return Err(Error::limit(what, "choose a smaller --ctx-size, or fewer sequences"));
        };
        let table = PageTable::new(shape.pages, shape.context);
        Ok(KvCache { shape, table, store, copies: Vec::with_capacity(shape.pages) })
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }

    pub fn table(&self) -> &PageTable {
        &self.table
    }

    pub fn usage(&self) -> PageUse {
        self.table.usage()
    }

    pub fn open(&mut self) -> SequenceId {
        self.table.open()
    }

    /// See [`PageTable::fork`].
    pub fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        self.table.fork(id, positions)
    }

    pub fn close(&mut self, id: SequenceId) {
        self.table.close(id);
    }

    /// Positions in use.
    pub fn len(&self, id: SequenceId) -> usize {
        self.table.len(id)
    }

    pub fn is_empty(&self, id: SequenceId) -> bool {
        self.table.is_empty(id)
    }

    /// Adds `count` positions, to be filled with [`Self::store`] for every layer; returns the first.
    ///
    /// # Errors
    /// [`Error::Limit`] where they do not fit; the cache is unchanged then.
    pub fn extend(&mut self, id: SequenceId, count: usize) -> Result<usize> {
        let first = self.table.extend(id, count, &mut self.copies)?;
        self.copy_pages();
        Ok(first)
    }

    /// Forgets all positions from `len` on; does nothing where there are fewer.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        self.table.truncate(id, len);
    }

    /// Writes one position of one layer. `keys` and `values` are [kv_heads, head_dim].
    ///
    /// # Panics
    /// On a layer, position or length outside the shape: a bug in the caller.
    pub fn store(
        &mut self,
        kernels: &KernelSet,
        layer: usize,
        (id, position): (SequenceId, usize),
        keys: &[f32],
        values: &[f32],
    ) {
        let KvShape { layers, kv_heads, head_dim, .. } = self.shape;
        assert!(layer < layers, "layer {layer} of {layers}");
        assert_eq!((keys.len(), values.len()), (kv_heads * head_dim, kv_heads * head_dim));
        let (page, at) = self.table.place(id, position);
        for head in 0..kv_heads {
            let run = self.run_number(layer, page, head);
            let of = head * head_dim..(head + 1) * head_dim;
            self.store.put(kernels, run, at, &keys[of.clone()], &values[of]);
        }
    }

    /// Keys and values of `head` in the page.
    pub fn run(&self, layer: usize, page: u32, head: usize) -> Run<'_> {
        self.store.run(self.run_number(layer, page, head), self.shape.head_dim)
    }

    /// All values of a cache of half floats; none of another.
    pub fn all_values(&self) -> &[u16] {
        match &self.store {
            Store::F16 { values, .. } => values,
            Store::Q8 { .. } => &[],
        }
    }

    /// Where the keys and values of `head` in the page [PAGE, head_dim] start, in elements.
    pub fn run_start(&self, layer: usize, page: u32, head: usize) -> usize {
        self.run_number(layer, page, head) * PAGE * self.shape.head_dim
    }

    /// Key and value of one position, as f32.
    pub fn read(
        &self,
        layer: usize,
        head: usize,
        (id, position): (SequenceId, usize),
    ) -> (Vec<f32>, Vec<f32>) {
        let (page, at) = self.table.place(id, position);
        let (mut key, mut value) = (vec![0.0; self.shape.head_dim], vec![0.0; self.shape.head_dim]);
        self.store.get(self.run_number(layer, page, head), at, &mut key, &mut value);
        (key, value)
    }

    /// Forgets the positions `keep..keep + discard` and moves the later ones down. `rotate` is called with
    /// every moved key `[head_dim]`, since a key carries the angle of its position.
    ///
    /// # Errors
    /// [`Error::Usage`] where the range is not inside the positions in use, [`Error::Limit`] where shared pages
    /// cannot be copied; the cache is unchanged then.
    pub fn shift(
        &mut self,
        kernels: &KernelSet,
        id: SequenceId,
        (keep, discard): (usize, usize),
        mut rotate: impl FnMut(&mut [f32]),
    ) -> Result<()> {
        let KvShape { layers, kv_heads, head_dim, .. } = self.shape;
        self.table.prepare_shift(id, keep, discard, &mut self.copies)?;
        self.copy_pages();
        let len = self.len(id);
        let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
        for position in keep + discard..if discard == 0 { 0 } else { len } {
            let (from, from_at) = self.table.place(id, position);
            let (to, to_at) = self.table.place(id, position - discard);
            for (layer, head) in (0..layers).flat_map(|layer| (0..kv_heads).map(move |head| (layer, head))) {
                self.store.get(self.run_number(layer, from, head), from_at, &mut key, &mut value);
                rotate(&mut key);
                self.store.put(kernels, self.run_number(layer, to, head), to_at, &key, &value);
            }
        }
        self.table.truncate(id, len - discard);
        Ok(())
    }

    fn run_number(&self, layer: usize, page: u32, head: usize) -> usize {
        (layer * self.shape.pages + page as usize) * self.shape.kv_heads + head
    }

    fn copy_pages(&mut self) {
        let KvShape { layers, kv_heads, head_dim, pages, .. } = self.shape;
        for copy in self.copies.drain(..) {
            for layer in 0..layers {
                let at = |page: u32| (layer * pages + page as usize) * kv_heads;
                self.store.copy(at(copy.from), at(copy.to), kv_heads, head_dim);
            }
        }
    }
}

impl Store {
    /// `None` where the memory is not to be had.
    fn new(shape: &KvShape) -> Option<Self> {
        let n = shape.elements()?;
        Some(match shape.ty {
            KvType::F16 => Store::F16 { keys: zeroed(n)?, values: zeroed(n)? },
            KvType::Q8_0 => Store::Q8 {
                keys: zeroed(n)?,
                key_scales: zeroed(n / Q8_BLOCK)?,
                values: zeroed(n)?,
                value_scales: zeroed(n / Q8_BLOCK)?,
                packed: vec![0; ActivationType::Q8_0.row_bytes(shape.head_dim)],
            },
        })
    }

    fn run(&self, run: usize, head_dim: usize) -> Run<'_> {
        let (n, blocks) = (PAGE * head_dim, PAGE * head_dim / Q8_BLOCK);
        match self {
            Store::F16 { keys, values } => {
                Run::F16 { keys: &keys[run * n..][..n], values: &values[run * n..][..n] }
            }
            Store::Q8 { keys, key_scales, values, value_scales, .. } => Run::Q8 {
                keys: KeysQ8 { quants: &keys[run * n..][..n], scales: &key_scales[run * blocks..][..blocks] },
                values: RunQ8 {
                    quants: &values[run * n..][..n],
                    scales: &value_scales[run * blocks..][..blocks],
                },
            },
        }
    }

    fn put(&mut self, kernels: &KernelSet, run: usize, at: usize, key: &[f32], value: &[f32]) {
        let d = key.len();
        match self {
            Store::F16 { keys, values } => {
                let start = (run * PAGE + at) * d;
                // SAFETY: the kernel set was selected for this CPU.
                unsafe {
                    (kernels.ops.f16_from_f32)(key, &mut keys[start..start + d]);
                    (kernels.ops.f16_from_f32)(value, &mut values[start..start + d]);
                }
            }
            Store::Q8 { keys, key_scales, values, value_scales, packed } => {
                let pack = kernels.quantize(ActivationType::Q8_0).run;
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { pack(key, packed) };
                for (block, of) in blocks::<BlockQ8_0>(packed).iter().enumerate() {
                    for (four, quants) in of.qs.as_chunks::<4>().0.iter().enumerate() {
                        let place = key_place(run, at, block * Q8_BLOCK / 4 + four, d);
                        keys[place..place + 4].copy_from_slice(quants);
                    }
                    key_scales[key_scale_place(run, at, block, d)] = u16::from_le_bytes(of.d.0);
                }
                // SAFETY: as above.
                unsafe { pack(value, packed) };
                let start = (run * PAGE + at) * d;
                for (block, of) in blocks::<BlockQ8_0>(packed).iter().enumerate() {
                    values[start + block * Q8_BLOCK..][..Q8_BLOCK].copy_from_slice(&of.qs);
                    value_scales[start / Q8_BLOCK + block] = u16::from_le_bytes(of.d.0);
                }
            }
        }
    }

    fn get(&self, run: usize, at: usize, key: &mut [f32], value: &mut [f32]) {
        let d = key.len();
        let start = (run * PAGE + at) * d;
        let wide = |bits: u16| f16::from_bits(bits).to_f32();
        match self {
            Store::F16 { keys, values } => {
                key.iter_mut().zip(&keys[start..]).for_each(|(out, bits)| *out = wide(*bits));
                value.iter_mut().zip(&values[start..]).for_each(|(out, bits)| *out = wide(*bits));
            }
            Store::Q8 { keys, key_scales, values, value_scales, .. } => {
                for (i, (key, value)) in key.iter_mut().zip(value).enumerate() {
                    let scale = wide(key_scales[key_scale_place(run, at, i / Q8_BLOCK, d)]);
                    *key = scale * f32::from(keys[key_place(run, at, i / 4, d) + i % 4]);
                    *value = wide(value_scales[(start + i) / Q8_BLOCK]) * f32::from(values[start + i]);
                }
            }
        }
    }

    /// Copies `count` runs.
    fn copy(&mut self, from: usize, to: usize, count: usize, head_dim: usize) {
        fn copy<T: Copy>(all: &mut [T], (from, to): (usize, usize), count: usize, width: usize) {
            all.copy_within(from * width..(from + count) * width, to * width);
        }
        let (n, at) = (PAGE * head_dim, (from, to));
        match self {
            Store::F16 { keys, values } => {
                copy(keys, at, count, n);
                copy(values, at, count, n);
            }
            Store::Q8 { keys, key_scales, values, value_scales, .. } => {
                copy(keys, at, count, n);
                copy(values, at, count, n);
                copy(key_scales, at, count, n / Q8_BLOCK);
                copy(value_scales, at, count, n / Q8_BLOCK);
            }
        }
    }
}

/// Where the four elements number `four` of the key at `at` begin.
fn key_place(run: usize, at: usize, four: usize, head_dim: usize) -> usize {
    (run * PAGE + at / Q8_GROUP * Q8_GROUP) * head_dim + (four * Q8_GROUP + at % Q8_GROUP) * 4
}

fn key_scale_place(run: usize, at: usize, block: usize, head_dim: usize) -> usize {
    (run * PAGE + at / Q8_GROUP * Q8_GROUP) * head_dim / Q8_BLOCK + block * Q8_GROUP + at % Q8_GROUP
}

/// `None` where the memory is not to be had; zeroed memory stays untouched until it is used.
fn zeroed<T: Clone + Default>(elements: usize) -> Option<Vec<T>> {
    // Asks the allocator first, since `vec!` aborts where it cannot.
    Vec::<T>::new().try_reserve_exact(elements).ok()?;
    let mut memory = vec![T::default(); elements];
    advise_huge_pages(&mut memory);
    Some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::SimdLevel;
    use crate::kernels::select::KernelRequest;
    use proptest::prelude::*;

    fn scalar() -> KernelSet {
        KernelSet::select(KernelRequest::Level(SimdLevel::Scalar)).unwrap()
    }

    fn shapes() -> impl Strategy<Value = KvShape> {
        let head_dims = prop_oneof![(1usize..5).prop_map(|d| (d, KvType::F16)), Just((32, KvType::Q8_0))];
        (1usize..4, 1usize..4, head_dims, 1usize..150).prop_map(
            |(layers, kv_heads, (head_dim, ty), context)| KvShape {
                layers,
                kv_heads,
                head_dim,
                context,
                pages: context.div_ceil(PAGE) + 1,
                ty,
            },
        )
    }

    /// A value that names its layer, head and position, and that both types hold exactly: elements of a block are
    /// whole multiples of a power of two, one of them 127 of it.
    fn row(shape: &KvShape, layer: usize, position: usize, kind: usize) -> Vec<f32> {
        let element = |head: usize, i: usize| match i {
            0 => 127.0,
            _ => ((layer * 31 + position * 7 + head * 13 + i * 3 + kind * 5) % 255) as f32 - 127.0,
        };
        let unit = 2f32.powi((position % 7) as i32 - 3);
        let heads =
            (0..shape.kv_heads).flat_map(|head| (0..shape.head_dim).map(move |i| element(head, i) * unit));
        heads.collect()
    }

    fn fill(cache: &mut KvCache, id: SequenceId, positions: std::ops::Range<usize>) {
        let (kernels, shape) = (scalar(), cache.shape());
        for layer in 0..shape.layers {
            for position in positions.clone() {
                let (key, value) = (row(&shape, layer, position, 0), row(&shape, layer, position, 1));
                cache.store(&kernels, layer, (id, position), &key, &value);
            }
        }
    }

    fn filled(shape: KvShape) -> (KvCache, SequenceId) {
        let mut cache = KvCache::new(shape).unwrap();
        let id = cache.open();
        cache.extend(id, shape.context).unwrap();
        fill(&mut cache, id, 0..shape.context);
        (cache, id)
    }

    /// Checks that position `at` holds what was stored as `from`, in every layer and head.
    fn holds(cache: &KvCache, id: SequenceId, at: usize, from: usize) {
        let shape = cache.shape();
        for (layer, head) in (0..shape.layers).flat_map(|l| (0..shape.kv_heads).map(move |h| (l, h))) {
            let of = head * shape.head_dim..(head + 1) * shape.head_dim;
            let (key, value) = cache.read(layer, head, (id, at));
            assert_eq!(key, row(&shape, layer, from, 0)[of.clone()], "key at {at}");
            assert_eq!(value, row(&shape, layer, from, 1)[of], "value at {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back(shape in shapes()) {
            let (cache, id) = filled(shape);
            (0..shape.context).for_each(|position| holds(&cache, id, position, position));
        }

        #[test]
        fn overflow_is_an_error_and_changes_nothing(shape in shapes(), extra in 1usize..9) {
            let (mut cache, id) = filled(shape);
            let error = cache.extend(id, extra).unwrap_err();
            prop_assert_eq!(error.exit_code(), bitforge_schema::exit::ExitCode::Limit);
            prop_assert_eq!(cache.len(id), shape.context);
            (0..shape.context).for_each(|position| holds(&cache, id, position, position));
        }

        #[test]
        fn truncate_keeps_the_prefix_and_frees_the_rest(shape in shapes(), len in 0usize..200) {
            let (mut cache, id) = filled(shape);
            cache.truncate(id, len);
            prop_assert_eq!(cache.len(id), len.min(shape.context));
            (0..cache.len(id)).for_each(|position| holds(&cache, id, position, position));
            prop_assert_eq!(cache.extend(id, shape.context - cache.len(id)).unwrap(), len.min(shape.context));
        }

        #[test]
        fn shift_drops_the_range_and_moves_the_rest(
            shape in shapes(), keep in 0usize..150, discard in 0usize..150, forked: bool,
        ) {
            let (mut cache, id) = filled(KvShape { pages: 8, ..shape });
            let child = forked.then(|| cache.fork(id, shape.context).unwrap());
            let mut rotated = 0;
            match cache.shift(&scalar(), id, (keep, discard), |_| rotated += 1) {
                Ok(()) => {
                    let moved = shape.context - keep - discard;
                    prop_assert_eq!(cache.len(id), keep + moved);
                    prop_assert_eq!(rotated, if discard == 0 { 0 } else { moved * shape.layers * shape.kv_heads });
                    (0..keep).for_each(|position| holds(&cache, id, position, position));
                    (keep..cache.len(id)).for_each(|position| holds(&cache, id, position, position + discard));
                }
                Err(_) => {
                    prop_assert!(keep + discard > shape.context);
                    prop_assert_eq!(cache.len(id), shape.context);
                }
            }
            if let Some(child) = child {
                (0..shape.context).for_each(|position| holds(&cache, child, position, position));
            }
        }

        #[test]
        fn extending_in_pieces_equals_extending_at_once(shape in shapes(), first in 0usize..150) {
            let mut cache = KvCache::new(shape).unwrap();
            let (id, first) = (cache.open(), first.min(shape.context));
            prop_assert_eq!(cache.extend(id, first).unwrap(), 0);
            prop_assert_eq!(cache.extend(id, shape.context - first).unwrap(), first);
            prop_assert_eq!(cache.len(id), shape.context);
        }

        #[test]
        fn writing_to_a_fork_leaves_the_parent_alone(shape in shapes(), at in 0usize..150) {
            let (mut cache, id) = filled(KvShape { pages: 8, ..shape });
            let at = at % shape.context;
            let child = cache.fork(id, at).unwrap();
            cache.extend(child, 1).unwrap();
            let (key, value) = (row(&shape, 0, at + 5, 1), row(&shape, 0, at + 5, 0));
            (0..shape.layers).for_each(|layer| cache.store(&scalar(), layer, (child, at), &key, &value));
            (0..shape.context).for_each(|position| holds(&cache, id, position, position));
            (0..at).for_each(|position| holds(&cache, child, position, position));
            prop_assert_eq!(&cache.read(0, 0, (child, at)).0[..], &key[..shape.head_dim]);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_allocated_is_an_error() {
        let small = KvShape { layers: 1, kv_heads: 4, head_dim: 4, context: 4, pages: 1, ty: KvType::F16 };
        assert!(KvCache::new(KvShape { layers: usize::MAX / 8, ..small }).is_err());
        assert!(KvCache::new(KvShape { pages: usize::MAX / 8, ..small }).is_err());
        assert!(
            KvCache::new(KvShape { ty: KvType::Q8_0, ..small }).is_err(),
            "heads of 4 are no blocks of 32"
        );
    }
}
