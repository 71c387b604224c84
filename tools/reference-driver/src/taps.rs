//! Which tensors of llama.cpp's graphs are which [`TapPoint`]s, and the file their values go to.
//!
//! In: the tensors of one position after the other, by the names that llama.cpp's `cb` gives them. Out: f32
//! [positions, width] per point. Names differ between generations and architectures; a tensor whose meaning
//! is not certain has no point.

use crate::session::Observer;
use anyhow::{Context, Result, ensure};
use bitforge_schema::protocol::{Tap, TapPoint};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A point's place in the order of evaluation: before the layers, in layer n - 1, after them.
type Key = (u32, TapPoint);

const AFTER: u32 = u32::MAX;

/// Collects the values of each position and writes them where they belong in the file.
pub struct Taps {
    path: PathBuf,
    file: File,
    positions: usize,
    position: usize,
    /// Of this position.
    values: BTreeMap<Key, Vec<f32>>,
    /// Width and offset in bytes, known after the first position.
    layout: BTreeMap<Key, (usize, u64)>,
}

impl Taps {
    pub fn create(path: &Path, positions: usize) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let (values, layout) = (BTreeMap::new(), BTreeMap::new());
        Ok(Taps { path: path.into(), file, positions, position: 0, values, layout })
    }

    /// Writes what was seen since the last call.
    pub fn end_position(&mut self) -> Result<()> {
        if self.layout.is_empty() {
            let mut offset = 0;
            for (key, values) in &self.values {
                self.layout.insert(*key, (values.len(), offset));
                offset += (values.len() * self.positions * 4) as u64;
            }
        }
        ensure!(
            self.values.len() == self.layout.len(),
            "position {} has {} taps and the first had {}",
            self.position,
            self.values.len(),
            self.layout.len()
        );
        for (key, values) in std::mem::take(&mut self.values) {
            let (width, offset) = *self.layout.get(&key).context("a tap that the first position lacks")?;
            ensure!(width == values.len(), "{} has {} values and had {width}", key.1, values.len());
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let at = offset + (self.position * width * 4) as u64;
            let writing = || format!("writing {}", self.path.display());
            self.file.write_all_at(&bytes, at).with_context(writing)?;
        }
        self.position += 1;
        Ok(())
    }

    pub fn table(self) -> Vec<Tap> {
        let tap = |((place, point), (width, offset)): (Key, (usize, u64))| Tap {
            point,
            layer: (place != 0 && place != AFTER).then(|| place - 1),
            width: width as u32,
            offset,
        };
        self.layout.into_iter().map(tap).collect()
    }
}

impl Observer for Taps {
    fn wants(&self, name: &str, op: &str) -> bool {
        point(name, op).is_some()
    }

    /// The last tensor of a name counts: llama.cpp gives a projection, its scaled and its reshaped form one name.
    fn take(&mut self, name: &str, op: &str, values: &[f32]) {
        let Some((place, mut point)) = point(name, op) else { return };
        if name.starts_with("kqv_out-") && self.values.contains_key(&(place, TapPoint::Attention)) {
            // Where `kqv_merged_cont` came before it, `kqv_out` is behind the output projection.
            point = TapPoint::AttnOutput;
        }
        self.values.insert((place, point), values.to_vec());
    }
}

fn point(name: &str, op: &str) -> Option<Key> {
    match name {
        "inp_embd" | "embd" if op == "GET_ROWS" => return Some((0, TapPoint::Embedding)),
        "result_norm" => return Some((AFTER, TapPoint::FinalNorm)),
        _ => {}
    }
    let (name, layer) = name.rsplit_once('-')?;
    let rope = op == "ROPE";
    let point = match name {
        "attn_norm" => TapPoint::AttnNorm,
        "Qcur" => {
            if rope {
                TapPoint::QueryRope
            } else {
                TapPoint::Query
            }
        }
        "Kcur" => {
            if rope {
                TapPoint::KeyRope
            } else {
                TapPoint::Key
            }
        }
        "Vcur" => TapPoint::Value,
        "kqv_merged_cont" | "kqv_out" => TapPoint::Attention,
        "attn_sub_norm" => TapPoint::AttnSubNorm,
        "attn_out" | "attn_o_out" => TapPoint::AttnOutput,
        "ffn_inp" => TapPoint::AttnResidual,
        "ffn_norm" => TapPoint::FfnNorm,
        "ffn_gate" | "ffn_gate_s" => TapPoint::Gate,
        "ffn_up" | "ffn_up_s" => TapPoint::Up,
        "ffn_swiglu" | "ffn_gate_par" | "ffn_sub_out" => TapPoint::FfnActivation,
        "ffn_sub_norm" => TapPoint::FfnSubNorm,
        "ffn_down" | "ffn_out" => TapPoint::FfnOutput,
        "l_out" => TapPoint::LayerOutput,
        _ => return None,
    };
    Some((layer.parse::<u32>().ok()? + 1, point))
}
