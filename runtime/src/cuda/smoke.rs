//! Every kernel on random shapes and inputs, outputs poisoned before, against definitions on the host.
//!
//! In: a seed. Out: one [`Check`] per kernel and shape. Integer products must be exact, so their descaled results equal
//! the host's to the last bit; float kernels are compared with f64 by relative L2. Deliberately absent: the kernels of
//! decoding steps (see `smoke_step`).

use super::driver::{Buffer, Device};
use super::forward::{gemm_shape, head_kernel, product_kernel, rows_of_block};
use super::kernels::{Kernels, Shape};
use super::params::{Attend, Cache, Gemm, NormRow, Product, RopeStore, RowPlaces};
use crate::Result;
use crate::gpu::pack;
use crate::model::Matrix;
use crate::quant::activation::{ActivationQuant, ActivationType, i8_token_parts, quantize_activation};
use crate::quant::{I2sLayout, dequantize_row, i2s_pack, pack_ternary, quantize_row};
use crate::sampling::rng::SplitMix64;
use crate::tensor::TensorType;
use half::f16;

/// How one kernel came out at one shape.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    pub kernel: String,
    pub shape: String,
    /// Relative L2 distance, or the part of differing elements where results must be equal.
    pub error: f64,
    pub allowed: f64,
}

impl Check {
    /// NaN never passes.
    pub fn holds(&self) -> bool {
        self.error <= self.allowed
    }
}

pub(super) struct Lab {
    pub(super) device: Device,
    pub(super) kernels: Kernels,
    rng: SplitMix64,
    checks: Vec<Check>,
}

/// Checks every kernel `rounds` times with other shapes.
///
/// # Errors
/// A device that cannot be used, or one that fails while computing.
pub fn run(seed: u64, rounds: usize) -> Result<Vec<Check>> {
    let device = Device::open(0)?;
    let kernels = Kernels::load(&device)?;
    let mut lab = Lab { device, kernels, rng: SplitMix64::new(seed), checks: Vec::new() };
    for _ in 0..rounds {
        for (kind, tokens) in
            [("tile_128", 128), ("tile_64", 64), ("skinny_8", 8), ("skinny_32", 32), ("skinny_32x2", 32)]
        {
            for epilogue in ["store", "add", "gate_up"] {
                lab.gemm(kind, tokens, epilogue)?;
            }
        }
        for ty in TensorType::ALL {
            lab.product(ty)?;
        }
        lab.norm()?;
        lab.exchange()?;
        lab.head()?;
        lab.attention()?;
        lab.step()?;
    }
    Ok(lab.checks)
}

impl Lab {
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n as u64) as usize
    }

    pub(super) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.rng.next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
    }

    pub(super) fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.rng.next_u64() % 3) as i8 - 1).collect()
    }

    pub(super) fn note(&mut self, kernel: &str, shape: String, error: f64, allowed: f64) {
        self.checks.push(Check { kernel: kernel.into(), shape, error, allowed });
    }

    pub(super) fn poisoned(&self, n: usize) -> Result<Buffer<f32>> {
        self.device.upload("a poisoned output", &vec![f32::NAN; n])
    }

    pub(super) fn floats_of(&self, buffer: &Buffer<f32>, n: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; n];
        self.device.read(buffer, 0, &mut out)?;
        Ok(out)
    }

    pub(super) fn launch<P: cudarc::driver::DeviceRepr>(
        &self,
        name: &str,
        shape: Shape,
        params: &P,
    ) -> Result<()> {
        // SAFETY: 1. every caller passes the kernel's struct. 2. Its addresses are of buffers that the caller keeps until it
        // has read results, of the sizes that the shape needs. 3. One stream.
        unsafe { self.kernels.launch(&self.device, name, shape, params) }
    }

    fn gemm(&mut self, kind: &str, tokens: usize, epilogue: &str) -> Result<()> {
        let both = epilogue == "gate_up";
        let (n, k, m) = (1 + self.below(300), 64 * (1 + self.below(12)), 1 + self.below(2 * tokens));
        let matrices = if both { 2 } else { 1 };
        let codes = self.codes(matrices * n * k);
        let quants: Vec<i8> = (0..m * k).map(|_| self.rng.next_u64() as i8).collect();
        let token_scales: Vec<f32> = self.floats(m).iter().map(|v| v + 1.5).collect();
        let scales: Vec<f32> = self.floats(6).iter().map(|v| v + 1.5).collect();
        let first = self.below(n + 1);
        let bound = if both { [n; 2] } else { [first, first + self.below(n - first + 1)] };
        let before = self.floats(m * n);
        // As the kernels read them: rows packed, activations in the order of norm_row.
        let packed: Vec<u8> =
            codes.as_chunks::<16>().0.iter().flat_map(|codes| pack::word(codes).to_le_bytes()).collect();
        let mut ordered = vec![0i8; m * k];
        for (i, q) in quants.iter().enumerate() {
            let e = i % 64;
            ordered[i - e + e / 4 % 4 * 16 + e / 16 * 4 + e % 4] = *q;
        }
        let sums: Vec<i32> =
            quants.chunks_exact(k).map(|row| row.iter().map(|q| i32::from(*q)).sum()).collect();
        let dot = |row: usize, token: usize| -> i32 {
            let (w, a) = (&codes[row * k..][..k], &quants[token * k..][..k]);
            w.iter().zip(a).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
        };
        let descaled = |row: usize, token: usize, which: usize| {
            dot(row, token) as f32 / token_scales[token] * scales[2 * which] * scales[2 * which + 1]
        };
        let want = (0..m * n).map(|i| {
            let (token, row) = (i / n, i % n);
            let which = usize::from(row >= bound[0]) + usize::from(row >= bound[1]);
            match epilogue {
                "gate_up" => descaled(row, token, 0).max(0.0).powi(2) * descaled(n + row, token, 1),
                "add" => before[i] + descaled(row, token, which),
                _ => descaled(row, token, which),
            }
        });
        let want: Vec<f32> = want.collect();
        let device = &self.device;
        let (weights, activations) =
            (device.upload("weights", &packed)?, device.upload("activations", &ordered)?);
        let (ts, su, sc) = (
            device.upload("scales", &token_scales)?,
            device.upload("sums", &sums)?,
            device.upload("scales", &scales)?,
        );
        let out =
            if epilogue == "add" { device.upload("residuals", &before)? } else { self.poisoned(m * n)? };
        let params = Gemm {
            weights: weights.at,
            activations: activations.at,
            token_scales: ts.at,
            sums: su.at,
            scales: sc.at,
            out: out.at,
            n: n as i32,
            m: m as i32,
            k: k as i32,
            bound: bound.map(|row| row as i32),
            activation: 1,
        };
        let name = format!("gemm_{kind}_{epilogue}");
        let shape = gemm_shape(kind, both, n, m);
        self.launch(&name, shape, &params)?;
        let got = self.floats_of(&out, m * n)?;
        // The squares of gate_up may be fused with what follows: one rounding less. All else is the same to the last bit.
        let (error, allowed) =
            if both { (relative(&got, &want), 1e-6) } else { (differing(&got, &want), 0.0) };
        self.note(&name, format!("n {n} k {k} m {m}"), error, allowed);
        Ok(())
    }

    fn product(&mut self, ty: TensorType) -> Result<()> {
        let Some(name) = product_kernel(ty) else { return Ok(()) };
        let (n, k, m) = (1 + self.below(40), 256 * (1 + self.below(3)), 1 + self.below(20));
        let mut bytes = Vec::new();
        if ty == TensorType::I2S {
            bytes = i2s_pack(&self.codes(n * k), k, 0.5, I2sLayout::X86).expect("whole groups");
            bytes.truncate(n * k / 4);
        } else {
            for _ in 0..n {
                if ty.is_ternary() {
                    pack_ternary(ty, &self.codes(k), 0.5, &mut bytes);
                } else {
                    let row = self.floats(k);
                    quantize_row(ty, &row, &mut bytes);
                }
            }
        }
        let matrix = Matrix::of_bytes("a matrix", ty, n, k, bytes);
        // Q types meet quants (kept as f32) with a step per block, others meet any numbers.
        let block = ActivationType::for_weight(ty, ActivationQuant::Token).block_len();
        let length = if block > 1 { block } else { k };
        let (mut x, before) = (self.floats(m * k), self.floats(m * n));
        let mut steps = vec![1.0; m * k / length];
        if block > 1 {
            x.iter_mut().for_each(|v| *v = (*v * 127.0).round());
            steps = self.floats(m * k / length).iter().map(|v| v + 1.5).collect();
        }
        let sums: Vec<f32> =
            x.chunks_exact(length).zip(&steps).map(|(x, step)| step * x.iter().sum::<f32>()).collect();
        let mut row = vec![0f32; k];
        let mut want = before.clone();
        for r in 0..n {
            dequantize_row(ty, &matrix.bytes()[r * matrix.row_bytes..][..matrix.row_bytes], 0.5, &mut row)
                .expect("codes are valid");
            for t in 0..m {
                let (x, steps) = (&x[t * k..][..k], &steps[t * k / length..]);
                let term = |i: usize| f64::from(row[i]) * f64::from(x[i]) * f64::from(steps[i / length]);
                let sum: f64 = (0..k).map(term).sum();
                want[t * n + r] += (sum * 1.5) as f32;
            }
        }
        let (weights, activations) =
            (self.device.upload("weights", matrix.bytes())?, self.device.upload("activations", &x)?);
        let out = self.device.upload("residuals", &before)?;
        let (steps, offsets) = (self.device.upload("steps", &steps)?, self.device.upload("offsets", &sums)?);
        let params = Product {
            weights: weights.at,
            x: activations.at,
            out: out.at,
            steps: steps.at,
            offsets: offsets.at,
            n: n as i32,
            m: m as i32,
            k: k as i32,
            row_bytes: matrix.row_bytes as i32,
            stride: n as i32,
            column: 0,
            add: 1,
            tensor_scale: 0.5,
            extra: 1.5,
        };
        self.launch(name, Shape::new((n.div_ceil(rows_of_block(ty)), m.div_ceil(8), 1), 256, 0), &params)?;
        let got = self.floats_of(&out, m * n)?;
        self.note(name, format!("n {n} k {k} m {m}"), relative(&got, &want), 1e-5);
        Ok(())
    }

    /// int8 rows: quants that a last-bit difference of the norm moves by one are rare, scales and sums fit the quants.
    fn norm(&mut self) -> Result<()> {
        let (m, width) = (1 + self.below(6), 64 * (1 + self.below(60)));
        let (x, weight) = (self.floats(m * width), self.floats(width));
        let (xs, ws) = (self.device.upload("rows", &x)?, self.device.upload("weights", &weight)?);
        let quants = self.device.upload("a poisoned output", &vec![99i8; m * width])?;
        let (scales, sums) = (self.poisoned(m)?, self.device.upload("a poisoned output", &vec![-1i32; m])?);
        let params = NormRow {
            x: xs.at,
            weight: ws.at,
            quants: quants.at,
            scales: scales.at,
            sums: sums.at,
            values: quants.at,
            offsets: 0,
            width: width as i32,
            packing: 1,
            eps: 1e-5,
            slice: 0,
        };
        self.launch("norm_row", Shape::new((m, 1, 1), 256, 4 * width), &params)?;
        let (mut got, mut got_sums) = (vec![0i8; m * width], vec![0i32; m]);
        self.device.read(&quants, 0, &mut got)?;
        self.device.read(&sums, 0, &mut got_sums)?;
        let (mut normed, mut packed) =
            (vec![0f32; width], vec![0u8; ActivationType::I8Token.row_bytes(width)]);
        let mut moved = 0;
        for (r, x) in x.chunks_exact(width).enumerate() {
            crate::kernels::arch::all::ops::rms_norm(x, &weight, 1e-5, &mut normed);
            quantize_activation(ActivationType::I8Token, &normed, &mut packed);
            let want = i8_token_parts(&packed).2;
            let row = &got[r * width..][..width];
            for (i, want) in want.iter().enumerate() {
                let e = i % 64;
                let found = row[i - e + e / 4 % 4 * 16 + e / 16 * 4 + e % 4];
                let off = (i32::from(found) - i32::from(*want as i8)).abs();
                moved += if off > 1 { m * width } else { off as usize };
            }
            moved +=
                if row.iter().map(|q| i32::from(*q)).sum::<i32>() == got_sums[r] { 0 } else { m * width };
        }
        self.note("norm_row", format!("m {m} width {width}"), moved as f64 / (m * width) as f64, 2e-3);
        Ok(())
    }

    fn head(&mut self) -> Result<()> {
        let (rows, k, m) = (1 + self.below(500), 32 * (1 + self.below(20)), 2 + self.below(70));
        let halves = |values: Vec<f32>| -> Vec<u16> {
            values.into_iter().map(|v| f16::from_f32(v).to_bits()).collect()
        };
        let (w, x) = (halves(self.floats(rows * k)), halves(self.floats(m * k)));
        let wide = |bits: u16| f64::from(f16::from_bits(bits).to_f32());
        let dot = |row: usize, token: usize| -> f32 {
            let pairs = w[row * k..][..k].iter().zip(&x[token * k..][..k]);
            pairs.map(|(w, x)| wide(*w) * wide(*x)).sum::<f64>() as f32
        };
        let want: Vec<f32> = (0..m * rows).map(|i| dot(i % rows, i / rows)).collect();
        let (head, input, out) =
            (self.device.upload("a head", &w)?, self.device.upload("inputs", &x)?, self.poisoned(m * rows)?);
        let single: Vec<f32> = x[..k].iter().map(|bits| wide(*bits) as f32).collect();
        let (single, one) = (self.device.upload("one input", &single)?, self.poisoned(rows)?);
        let best = self.device.upload("a poisoned output", &vec![-1i32; m])?;
        let pairs = self.device.upload("a poisoned output", &vec![u32::MAX; 2 * m])?;
        let shape = |grid, threads, shared| Shape::new(grid, threads, shared);
        let numbers = [rows as i32, m as i32, k as i32];
        let (batch, tokens) = head_kernel(m);
        let grid = (rows.div_ceil(128), m.div_ceil(tokens), 1);
        // SAFETY: 1. addresses and numbers are in the kernels' order. 2. Buffers are [rows, k], [m, k], [m, rows], [k], [rows]
        // and [m]. 3. One stream.
        unsafe {
            let (device, kernels) = (&self.device, &self.kernels);
            kernels.launch_plain(
                device,
                batch,
                shape(grid, 128, 0),
                &[head.at, input.at, out.at],
                &numbers,
            )?;
            let numbers = [rows as i32, k as i32];
            kernels.launch_plain(
                device,
                "head_full",
                shape((8, 1, 1), 256, 4 * k),
                &[head.at, single.at, one.at],
                &numbers,
            )?;
            let numbers = [rows as i32, rows as i32, 1000];
            kernels.launch_plain(
                device,
                "argmax",
                shape((m, 1, 1), 1024, 0),
                &[out.at, best.at, pairs.at],
                &numbers,
            )?;
        }
        let (got, got_one) = (self.floats_of(&out, m * rows)?, self.floats_of(&one, rows)?);
        let (mut chosen, mut told) = (vec![0i32; m], vec![0u32; 2 * m]);
        self.device.read(&best, 0, &mut chosen)?;
        self.device.read(&pairs, 0, &mut told)?;
        let right = |(row, (chosen, told)): (&[f32], (&i32, &[u32]))| {
            let best = (0..rows).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            usize::from(best as i32 != *chosen || told != [row[best].to_bits(), best as u32 + 1000])
        };
        let wrong: usize =
            got.chunks_exact(rows).zip(chosen.iter().zip(told.chunks_exact(2))).map(right).sum();
        let at = format!("rows {rows} k {k} m {m}");
        self.note(batch, at.clone(), relative(&got, &want), 1e-5);
        self.note("head_full", at.clone(), relative(&got_one, &want[..rows]), 1e-5);
        self.note("argmax", at, wrong as f64 / m as f64, 0.0);
        Ok(())
    }

    /// RoPE, the cache, and both kinds of attention over one sequence on scattered pages.
    fn attention(&mut self) -> Result<()> {
        let (kv_heads, group, dim) = (1 + self.below(3), 1 + self.below(6), 8 * (1 + self.below(16)));
        let (heads, rows, start) = (kv_heads * group, 1 + self.below(90), self.below(200));
        let (query, kv) = (heads * dim, kv_heads * dim);
        let total = start + rows;
        let pages = total.div_ceil(64);
        let rope_dim = 2 * (1 + self.below(dim / 2));
        let neox = self.below(2) == 1;
        let qkv = self.floats(rows * (query + 2 * kv));
        let angles = self.floats(total * rope_dim);
        let page_len = 2 * kv_heads * 64 * dim;
        let cached: Vec<u16> =
            self.floats(pages * page_len).iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let table: Vec<i32> = (0..pages as i32).rev().collect();
        let positions: Vec<i32> = (start as i32..total as i32).collect();
        let device = &self.device;
        let (b_qkv, b_angles, b_cache) = (
            device.upload("q, k, v", &qkv)?,
            device.upload("angles", &angles)?,
            device.upload("a cache", &cached)?,
        );
        let (b_pages, b_positions, b_sequences) = (
            device.upload("pages", &table)?,
            device.upload("positions", &positions)?,
            device.zeros::<i32>("sequences", rows)?,
        );
        let b_q: Buffer<u16> = device.upload("a poisoned output", &vec![f16::NAN.to_bits(); rows * query])?;
        let places = RowPlaces {
            position: b_positions.at,
            sequence: b_sequences.at,
            pages: b_pages.at,
            max_pages: pages as i32,
        };
        let cache =
            Cache { data: b_cache.at, layer_stride: 0, kv_heads: kv_heads as i32, head_dim: dim as i32 };
        let store = RopeStore {
            qkv: b_qkv.at,
            q: b_q.at,
            angles: b_angles.at,
            rows: places,
            cache,
            layer: 0,
            heads: heads as i32,
            rope_dim: rope_dim as i32,
            neox: neox.into(),
        };
        self.launch("rope_store", Shape::new((rows, (query + 2 * kv).div_ceil(256), 1), 256, 0), &store)?;
        let (mut q, mut kv_now) = (vec![0u16; rows * query], vec![0u16; pages * page_len]);
        self.device.read(&b_q, 0, &mut q)?;
        self.device.read(&b_cache, 0, &mut kv_now)?;
        let wide = |bits: u16| f16::from_bits(bits).to_f32();
        let slot = |value: usize, head: usize, position: usize| {
            let page = table[position / 64] as usize;
            page * page_len + ((value * kv_heads + head) * 64 + position % 64) * dim
        };
        let (mut want, mut got) = (Vec::new(), Vec::new());
        for t in 0..rows {
            let turn = &angles[(start + t) * rope_dim..][..rope_dim];
            let (cos, sin): (Vec<f32>, Vec<f32>) =
                turn.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
            let row = &qkv[t * (query + 2 * kv)..][..query + 2 * kv];
            for (index, head) in row.chunks_exact(dim).enumerate() {
                let mut turned = head.to_vec();
                if index < heads + kv_heads {
                    let part = &mut turned[..rope_dim];
                    let rope = if neox {
                        crate::kernels::arch::all::ops::rope_neox
                    } else {
                        crate::kernels::arch::all::ops::rope_adjacent
                    };
                    rope(part, &cos, &sin);
                }
                want.extend(turned);
                let found = match index.checked_sub(heads) {
                    None => &q[t * query + index * dim..][..dim],
                    Some(i) => &kv_now[slot(i / kv_heads, i % kv_heads, start + t)..][..dim],
                };
                got.extend(found.iter().map(|bits| wide(*bits)));
            }
        }
        let at = format!("heads {heads}/{kv_heads} of {dim}, rope {rope_dim}, rows {rows} from {start}");
        self.note("rope_store", at.clone(), relative(&got, &want), 1e-3);

        let mut want = vec![0f32; rows * query];
        for (i, out) in want.chunks_exact_mut(dim).enumerate() {
            let (t, head) = (i / heads, i % heads);
            let query = &q[i * dim..][..dim];
            let scores: Vec<f64> = (0..=start + t)
                .map(|p| {
                    let key = &kv_now[slot(0, head / group, p)..][..dim];
                    let dot: f64 =
                        query.iter().zip(key).map(|(q, k)| f64::from(wide(*q)) * f64::from(wide(*k))).sum();
                    dot / (dim as f64).sqrt()
                })
                .collect();
            let highest = scores.iter().fold(f64::MIN, |a, b| a.max(*b));
            let sum: f64 = scores.iter().map(|s| (s - highest).exp()).sum();
            for (d, out) in out.iter_mut().enumerate() {
                let weighted = scores.iter().enumerate().map(|(p, s)| {
                    (s - highest).exp() / sum * f64::from(wide(kv_now[slot(1, head / group, p) + d]))
                });
                *out = weighted.sum::<f64>() as f32;
            }
        }
        let units = kv_heads * group.div_ceil(4);
        for splits in [0, 1, 3, usize::MAX] {
            let exact = splits == usize::MAX;
            let splits = if exact { 1 } else { splits };
            let run = total.div_ceil(splits.max(1));
            let partial = self.poisoned(rows * units * splits.max(1) * (4 * 128 + 8))?;
            let out = self.poisoned(rows * query)?;
            let params = Attend {
                q: b_q.at,
                out: out.at,
                partial: partial.at,
                rows: places,
                cache,
                layer: 0,
                heads: heads as i32,
                splits: splits as i32,
                run: run as i32,
                first: 0,
                count: rows as i32,
            };
            let name = match splits {
                _ if exact => {
                    let shape = Shape::new((rows, heads, 1), 128, 4 * total.next_multiple_of(8));
                    self.launch("attend_exact", shape, &params)?;
                    "attend_exact"
                }
                0 => {
                    let wide = if dim <= 64 { 64 } else { 128 };
                    let name = if wide == 64 { "attend_prefill_64" } else { "attend_prefill_128" };
                    let shape = Shape::new((rows.div_ceil(64), heads, 1), 128, 4 * 64 * wide * 2);
                    self.launch(name, shape, &params)?;
                    name
                }
                _ => {
                    self.launch("attend_decode", Shape::new((rows, units, splits), 256, run * 16), &params)?;
                    if splits > 1 {
                        self.launch("attend_merge", Shape::new((rows, heads, 1), 128, 0), &params)?;
                    }
                    if splits > 1 { "attend_merge" } else { "attend_decode" }
                }
            };
            let got = self.floats_of(&out, rows * query)?;
            self.note(name, at.clone(), relative(&got, &want), 2e-3);
        }
        Ok(())
    }
}

/// |got - want| / |want|; NaN where anything is.
pub(super) fn relative(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let off: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    (off / norm.max(1e-30)).sqrt()
}

/// The part of elements that are not equal to the last bit.
pub(super) fn differing(got: &[f32], want: &[f32]) -> f64 {
    let off = got.iter().zip(want).filter(|(g, w)| g.to_bits() != w.to_bits()).count();
    off as f64 / want.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisoned_or_wrong_element_is_never_a_pass() {
        let holds =
            |error| Check { kernel: String::new(), shape: String::new(), error, allowed: 1e-5 }.holds();
        assert!(holds(relative(&[1.0, 2.0], &[1.0, 2.0])));
        assert!(
            !holds(relative(&[1.0, f32::NAN], &[1.0, 2.0])) && !holds(relative(&[1.0, 2.1], &[1.0, 2.0]))
        );
        assert_eq!(differing(&[1.0, f32::NAN], &[1.0, 2.0]), 0.5);
    }
}
