//! Files of one or two small tensors through [`plan`] and [`Plan::write`].

use super::*;
use crate::Result;
use crate::gguf::{Gguf, GgufWriter, Mapping};
use crate::model::WeightOptions;
use crate::quant::tl::TlConfig;
use crate::quant::{I2sLayout, i2s, i2s_pack, pack_ternary, quantize_row, unpack_ternary};
use crate::tensor::TensorType;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

const K: usize = 512;
const LINEAR: &str = "blk.0.attn_q.weight";
const TERNARY: [TensorType; 4] = [TensorType::I2S, TensorType::TQ1_0, TensorType::TQ2_0, TensorType::Q2_0];

fn options(linear: TensorType) -> Options {
    Options {
        linear,
        embedding: None,
        output: None,
        allow_requantize: false,
        weights: WeightOptions::default(),
    }
}

/// A file of the linear layer `bytes` and, where asked, an embedding.
fn file(ty: TensorType, rows: usize, bytes: Vec<u8>) -> Gguf {
    let mut writer = GgufWriter::new();
    writer
        .meta("general.architecture", "bitnet")
        .meta("general.file_type", ty.file_type())
        .meta("split.count", 1u16)
        .tensor("token_embd.weight", TensorType::F16, &[K as u64, 2], vec![0; 4 * K])
        .tensor(LINEAR, ty, &[K as u64, rows as u64], bytes)
        .tensor("blk.0.attn_norm.weight", TensorType::F32, &[3], [7; 12]);
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    Gguf::from_bytes("in.gguf", bytes).unwrap()
}

fn float_file(ty: TensorType, weights: &[f32]) -> Gguf {
    let mut bytes = Vec::new();
    quantize_row(ty, weights, &mut bytes);
    file(ty, weights.len() / K, bytes)
}

/// Writes and opens the file that `options` make of `gguf`, on three threads.
fn quantize(gguf: &Gguf, options: &Options) -> Result<(Gguf, Vec<TensorReport>)> {
    let dir = tempfile::tempdir().unwrap();
    let out: PathBuf = dir.path().join("out.gguf");
    let plan = plan(gguf, options, &out)?;
    let mut workers = Workers::new(3, Arc::default())?;
    let reports = plan.write(&std::fs::File::create(&out).unwrap(), &out, &mut workers, &mut |_, _| ())?;
    Ok((Gguf::open(&out, Mapping::Mmap)?, reports))
}

fn codes_and_scale(gguf: &Gguf) -> (Vec<i8>, f32) {
    let (i2s, _) = quantize(gguf, &options(TensorType::I2S)).unwrap();
    let view = i2s.tensor(LINEAR).unwrap();
    let mut codes = vec![0; (view.dims[0] * view.dims[1]) as usize];
    unpack_ternary(view.ty, &view.bytes[..view.bytes.len() - i2s::TRAILER], &mut codes).unwrap();
    (codes, i2s::scale(view.bytes))
}

fn types() -> impl Strategy<Value = TensorType> {
    prop::sample::select(vec![
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::I2S,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::Q2_0,
        TensorType::TL1,
        TensorType::TL2,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The scale has seven bits, which every type holds.
    #[test]
    fn codes_survive_any_chain_of_conversions(
        codes in prop::collection::vec(-1i8..=1, 128 * K),
        seventh in 1u8..128,
        chain in prop::collection::vec(types(), 1..6),
    ) {
        prop_assume!(codes.iter().any(|code| *code != 0));
        let scale = f32::from(seventh) / 64.0;
        let packed = i2s_pack(&codes, K, scale, I2sLayout::X86).unwrap();
        let mut gguf = file(TensorType::I2S, 128, packed);
        for ty in chain {
            let sizes = if ty == TensorType::TL1 { "128x512:128,64,64" } else { "128x512:64,192,32" };
            let weights = WeightOptions { tl_config: TlConfig::parse(sizes).unwrap(), ..Default::default() };
            // The tiles of a file are its own; these are for the next.
            let given = if ty.is_tiled() { weights } else { WeightOptions::default() };
            let (next, reports) = quantize(&gguf, &Options { weights: given, ..options(ty) }).unwrap();
            prop_assert_eq!(next.tensor(LINEAR).unwrap().ty, ty);
            prop_assert_eq!(reports[1].written_scale, None);
            prop_assert_ne!(reports[1].treatment, Treatment::Absmean);
            gguf = next;
        }
        prop_assert_eq!(codes_and_scale(&gguf), (codes, scale));
    }

    #[test]
    fn every_layout_of_i2s_is_read(codes in prop::collection::vec(-1i8..=1, 8 * K)) {
        for layout in I2sLayout::ALL {
            let gguf = file(TensorType::I2S, 8, i2s_pack(&codes, K, 0.5, layout).unwrap());
            let (out, _) = quantize(&gguf, &Options { weights: WeightOptions { i2s_layout: layout, ..Default::default() }, ..options(TensorType::TQ2_0) }).unwrap();
            prop_assert_eq!(codes_and_scale(&out), (codes.clone(), 0.5));
        }
    }

    #[test]
    fn masters_are_rounded_by_the_mean_of_the_whole_tensor(
        weights in prop::collection::vec(-2.0f32..2.0, 3 * K),
        magnitude in 1e-3f32..10.0,
    ) {
        let weights: Vec<f32> = weights.iter().map(|w| w * magnitude).collect();
        let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
        let s = 1.0 / mean as f32;
        let expected: Vec<i8> = weights.iter().map(|w| (w * s).round_ties_even().clamp(-1.0, 1.0) as i8).collect();
        let gguf = float_file(TensorType::F32, &weights);
        prop_assert_eq!(codes_and_scale(&gguf), (expected.clone(), 1.0 / s));
        let (tq, reports) = quantize(&gguf, &options(TensorType::TQ1_0)).unwrap();
        prop_assert_eq!(reports[1].treatment, Treatment::Absmean);
        prop_assert_eq!(codes_and_scale(&tq), (expected, half::f16::from_f32(1.0 / s).to_f32()));
    }
}

#[test]
fn a_scale_that_the_type_cannot_hold_is_told_or_refused() {
    let codes: Vec<i8> = (0..K).map(|i| (i % 3) as i8 - 1).collect();
    let packed = |scale| file(TensorType::I2S, 1, i2s_pack(&codes, K, scale, I2sLayout::X86).unwrap());
    for ty in [TensorType::TQ1_0, TensorType::TQ2_0, TensorType::F16, TensorType::BF16] {
        let (_, reports) = quantize(&packed(0.1), &options(ty)).unwrap();
        let held = reports[1].written_scale.expect("0.1 has more bits");
        assert!(held != 0.1 && reports[1].scale_error().unwrap() < 1.0 / 256.0, "{ty}: {held}");
    }
    for scale in [1e-9, 1e9] {
        let error = quantize(&packed(scale), &options(TensorType::TQ2_0)).err().expect("refused").to_string();
        assert!(error.contains("which the f16 of TQ2_0 cannot hold; quantize to i2_s"), "{error}");
    }
    let error = quantize(&packed(f32::NAN), &options(TensorType::TQ2_0)).err().expect("refused").to_string();
    assert!(error.contains("not finite"), "{error}");
}

/// Blocks of 256 with scales of their own, as llama-quantize makes of master weights.
#[test]
fn scales_of_blocks_are_kept_or_refused() {
    let codes: Vec<i8> = (0..2 * K).map(|i| (i % 3) as i8 - 1).collect();
    let mut bytes = Vec::new();
    for (block, scale) in codes.chunks(256).zip([0.5, 0.25, 0.5, 2.0]) {
        pack_ternary(TensorType::TQ2_0, block, scale, &mut bytes);
    }
    let gguf = file(TensorType::TQ2_0, 2, bytes.clone());
    let (tq1, reports) = quantize(&gguf, &options(TensorType::TQ1_0)).unwrap();
    assert_eq!((reports[1].treatment, reports[1].scale), (Treatment::CodesKept, None));
    let (back, _) = quantize(&tq1, &options(TensorType::TQ2_0)).unwrap();
    assert_eq!(back.tensor(LINEAR).unwrap().bytes, bytes);
    let error = quantize(&gguf, &options(TensorType::I2S)).err().expect("refused").to_string();
    assert!(
        error.contains("has scales from 2.5e-1 to 2e0 in its blocks, and I2_S has one for all"),
        "{error}"
    );
}

/// Blocks of 64 fit larger ones only where their scales agree.
#[test]
fn smaller_blocks_fit_larger_ones_where_their_scales_agree() {
    let packed = |scales: [f32; 8]| {
        let mut bytes = Vec::new();
        scales.iter().for_each(|scale| pack_ternary(TensorType::Q2_0, &[1; 64], *scale, &mut bytes));
        file(TensorType::Q2_0, 1, bytes)
    };
    let agreeing = packed([0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0, 2.0]);
    let (tq2, _) = quantize(&agreeing, &options(TensorType::TQ2_0)).unwrap();
    let (back, _) = quantize(&tq2, &options(TensorType::Q2_0)).unwrap();
    assert_eq!(back.tensor(LINEAR).unwrap().bytes, agreeing.tensor(LINEAR).unwrap().bytes);
    let parting = packed([0.5, 0.5, 0.25, 0.5, 2.0, 2.0, 2.0, 2.0]);
    let error = quantize(&parting, &options(TensorType::TQ1_0)).err().expect("refused").to_string();
    assert!(error.contains("has the scales 5e-1 and 2.5e-1 in one block of TQ1_0 in row 0"), "{error}");
}

#[test]
fn tiles_must_be_known_for_the_shape() {
    let gguf = float_file(TensorType::F32, &[0.5; 2 * K]);
    let error = quantize(&gguf, &options(TensorType::TL2)).err().expect("refused").to_string();
    assert!(
        error.contains("2 rows of 512, for which no TL2 tile sizes") && error.contains("--tl-config 2x512:"),
        "{error}"
    );
    let tl_config = TlConfig::parse("2x512:2,64,32").unwrap();
    let weights = WeightOptions { tl_config, ..Default::default() };
    let misfit = quantize(&gguf, &Options { weights, ..options(TensorType::TL1) }).err().expect("refused");
    assert!(misfit.to_string().contains("do not divide 2 rows of 512"), "{misfit}");
}

/// llama-quantize gives a block of zeros the scale 0; that is no second scale.
#[test]
fn blocks_of_zeros_have_no_scale() {
    let mut bytes = Vec::new();
    pack_ternary(TensorType::TQ2_0, &[0; 256], 0.0, &mut bytes);
    pack_ternary(TensorType::TQ2_0, &[-1; 256], 0.75, &mut bytes);
    let (codes, scale) = codes_and_scale(&file(TensorType::TQ2_0, 1, bytes));
    assert_eq!((codes[0], codes[511], scale), (0, -1, 0.75));
    let mut zeros = Vec::new();
    pack_ternary(TensorType::TQ1_0, &[0; K], 0.0, &mut zeros);
    assert_eq!(codes_and_scale(&file(TensorType::TQ1_0, 1, zeros)), (vec![0; K], 0.0));
    assert_eq!(codes_and_scale(&float_file(TensorType::F32, &[0.0; K])).0, vec![0; K]);
}

#[test]
fn weights_that_no_type_can_hold_are_refused_with_their_tensor() {
    let with = |w: f32| {
        let mut weights = vec![0.5; 2 * K];
        (weights[700], weights[701]) = (0.25, w);
        float_file(TensorType::F32, &weights)
    };
    let message = |w, ty| quantize(&with(w), &options(ty)).err().expect("refused").to_string();
    for w in [f32::NAN, f32::INFINITY] {
        for ty in TERNARY {
            let message = message(w, ty);
            assert!(message.contains(LINEAR) && message.contains("not finite"), "{message}");
        }
        assert!(message(w, TensorType::Q4K).contains("in row 1, which Q4_K cannot hold"));
    }
    assert!(message(70_000.0, TensorType::F16).contains("weight 70000 in row 1, which F16 cannot hold"));
    assert!(quantize(&with(65_519.0), &options(TensorType::F16)).is_ok());
    assert!(quantize(&with(70_000.0), &options(TensorType::BF16)).is_ok());
}

#[test]
fn codes_are_checked_where_tensors_are_copied() {
    let mut packed = i2s_pack(&[0; K], K, 1.0, I2sLayout::X86).unwrap();
    packed[40] |= 0b11;
    let gguf = file(TensorType::I2S, 1, packed);
    let at = gguf.tensor(LINEAR).unwrap().offset + 40;
    for ty in [TensorType::I2S, TensorType::TQ1_0, TensorType::F32] {
        let error = quantize(&gguf, &options(ty)).err().expect("refused").to_string();
        assert!(error.contains(&format!("(at byte offset {at})")), "{ty}: {error}");
    }
}

#[test]
fn a_file_keeps_what_is_not_about_weights() {
    let gguf = float_file(TensorType::F32, &[0.5; 2 * K]);
    let (out, reports) = quantize(&gguf, &options(TensorType::TQ2_0)).unwrap();
    let keys: Vec<&str> = out.metadata().map(|(key, _)| key).collect();
    assert_eq!(keys, ["general.architecture", "general.file_type", "general.quantization_version"]);
    assert_eq!(out.u32("general.file_type").unwrap(), 37);
    assert_eq!(out.tensor("blk.0.attn_norm.weight").unwrap().bytes, [7; 12]);
    let treatments: Vec<Treatment> = reports.iter().map(|report| report.treatment).collect();
    assert_eq!(treatments, [Treatment::Copied, Treatment::CodesKept, Treatment::Copied]);
    // Contiguous and in order, as llama.cpp asks.
    let mut end = out.tensors()[0].offset;
    for info in out.tensors() {
        assert_eq!(info.offset, end);
        end = (info.offset + info.len.unwrap()).next_multiple_of(out.alignment());
    }
    assert_eq!(out.file_len(), end);
}

#[test]
fn blocks_are_quantized_again_only_with_leave() {
    let gguf = float_file(TensorType::Q8_0, &(0..2 * K).map(|i| (i as f32).sin()).collect::<Vec<_>>());
    let error = quantize(&gguf, &options(TensorType::Q4_0)).err().expect("refused").to_string();
    assert!(error.contains("--allow-requantize"), "{error}");
    assert!(quantize(&gguf, &Options { allow_requantize: true, ..options(TensorType::Q4_0) }).is_ok());
    assert!(
        quantize(&gguf, &options(TensorType::F32)).is_ok()
            && quantize(&gguf, &options(TensorType::Q8_0)).is_ok()
    );
}

#[test]
fn embedding_and_head_get_types_of_their_own() {
    let target =
        |linear: TensorType, role: Role, from, tied| options(linear).target(role, Some(from), 256, tied);
    use TensorType::{BF16, F16, I2S, Q4_0, Q6K, Q8_0};
    assert_eq!(target(I2S, Role::Embedding, BF16, true), Some(F16));
    assert_eq!(target(I2S, Role::Embedding, Q6K, true), Some(Q6K));
    assert_eq!(target(Q4_0, Role::Embedding, F16, true), Some(Q6K));
    assert_eq!(target(Q4_0, Role::Embedding, F16, false), Some(Q4_0));
    assert_eq!(target(Q4_0, Role::Output, F16, false), Some(Q6K));
    assert_eq!(target(Q8_0, Role::Output, F16, false), Some(Q8_0));
    assert_eq!(target(F16, Role::Output, BF16, false), Some(F16));
    assert_eq!(target(Q4_0, Role::Other, F16, false), Some(F16));
    assert_eq!(options(Q4_0).target(Role::Output, Some(F16), 64, false), Some(Q8_0));
    let ternary = Options { embedding: Some(I2S), ..options(I2S) };
    assert!(ternary.check().unwrap_err().to_string().contains("--embedding-type is I2_S"));
}

#[test]
fn roles_go_by_names_and_dimensions() {
    for (name, dims, role) in [
        ("blk.12.ffn_down.weight", &[8u64, 8][..], Role::Linear),
        ("blk.0.attn_q.weight", &[8], Role::Other),
        ("blk.0.attn_q.scale", &[8, 1], Role::Other),
        ("blk.0.attn_norm.weight", &[8, 1], Role::Other),
        ("token_embd.weight", &[8, 8], Role::Embedding),
        ("output.weight", &[8, 8], Role::Output),
        ("output_norm.weight", &[8], Role::Other),
    ] {
        assert_eq!(Role::of(name, dims), role, "{name}");
    }
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused_with_the_types_that_fit() {
    let mut writer = GgufWriter::new();
    writer.tensor(LINEAR, TensorType::F32, &[96, 1], vec![0; 96 * 4]);
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    let gguf = Gguf::from_bytes("in.gguf", bytes).unwrap();
    let error = quantize(&gguf, &options(TensorType::I2S)).err().expect("refused").to_string();
    assert!(error.contains("rows of 96 weights") && error.contains("use one of f32, f16, q4_0"), "{error}");
}
