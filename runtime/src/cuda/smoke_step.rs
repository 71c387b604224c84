//! The kernels of decoding steps on random shapes and inputs, outputs poisoned before: products against the definition on the
//! host, attention against the kernels that compute it row by row in the CPU's order, the choice of a token against
//! all logits of the full head. Everything must be equal to the last bit.

use super::driver::Buffer;
use super::kernels::Shape;
use super::params::{Attend, Cache, RopeStore, RowPlaces, StepAttend, StepGemm, StepRows, StepWide, Turn};
use super::smoke::{Lab, differing};
use super::step::{ROWS, STAT, Scores, cut_attention, narrow, quantize, single, wide};
use crate::Result;
use crate::gpu::pack;
use crate::quant::activation::{ActivationType, i8_token_parts, quantize_activation};
use half::f16;

impl Lab {
    pub(super) fn step(&mut self) -> Result<()> {
        if !self.kernels.steps {
            return Ok(());
        }
        for tokens in [1, 8, 16, 32, 64] {
            for epilogue in ["store", "add", "gate_up"] {
                self.step_gemm(tokens, epilogue)?;
            }
        }
        for dim in [64, 128] {
            for name in ["1_one", "1_short", "1", "4"] {
                self.step_attend(dim, name)?;
            }
        }
        for most in [8, 32, ROWS] {
            self.step_head(most)?;
        }
        Ok(())
    }

    fn launch_step<P: cudarc::driver::DeviceRepr>(
        &self,
        name: &str,
        shape: Shape,
        cluster: usize,
        params: &P,
    ) -> Result<()> {
        // SAFETY: as in `Lab::launch`; the kernels wait for those before them.
        unsafe { self.kernels.launch_step(&self.device, name, shape, cluster as u32, params) }
    }

    fn step_gemm(&mut self, tokens: usize, epilogue: &str) -> Result<()> {
        let both = epilogue == "gate_up";
        let matrices = if both { 2 } else { 1 };
        // More rows are taken in tiles of 64.
        let step = if tokens <= 8 { 1 } else { 64 };
        let groups = if tokens == 1 { 300 } else { 60 };
        let (n, k) = (step * (1 + self.below(3000 / step)), 64 * (1 + self.below(groups)));
        let m = match tokens {
            1 => 1,
            8 => 1 + self.below(8),
            _ => tokens / 2 + 1 + self.below(tokens / 2),
        };
        let parts = if epilogue == "add" { 1 + self.below(2) } else { 1 };
        let codes = self.codes(matrices * n * k);
        let (x, norm, before) = (self.floats(m * k), self.floats(k), self.floats(m * n));
        let next_norm = self.floats(n);
        let scales: Vec<f32> = self.floats(6).iter().map(|v| v + 1.5).collect();
        let first = step * self.below(n / step + 1);
        let bound = if both { [n; 2] } else { [first, first + step * self.below((n - first) / step + 1)] };
        let mut want = before.clone();
        let (mut normed, mut packed) = (vec![0f32; k], vec![0u8; ActivationType::I8Token.row_bytes(k)]);
        for (x, out) in x.chunks_exact(k).zip(want.chunks_exact_mut(n)) {
            crate::kernels::arch::all::ops::rms_norm(x, &norm, 1e-5, &mut normed);
            quantize_activation(ActivationType::I8Token, &normed, &mut packed);
            let (scale, _, quants) = i8_token_parts(&packed);
            let value = |row: usize, which: usize| {
                let dot: i32 = codes[row * k..][..k]
                    .iter()
                    .zip(quants)
                    .map(|(w, q)| i32::from(*w) * i32::from(*q as i8))
                    .sum();
                dot as f32 / scale * scales[2 * which] * scales[2 * which + 1]
            };
            for (row, out) in out.iter_mut().enumerate() {
                let which = usize::from(row >= bound[0]) + usize::from(row >= bound[1]);
                *out = match epilogue {
                    "gate_up" => value(row, 0).max(0.0).powi(2) * value(n + row, 1),
                    "add" => *out + value(row, which),
                    _ => value(row, which),
                };
            }
        }
        let device = &self.device;
        let words: Vec<u8> =
            codes.as_chunks::<16>().0.iter().flat_map(|codes| pack::word(codes).to_le_bytes()).collect();
        let (weights, xs, ws) =
            (device.upload("weights", &words)?, device.upload("rows", &x)?, device.upload("a norm", &norm)?);
        let (sc, nn) = (device.upload("scales", &scales)?, device.upload("a norm", &next_norm)?);
        let stats: Vec<f64> = x.chunks_exact(k).flat_map(|row| stat(row, &norm)).collect();
        let (of_x, after) =
            (device.upload("statistics", &stats)?, device.zeros::<f64>("statistics", STAT * m)?);
        let out =
            if epilogue == "add" { device.upload("residuals", &before)? } else { self.poisoned(m * n)? };
        let done = device.zeros::<u32>("turns", 2)?;
        let bound = bound.map(|row| row as i32);
        let first_turn = Turn { ready: 0, done: done.at, expected: 0, spare: 0 };
        let name = if m <= 8 {
            // Fewer at once than would fit, so that there are several rounds.
            let (kernel, shape, cluster, [tiles, round]) = if tokens == 1 {
                let p = single(device, n, k, matrices).expect("these shapes fit");
                ("gemv", p.shape, 1, [p.parts, p.slots.min(2)])
            } else {
                let p = narrow(device, n, k, matrices).expect("these shapes fit");
                ("gemm", p.shape(), p.cluster, [p.tiles, p.round.min(2)])
            };
            let params = StepGemm {
                weights: weights.at,
                x: xs.at,
                norm: ws.at,
                before: of_x.at,
                scales: sc.at,
                out: out.at,
                after: after.at,
                next_norm: nn.at,
                turn: first_turn,
                n: n as i32,
                m: m as i32,
                k: k as i32,
                tiles: tiles as i32,
                round: round as i32,
                bound,
                activation: 1,
                eps: 1e-5,
                spare: 0,
            };
            let name = format!("step_{kernel}_{epilogue}");
            self.launch_step(&name, shape, cluster, &params)?;
            name
        } else {
            let shape = wide(device, n, k, m, matrices, parts).expect("these shapes fit");
            let (quantize, quantize_shape) = quantize(m, k, epilogue);
            let quants =
                device.upload("a poisoned output", &vec![99u8; shape.rows * k.next_multiple_of(128)])?;
            let (token_scales, sums) =
                (self.poisoned(m)?, device.upload("a poisoned output", &vec![-1i32; m])?);
            let mut params = StepWide {
                weights: weights.at,
                x: xs.at,
                norm: ws.at,
                before: of_x.at,
                quants: quants.at,
                token_scales: token_scales.at,
                sums: sums.at,
                scales: sc.at,
                out: out.at,
                after: after.at,
                next_norm: nn.at,
                turn: first_turn,
                n: n as i32,
                m: m as i32,
                k: k as i32,
                rows: shape.rows as i32,
                bound,
                activation: 1,
                stages: shape.stages.min(2) as i32,
                eps: 1e-5,
                spare: 0,
            };
            let name = shape.name(epilogue);
            self.launch_step(quantize, quantize_shape, 1, &params)?;
            let expected = quantize_shape.grid.0;
            params.turn = Turn { ready: done.at, done: done.address(1), expected, spare: 0 };
            self.launch_step(&name, shape.shape, parts, &params)?;
            // What was launched reads the buffers of this block.
            device.synchronize()?;
            name
        };
        let got = self.floats_of(&out, m * n)?;
        let at = format!("n {n} k {k} m {m}");
        self.note(&name, at.clone(), differing(&got, &want), if both { 0.02 } else { 0.0 });
        if epilogue != "store" {
            let mut found = vec![0f64; STAT * m];
            self.device.read(&after, 0, &mut found)?;
            let wanted: Vec<f64> = got.chunks_exact(n).flat_map(|row| stat(row, &next_norm)).collect();
            self.note(&format!("{name}'s statistics"), at, unlike(&found, &wanted), 0.0);
        }
        Ok(())
    }

    fn step_attend(&mut self, dim: usize, name: &'static str) -> Result<()> {
        let (kv_heads, group, rows) = (1 + self.below(3), 1 + self.below(4), 1 + self.below(5));
        let longest = match name {
            "4" => 1500,
            "1_short" => 128,
            _ => 400,
        };
        let (heads, positions) =
            (kv_heads * group, (0..rows).map(|_| self.below(longest) as i32).collect::<Vec<_>>());
        let (query, kv) = (heads * dim, kv_heads * dim);
        let max_pages = longest.div_ceil(64);
        let pages = rows * max_pages;
        let page_len = 2 * kv_heads * 64 * dim;
        let rope_dim = 2 * (1 + self.below(dim / 2));
        let neox = self.below(2) == 1;
        let qkv = self.floats(rows * (query + 2 * kv));
        let (angles, norm) = (self.floats(longest * rope_dim), self.floats(query));
        let cached: Vec<u16> =
            self.floats(pages * page_len).iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let table: Vec<i32> = (0..pages as i32).rev().collect();
        let sequences: Vec<i32> = (0..rows as i32).collect();
        let device = &self.device;
        let (b_qkv, b_angles, b_norm) = (
            device.upload("q, k, v", &qkv)?,
            device.upload("angles", &angles)?,
            device.upload("a norm", &norm)?,
        );
        let (cache_a, cache_b) = (device.upload("a cache", &cached)?, device.upload("a cache", &cached)?);
        let (b_pages, b_positions, b_sequences) = (
            device.upload("pages", &table)?,
            device.upload("positions", &positions)?,
            device.upload("sequences", &sequences)?,
        );
        let cache = |data: &Buffer<u16>| Cache {
            data: data.at,
            layer_stride: 0,
            kv_heads: kv_heads as i32,
            head_dim: dim as i32,
        };
        let b_q: Buffer<u16> = device.upload("a poisoned output", &vec![f16::NAN.to_bits(); rows * query])?;
        let places = RowPlaces {
            position: b_positions.at,
            sequence: b_sequences.at,
            pages: b_pages.at,
            max_pages: max_pages as i32,
        };
        let store = RopeStore {
            qkv: b_qkv.at,
            q: b_q.at,
            angles: b_angles.at,
            rows: places,
            cache: cache(&cache_a),
            layer: 0,
            heads: heads as i32,
            rope_dim: rope_dim as i32,
            neox: neox.into(),
        };
        self.launch("rope_store", Shape::new((rows, (query + 2 * kv).div_ceil(256), 1), 256, 0), &store)?;
        let expected = self.poisoned(rows * query)?;
        let params = Attend {
            q: b_q.at,
            out: expected.at,
            partial: expected.at,
            rows: places,
            cache: cache(&cache_a),
            layer: 0,
            heads: heads as i32,
            splits: 1,
            run: longest as i32,
            first: 0,
            count: rows as i32,
        };
        self.launch(
            "attend_exact",
            Shape::new((rows, heads, 1), 128, 4 * longest.next_multiple_of(8)),
            &params,
        )?;
        let (out, after) =
            (self.poisoned(rows * query)?, self.device.zeros::<f64>("statistics", STAT * rows)?);
        let cut = cut_attention(name, rows, longest, (heads, kv_heads, dim));
        let done = self.device.zeros::<u32>("turns", 1)?;
        let params = StepAttend {
            qkv: b_qkv.at,
            out: out.at,
            angles: b_angles.at,
            positions: b_positions.at,
            pages: b_pages.at,
            after: after.at,
            next_norm: b_norm.at,
            turn: Turn { ready: 0, done: done.at, expected: 0, spare: 0 },
            cache: cache(&cache_b),
            max_pages: max_pages as i32,
            layer: 0,
            heads: heads as i32,
            rope_dim: rope_dim as i32,
            neox: neox.into(),
            places: cut.places as i32,
            chunk: cut.chunk as i32,
            spare: 0,
        };
        let name = format!("step_attend_{dim}_{name}");
        self.launch_step(&name, cut.shape, cut.splits, &params)?;
        let (want, got) = (self.floats_of(&expected, rows * query)?, self.floats_of(&out, rows * query)?);
        let at = format!("heads {heads}/{kv_heads} of {dim}, rope {rope_dim}, positions {positions:?}");
        self.note(&name, at.clone(), differing(&got, &want), 0.0);
        let (mut a, mut b) = (vec![0u16; pages * page_len], vec![0u16; pages * page_len]);
        self.device.read(&cache_a, 0, &mut a)?;
        self.device.read(&cache_b, 0, &mut b)?;
        let off = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        self.note(&format!("{name}'s cache"), at.clone(), off as f64, 0.0);
        let mut found = vec![0f64; STAT * rows];
        self.device.read(&after, 0, &mut found)?;
        let wanted: Vec<f64> = got.chunks_exact(query).flat_map(|row| stat(row, &norm)).collect();
        self.note(&format!("{name}'s statistics"), at, unlike(&found, &wanted), 0.0);
        Ok(())
    }

    /// From tokens to chosen tokens through no layer at all.
    fn step_head(&mut self, most: usize) -> Result<()> {
        let m = if most == 8 { 1 + self.below(8) } else { most / 2 + 1 + self.below(most / 2) };
        let (vocab, k) = (2 + self.below(20_000), 64 * (1 + self.below(20)));
        let below = 1 + self.below(vocab);
        let head: Vec<u16> = self.floats(vocab * k).into_iter().map(|v| f16::from_f32(v).to_bits()).collect();
        let tokens: Vec<i32> = (0..m).map(|_| self.below(vocab) as i32).collect();
        let norm = self.floats(k);
        let device = &self.device;
        let (b_head, b_norm, b_tokens) = (
            device.upload("a head", &head)?,
            device.upload("a norm", &norm)?,
            device.upload("tokens", &tokens)?,
        );
        let compact: Buffer<i8> = device.upload("a poisoned output", &vec![77i8; vocab * k])?;
        let (head_facts, facts) = (self.poisoned(4 * vocab)?, self.poisoned(4 * ROWS)?);
        let (hidden, normed) = (self.poisoned(m * k)?, self.poisoned(m * k)?);
        let split: Buffer<i8> =
            device.upload("a poisoned output", &vec![77i8; 2 * ROWS * k.next_multiple_of(128)])?;
        let stats = device.upload("poisoned statistics", &vec![f64::NAN; STAT * ROWS])?;
        let (upper, logits) = (self.poisoned(m * vocab)?, self.poisoned(vocab)?);
        let scores = Scores::of(m, vocab, k);
        let tops = self.poisoned(m * vocab.div_ceil(scores.tile))?;
        let (low, best) = (device.zeros::<u32>("bounds", ROWS)?, device.zeros::<u64>("best", ROWS)?);
        let chosen = device.upload("a poisoned output", &vec![u32::MAX; 2 * m])?;
        let (done, positions) = (device.zeros::<i32>("steps", 1)?, device.zeros::<i32>("positions", m)?);
        let params = StepRows {
            embedding: b_head.at,
            tokens: b_tokens.at,
            positions: positions.at,
            hidden: hidden.at,
            stats: stats.at,
            turns: done.at,
            first_norm: b_norm.at,
            final_norm: b_norm.at,
            normed: normed.at,
            split: split.at,
            facts: facts.at,
            head: b_head.at,
            compact: compact.at,
            head_facts: head_facts.at,
            upper: upper.at,
            tops: tops.at,
            low: low.at,
            best: best.at,
            chosen: chosen.at,
            done: done.at,
            hidden_size: k as i32,
            vocab: vocab as i32,
            below: below as i32,
            phases: 1,
            m: m as i32,
            history: 1,
            eps: 1e-5,
            advance: 1,
            launches: 0,
            tile: scores.tile as i32,
            split_tokens: scores.split_tokens as i32,
            spare: 0,
        };
        let plain = |name: &str, shape: Shape, addresses: &[u64], numbers: &[i32]| {
            // SAFETY: addresses and numbers are in the kernels' order, buffers as long as these say; one stream.
            unsafe { self.kernels.launch_plain(&self.device, name, shape, addresses, numbers) }
        };
        let numbers = [vocab as i32, k as i32];
        let addresses = [b_head.at, compact.at, head_facts.at];
        plain("compact_head", Shape::new((vocab.div_ceil(64), 1, 1), 256, 0), &addresses, &numbers)?;
        self.launch_step("step_embed", Shape::new((m, 1, 1), 256, 0), 1, &params)?;
        self.launch_step("step_final", Shape::new((m, 1, 1), 256, 4 * k), 1, &params)?;
        self.launch_step(scores.name, scores.shape, 1, &params)?;
        self.launch_step("step_pick", scores.pick, 1, &params)?;
        self.launch_step("step_choose", Shape::new((1, 1, 1), ROWS as u32, 0), 1, &params)?;
        let mut got = vec![0u32; 2 * m];
        self.device.read(&chosen, 0, &mut got)?;
        let got_normed = self.floats_of(&normed, m * k)?;
        let (mut wrong, mut want_normed, mut row_normed) = (0, Vec::new(), vec![0f32; k]);
        for (row, token) in tokens.iter().enumerate() {
            let x: Vec<f32> =
                head[*token as usize * k..][..k].iter().map(|bits| f16::from_bits(*bits).to_f32()).collect();
            crate::kernels::arch::all::ops::rms_norm(&x, &norm, 1e-5, &mut row_normed);
            want_normed.extend_from_slice(&row_normed);
            let one = self.device.upload("one input", &got_normed[row * k..][..k])?;
            plain("head_full", Shape::new((8, 1, 1), 256, 4 * k), &[b_head.at, one.at, logits.at], &numbers)?;
            let all = self.floats_of(&logits, vocab)?;
            let best = (0..below).fold(0, |best, i| if all[i] > all[best] { i } else { best });
            wrong += usize::from(got[2 * row] != best as u32 || got[2 * row + 1] != all[best].to_bits());
        }
        let mut next = vec![0i32; m];
        self.device.read(&b_tokens, 0, &mut next)?;
        wrong += (0..m).filter(|row| next[*row] as u32 != got[2 * row]).count();
        let at = format!("vocab {vocab} below {below} k {k} m {m}");
        self.note("step_final", at.clone(), differing(&got_normed, &want_normed), 0.0);
        self.note(scores.name, at, wrong as f64, 0.0);
        Ok(())
    }
}

/// As kernels/step.cuh has it: the sum of squares, and where the largest weighted element is.
fn stat(row: &[f32], norm: &[f32]) -> [f64; STAT] {
    let squares: f64 = row.iter().map(|v| f64::from(v * v)).sum();
    let key = |(i, (v, w)): (usize, (&f32, &f32))| u64::from((v * w).abs().to_bits()) << 32 | i as u64;
    let top = row.iter().zip(norm).enumerate().map(key).max().unwrap_or(0);
    let mut stat = [0.0; STAT];
    (stat[0], stat[1]) = (squares, f64::from_bits(top));
    stat
}

/// How many pairs differ: sums by more than f64 additions in another order, places at all.
fn unlike(found: &[f64], wanted: &[f64]) -> f64 {
    let off = |(a, b): (&[f64], &[f64])| {
        // NaN is near nothing.
        let near = (a[0] - b[0]).abs() <= 1e-12 * b[0].abs();
        usize::from(!near || a[1].to_bits() != b[1].to_bits())
    };
    found.chunks_exact(STAT).zip(wanted.chunks_exact(STAT)).map(off).sum::<usize>() as f64
}
