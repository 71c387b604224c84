//! The KV cache under any order of operations, next to a plain list per sequence.

use crate::input::Input;
use bitnet_runtime::engine::kv_cache::{KvCache, KvShape, KvType};
use bitnet_runtime::engine::pages::{PAGE, SequenceId};
use bitnet_runtime::kernels::KernelSet;
use bitnet_runtime::kernels::select::KernelRequest;
use std::sync::OnceLock;

fn kernels() -> &'static KernelSet {
    static SET: OnceLock<KernelSet> = OnceLock::new();
    SET.get_or_init(|| KernelSet::select(KernelRequest::Auto).expect("some level is there"))
}

/// A value that names its stamp and that both types hold exactly: multiples of a power of two, one of them 127 of it.
fn row(shape: &KvShape, layer: usize, stamp: u32, kind: u32) -> Vec<f32> {
    let element = |i: usize| match i % 32 {
        0 => 127.0,
        _ => ((stamp as usize * 7 + layer * 31 + i * 3 + kind as usize * 5) % 255) as f32 - 127.0,
    };
    let unit = 2f32.powi((stamp % 7) as i32 - 3);
    (0..shape.kv_heads * shape.head_dim).map(|i| element(i) * unit).collect()
}

struct State {
    cache: KvCache,
    /// Stamps of the positions of each open sequence.
    sequences: Vec<(SequenceId, Vec<u32>)>,
    stamp: u32,
}

pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let ty = [KvType::F16, KvType::Q8_0][usize::from(input.byte() & 1)];
    let shape = KvShape {
        layers: 1 + usize::from(input.byte() % 2),
        kv_heads: 1 + usize::from(input.byte() % 2),
        head_dim: 32,
        context: 1 + input.below(260),
        pages: 1 + usize::from(input.byte() % 9),
        ty,
    };
    let cache = KvCache::new(shape).expect("a small cache");
    let mut state = State { cache, sequences: Vec::new(), stamp: 0 };
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        state.apply(&mut input);
        state.check();
    }
    state.check_values();
    for (id, _) in std::mem::take(&mut state.sequences) {
        state.cache.close(id);
    }
    assert_eq!(state.cache.usage().free, shape.pages, "every page comes back");
}

impl State {
    fn apply(&mut self, input: &mut Input<'_>) {
        let (op, which) = (input.byte() % 8, input.byte());
        let open = self.sequences.len();
        if open == 0 || op == 0 && open < 12 {
            return self.sequences.push((self.cache.open(), Vec::new()));
        }
        let which = usize::from(which) % open;
        let (count, more) = (usize::from(input.byte()), usize::from(input.byte()));
        let shape = self.cache.shape();
        let before = self.cache.usage();
        let (id, held) = &mut self.sequences[which];
        match op {
            1 => match self.cache.fork(*id, count) {
                Ok(child) => {
                    let held = held[..count].to_vec();
                    self.sequences.push((child, held));
                }
                Err(_) => assert!(count > held.len()),
            },
            2..5 => match self.cache.extend(*id, count) {
                Ok(first) => {
                    assert_eq!(first, held.len());
                    for position in first..first + count {
                        self.stamp += 1;
                        held.push(self.stamp);
                        for layer in 0..shape.layers {
                            let (key, value) =
                                (row(&shape, layer, self.stamp, 0), row(&shape, layer, self.stamp, 1));
                            self.cache.store(kernels(), layer, (*id, position), &key, &value);
                        }
                    }
                }
                Err(_) => {
                    assert!(held.len() + count > shape.context || before.free < count.div_ceil(PAGE) + 1);
                    assert_eq!(self.cache.usage(), before, "a failure changes nothing");
                }
            },
            5 => {
                self.cache.truncate(*id, count);
                held.truncate(count);
            }
            6 => match self.cache.shift(kernels(), *id, (count, more), |_| ()) {
                Ok(()) => drop(held.drain(count..count + more)),
                Err(_) => {
                    assert!(count + more > held.len() || before.free < held.len().div_ceil(PAGE));
                    assert_eq!(self.cache.usage(), before, "a failure changes nothing");
                }
            },
            _ => {
                let (id, _) = self.sequences.swap_remove(which);
                self.cache.close(id);
            }
        }
    }

    fn check(&self) {
        let mut users = vec![0u32; self.cache.shape().pages];
        for (id, held) in &self.sequences {
            assert_eq!(self.cache.len(*id), held.len());
            self.cache.table().pages(*id).iter().for_each(|page| users[*page as usize] += 1);
        }
        let usage = self.cache.usage();
        assert_eq!(usage.free, users.iter().filter(|users| **users == 0).count());
        assert_eq!(usage.shared, users.iter().filter(|users| **users > 1).count());
    }

    fn check_values(&self) {
        let shape = self.cache.shape();
        for (id, held) in &self.sequences {
            for (position, stamp) in held.iter().enumerate() {
                for layer in 0..shape.layers {
                    for head in 0..shape.kv_heads {
                        let of = head * shape.head_dim..(head + 1) * shape.head_dim;
                        let (key, value) = self.cache.read(layer, head, (*id, position));
                        assert_eq!(key, row(&shape, layer, *stamp, 0)[of.clone()], "key at {position}");
                        assert_eq!(value, row(&shape, layer, *stamp, 1)[of], "value at {position}");
                    }
                }
            }
        }
    }
}
