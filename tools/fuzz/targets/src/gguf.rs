//! GGUF files: headers, metadata, whole models, and what the writer makes of a file that was read.

use crate::bases::MODELS;
use crate::input::Input;
use bitnet_runtime::engine::{Engine, EngineOptions};
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::gguf::{Gguf, GgufWriter, Value};
use bitnet_runtime::kernels::SimdLevel;
use bitnet_runtime::kernels::select::KernelRequest;
use bitnet_runtime::models::references;
use bitnet_runtime::tokenizer::{Bos, SpecialTokens};
use std::sync::Arc;

pub fn header(data: &[u8]) {
    if let Some(gguf) = open(data) {
        check(&gguf, data.len() as u64);
    }
}

/// The file, where it is good; a bad one has said why.
fn open(data: &[u8]) -> Option<Gguf> {
    match Gguf::from_bytes("fuzz.gguf", data) {
        Ok(gguf) => Some(gguf),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("fuzz.gguf") && text.len() < 4096, "{text}");
            None
        }
    }
}

/// The laws of a file that was accepted.
pub fn check(gguf: &Gguf, len: u64) {
    assert_eq!(gguf.file_len(), len);
    assert!(gguf.alignment().is_power_of_two());
    for info in gguf.tensors() {
        assert!((1..=4).contains(&info.dims.len()) && !info.dims.contains(&0), "{info:?}");
        let bytes = gguf.data(info);
        assert_eq!(bytes.len() as u64, info.len.unwrap_or(0));
        assert!(info.offset + bytes.len() as u64 <= len);
        match (info.ty(), gguf.tensor(&info.name)) {
            (Some(ty), Ok(view)) => assert_eq!(ty.tensor_bytes(view.dims), Some(view.bytes.len() as u64)),
            (None, Err(error)) => assert!(error.to_string().contains(&beginning(&info.name)), "{error}"),
            (ty, view) => panic!("{info:?} of type {ty:?}: {:?}", view.is_ok()),
        }
    }
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.value(key).map(encoded), Some(encoded(value)));
        let shown = format!("{value} {}", value.type_name());
        assert!(shown.len() as u64 <= 12 * len + 100, "{key} is shown in {} bytes", shown.len());
        // Whatever type is asked for: a value or an error that names the key.
        let errors = [
            gguf.opt_u32(key).err(),
            gguf.opt_f32(key).err(),
            gguf.opt_bool(key).err(),
            gguf.opt_str(key).err(),
            gguf.opt_strings(key).err(),
            gguf.opt_i32s(key).err(),
            gguf.opt_f32s(key).err(),
        ];
        assert!(errors.iter().filter(|error| error.is_none()).count() <= 2, "{key} is of one type");
        for error in errors.into_iter().flatten() {
            // Of a long key the beginning is shown.
            assert!(error.to_string().contains(&beginning(key)), "{error}");
        }
    }
    let missing = gguf.get::<u32>("no such key").expect_err("there is none").to_string();
    assert!(missing.contains("no such key"));
}

/// What an error shows of a name, however long it is.
fn beginning(name: &str) -> String {
    let quoted = format!("{:?}", name.chars().take(20).collect::<String>());
    quoted[..quoted.len() - 1].to_owned()
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = value.type_id().to_le_bytes().to_vec();
    value.encode(&mut bytes);
    bytes
}

/// The first byte is the number of keys; the rest are keys and values, and padding is added.
pub fn metadata(data: &[u8]) {
    let mut input = Input(data);
    let keys = input.byte() % 64;
    let body = input.rest();
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(u64::from(keys).to_le_bytes());
    file.extend(body);
    let Some(gguf) = open(&file) else { return };
    check(&gguf, file.len() as u64);
    let mut again = Vec::new();
    for (key, value) in gguf.metadata() {
        again.extend((key.len() as u64).to_le_bytes());
        again.extend(key.as_bytes());
        again.extend(encoded(value));
    }
    assert!(body.starts_with(&again), "metadata reads as something else than it is");
    assert_eq!(gguf.metadata().len(), usize::from(keys));
}

pub fn round_trip(data: &[u8]) {
    let Some(gguf) = open(data) else { return };
    // Padding is as long as the alignment says, up to gigabytes.
    if gguf.require_readable_types().is_err() || gguf.alignment() > 1 << 20 {
        return;
    }
    // What this writer's files must keep for llama.cpp, and other files need not.
    let writable = gguf.tensors().iter().all(|info| info.name.len() < 64)
        && matches!(gguf.value("general.alignment"), None | Some(Value::U32(_)));
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.meta(key, value.clone());
    }
    for info in gguf.tensors() {
        let view = gguf.tensor(&info.name).expect("every type is readable");
        writer.tensor(view.name, view.ty, view.dims, view.bytes);
    }
    let mut copy = Vec::new();
    match writer.write_to(&mut copy) {
        Ok(len) => assert_eq!(len, copy.len() as u64),
        Err(error) => return assert!(!writable, "a good file cannot be written: {error}"),
    }
    let again = match Gguf::from_bytes("copy.gguf", &copy) {
        Ok(again) => again,
        // Layouts that share a type id are told apart by where data ends, if nothing names the file's type.
        Err(error) => {
            let ambiguous = error.to_string().contains("set general.file_type");
            return assert!(ambiguous && gguf.value("general.file_type").is_none(), "{error}");
        }
    };
    check(&again, copy.len() as u64);
    assert!(gguf.metadata().zip(again.metadata()).all(|(a, b)| (a.0, encoded(a.1)) == (b.0, encoded(b.1))));
    assert_eq!(gguf.metadata().len(), again.metadata().len());
    assert_eq!(gguf.tensors().len(), again.tensors().len());
    for (a, b) in gguf.tensors().iter().zip(again.tensors()) {
        assert_eq!((&a.name, &a.dims, a.ty()), (&b.name, &b.dims, b.ty()));
        assert_eq!(gguf.data(a), again.data(b), "{}", a.name);
    }
}

/// A good model with some of its bytes changed; the input says which.
pub fn load(data: &[u8]) {
    let mut input = Input(data);
    let (_, base) = MODELS[usize::from(input.byte()) % MODELS.len()];
    whole(&patched(base, &mut input));
}

/// Patches of one input at most: each may move the whole file.
const PATCHES: usize = 64;

/// Patches: where (in the header, mostly), and the bytes to put there, in or over.
fn patched(base: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut file = base.to_vec();
    // Everything before the weights.
    let header = Gguf::from_bytes("base", base).map_or(base.len(), |gguf| {
        gguf.tensors().iter().map(|info| info.offset as usize).min().unwrap_or(base.len())
    });
    for _ in 0..PATCHES {
        if input.is_empty() || file.is_empty() {
            break;
        }
        let how = input.byte();
        let place = input.u32() as usize;
        let at = if how & 128 == 0 { place % header } else { place } % file.len();
        let new = input.bytes(usize::from(how & 15) + 1);
        match how >> 4 & 7 {
            0 => drop(file.splice(at..at, new.iter().copied())),
            1 => drop(file.drain(at..(at + new.len()).min(file.len()))),
            2 => file.truncate(at),
            _ => file[at..].iter_mut().zip(new).for_each(|(byte, new)| *byte = *new),
        }
    }
    file
}

/// The laws of a whole model: an error, or an engine whose answers keep the engine's invariants.
pub fn whole(file: &[u8]) {
    let Some(gguf) = open(file) else { return };
    check(&gguf, file.len() as u64);
    let verdicts = references::verdicts(&gguf);
    assert_eq!(verdicts.len(), 2);
    let tokenizer = load_tokenizer(&gguf);
    if let Ok((tokenizer, _)) = &tokenizer
        && let Ok(ids) = tokenizer.encode("The Sky\n 12345", SpecialTokens::Parse, Bos::AsFileAsks)
    {
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    }
    let gguf = Arc::new(gguf);
    let engine = |kernels: KernelRequest| {
        let options = EngineOptions { threads: 1, context: Some(16), kernels, ..EngineOptions::default() };
        Engine::new(Arc::clone(&gguf), &options, &mut |_, _| ())
    };
    let Ok(mut engine) = engine(KernelRequest::Auto) else { return };
    let vocab = engine.vocab_size() as u32;
    let prompt = [1, 2, 3, 5].map(|id| id % vocab);
    let whole = engine.prefill(&prompt).expect("four tokens fit").to_vec();
    assert_eq!(whole.len(), vocab as usize);
    engine.reset();
    let mut last = Vec::new();
    prompt.iter().for_each(|token| last = engine.decode(*token).expect("a token fits").to_vec());
    equal(&whole, &last, "at once and one by one");
    assert!(engine.decode(vocab).is_err(), "a token outside the vocabulary");
}

/// As [`whole`] and, beside it, that the scalar kernels give the same logits.
pub fn whole_at_every_level(file: &[u8]) {
    whole(file);
    let Some(gguf) = open(file).map(Arc::new) else { return };
    let logits = |kernels: KernelRequest| {
        let options = EngineOptions { threads: 1, context: Some(16), kernels, ..EngineOptions::default() };
        let mut engine = Engine::new(Arc::clone(&gguf), &options, &mut |_, _| ()).ok()?;
        let vocab = engine.vocab_size() as u32;
        engine.prefill(&[1 % vocab, 2 % vocab]).ok().map(<[f32]>::to_vec)
    };
    match (logits(KernelRequest::Auto), logits(KernelRequest::Level(SimdLevel::Scalar))) {
        (Some(best), Some(scalar)) => equal(&best, &scalar, "the best kernels and the scalar ones"),
        (best, scalar) => assert_eq!(best.is_some(), scalar.is_some()),
    }
}

/// Equal bits; damaged weights may make NaN, whose bits nothing defines.
fn equal(a: &[f32], b: &[f32], what: &str) {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    assert!(a.len() == b.len() && a.iter().zip(b).all(same), "{what}: the logits differ");
}
