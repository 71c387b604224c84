//! Files that need more than their bytes: split models, tiled types, older forms of I2_S.

use crate::support::*;
use bitnet_runtime::gguf::{Gguf, GgufWriter, Mapping, Value};
use bitnet_runtime::quant::tl::CONFIG_KEY;
use bitnet_runtime::quant::{i2s, unpack_ternary};
use bitnet_runtime::tensor::TensorType;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SPLIT: &str = "fixtures/gguf/ok/llama-q4_0.gguf";

fn open(model: &str) -> Gguf {
    Gguf::open(root().join(model), Mapping::Mmap).expect("a fixture")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn written(file: &Path, writer: GgufWriter<'_>) {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).expect("a valid file");
    std::fs::write(file, bytes).expect("writable");
}

/// The fixture in three parts as llama.cpp's gguf-split makes them; `keys` changes the split keys of a part.
fn split(keys: impl Fn(usize) -> [(&'static str, Value); 3]) -> (TempDir, [PathBuf; 3]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gguf = open(SPLIT);
    let per_part = gguf.tensors().len().div_ceil(3);
    let paths = [1, 2, 3].map(|part| dir.path().join(format!("model-{part:05}-of-00003.gguf")));
    for (index, tensors) in gguf.tensors().chunks(per_part).enumerate() {
        let mut writer = GgufWriter::new();
        for (key, value) in gguf.metadata().filter(|_| index == 0) {
            writer.meta(key, value.clone());
        }
        for (key, value) in keys(index) {
            writer.meta(key, value);
        }
        for info in tensors {
            writer.tensor(&info.name, info.ty().expect("readable"), &info.dims, gguf.data(info));
        }
        written(&paths[index], writer);
    }
    (dir, paths)
}

fn right(index: usize) -> [(&'static str, Value); 3] {
    let tensors = open(SPLIT).tensors().len() as i32;
    [
        ("split.no", (index as u16).into()),
        ("split.count", 3u16.into()),
        ("split.tensors.count", tensors.into()),
    ]
}

#[test]
fn a_split_model_runs_and_is_digested_as_its_parts_in_order() {
    let (dir, paths) = split(right);
    let receipt = dir.path().join("receipt.json");
    let args = ["--prompt", "Hello world", "--temperature", "0", "--max-tokens", "8"];
    let run_of = |model: &str, extra: &[&str]| json(&[&["run", "--model", model], &args[..], extra].concat());
    let parts = run_of(path(&paths[0]), &["--receipt", path(&receipt)]);
    assert_eq!(parts["output_tokens"], run_of(SPLIT, &[])["output_tokens"]);
    assert_eq!(parts["output_tokens"], run_of(path(&paths[0]), &["--no-mmap"])["output_tokens"]);

    let receipt: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&receipt).expect("a receipt")).expect("JSON");
    let all: Vec<u8> = paths.iter().flat_map(|path| std::fs::read(path).expect("a part")).collect();
    let file = &receipt["body"]["model"]["file"];
    assert_eq!(file["sha256"], sha256(&all), "{file}");
    assert_eq!(file["bytes"], all.len());

    let shown = json(&["inspect", "--model", path(&paths[0])]);
    assert_eq!((&shown["parts"], &shown["model"]["file_bytes"]), (&3.into(), &all.len().into()));
    let last = shown["tensors"].as_array().expect("an array").last().expect("tensors");
    assert_eq!(last["part"], 2);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The exit code and message of `inspect`.
fn refused(model: &Path) -> (i32, String) {
    let ran = run(&["inspect", "--model", path(model)]);
    (ran.code, ran.stderr)
}

#[test]
fn parts_that_are_missing_or_do_not_belong_are_named() {
    let (_dir, paths) = split(right);
    let (code, message) = refused(&paths[1]);
    assert!(
        code == 3
            && message.contains("this is part 2 of 3; open")
            && message.contains("model-00001-of-00003.gguf")
    );
    std::fs::remove_file(&paths[2]).expect("it is there");
    let (code, message) = refused(&paths[0]);
    assert!(code == 4 && message.contains("model-00003-of-00003.gguf: part 3 of 3 is missing"), "{message}");
    std::fs::copy(&paths[1], &paths[2]).expect("writable");
    let (code, message) = refused(&paths[0]);
    assert!(code == 3 && message.contains("split.no is 1, but this part's name says 2"), "{message}");

    let renamed = paths[0].with_file_name("other.gguf");
    std::fs::rename(&paths[0], &renamed).expect("writable");
    assert!(refused(&renamed).1.contains("is not named NAME-00001-of-00003.gguf"));

    let changed = |key: &'static str, value: Value| {
        let keys = move |index| {
            right(index).map(|(k, v)| (k, if k == key && index > 0 { value.clone() } else { v }))
        };
        let (_dir, paths) = split(keys);
        refused(&paths[0])
    };
    assert!(changed("split.count", 4u16.into()).1.contains("split.count is 4, but this part's name says 3"));
    assert!(changed("split.no", "one".into()).1.contains("metadata key \"split.no\" is string"));
    let (_dir, paths) = split(|index| {
        right(index).map(|(k, v)| (k, if k == "split.tensors.count" { 5i32.into() } else { v }))
    });
    assert!(refused(&paths[0]).1.contains("split.tensors.count is 5, but the parts have"));
}

/// The fixture at `model`, each tensor as `change` has it.
fn rewritten(
    model: &str,
    keep: impl Fn(&str) -> bool,
    change: impl Fn(&Gguf, &str, TensorType, &[u8]) -> Option<Vec<u8>>,
) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("model.gguf");
    let gguf = open(model);
    let mut writer = GgufWriter::new();
    gguf.metadata().filter(|(key, _)| keep(key)).for_each(|(key, value)| {
        writer.meta(key, value.clone());
    });
    let mut old = Vec::new();
    for info in gguf.tensors() {
        let ty = info.ty().expect("readable");
        match change(&gguf, &info.name, ty, gguf.data(info)) {
            None => writer.tensor(&info.name, ty, &info.dims, gguf.data(info)),
            // Older forms have no type of the writer's: their ids are set below.
            Some(bytes) => {
                old.push(info.name.clone());
                writer.tensor(&info.name, TensorType::F32, &[bytes.len() as u64 / 4], bytes)
            }
        };
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).expect("a valid file");
    for name in old {
        let dims = &gguf.info(&name).expect("it is there").dims;
        bytes = retyped(bytes, &name, dims);
    }
    std::fs::write(&file, bytes).expect("writable");
    (dir, file)
}

/// `bytes` with the one-dimensional info of tensor `name` replaced by one of type 36 and two dimensions. The infos grow
/// by eight bytes, and so does the padding before the data shrink: it is written anew.
fn retyped(bytes: Vec<u8>, name: &str, dims: &[u64]) -> Vec<u8> {
    let key = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    let at = bytes.windows(key.len()).position(|window| window == key).expect("the info") + key.len();
    let before = Gguf::from_bytes("before", &bytes).expect("valid");
    let data = before.tensors().iter().map(|info| info.offset).min().expect("tensors") as usize;
    let infos_end = infos_end(&before, &bytes);
    let mut out = bytes[..at].to_vec();
    out.extend(2u32.to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(36u32.to_le_bytes());
    out.extend(&bytes[at + 16..infos_end]);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(&bytes[data..]);
    out
}

/// Where the infos end: after the last one's name, dimensions, type and offset.
fn infos_end(gguf: &Gguf, bytes: &[u8]) -> usize {
    let last = gguf.tensors().last().expect("tensors");
    let key = [&(last.name.len() as u64).to_le_bytes()[..], last.name.as_bytes()].concat();
    let at = bytes.windows(key.len()).position(|window| window == key).expect("the info");
    at + key.len() + 4 + 8 * last.dims.len() + 4 + 8
}

#[test]
fn tile_sizes_come_from_the_file_or_the_option_and_are_asked_for() {
    for (name, sizes) in [
        ("bitnet-tl1", "256x256:128,64,64;128x256:64,64,32;512x256:256,128,32;256x512:128,128,64"),
        ("bitnet-tl2", "256x256:128,96,32;128x256:64,192,32;512x256:256,96,32;256x512:32,96,32"),
    ] {
        let model = format!("fixtures/gguf/ok/{name}.gguf");
        let (_dir, bare) = rewritten(&model, |key| key != CONFIG_KEY, |_, _, _, _| None);
        let args = ["--prompt", "Hello world", "--temperature", "0", "--max-tokens", "6"];
        let ran = run(&[&["run", "--model", path(&bare)], &args[..]].concat());
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        assert!(ran.stderr.contains("has 256 rows of 256, whose tile sizes are not known"), "{}", ran.stderr);
        assert!(ran.stderr.contains("--tl-config 256x256:BM,BK,BMM"), "{}", ran.stderr);
        let given = json(&[&["run", "--model", path(&bare), "--tl-config", sizes], &args[..]].concat());
        let own = json(&[&["run", "--model", &model], &args[..]].concat());
        assert_eq!(given["output_tokens"], own["output_tokens"]);
        let wrong =
            run(&[&["run", "--model", &model, "--tl-config", "256x256:100,64,32"], &args[..]].concat());
        assert!(
            wrong.code == 3 && wrong.stderr.contains("the tiles 100,64,32 do not divide"),
            "{}",
            wrong.stderr
        );
        let usage = run(&[&["run", "--model", &model, "--tl-config", "256"], &args[..]].concat());
        assert_eq!(usage.code, 2, "{}", usage.stderr);
    }
}

/// The codes of an I2_S tensor, four a byte, low bits first.
fn low_bits_first(gguf: &Gguf, name: &str) -> (Vec<u8>, f32) {
    let view = gguf.tensor(name).expect("readable");
    let mut codes = vec![0; view.dims.iter().product::<u64>() as usize];
    unpack_ternary(TensorType::I2S, &view.bytes[..view.bytes.len() - i2s::TRAILER], &mut codes)
        .expect("ternary");
    let pack = |c: &[i8]| c.iter().rev().fold(0, |byte, code| byte << 2 | (code + 1) as u8);
    (codes.chunks(4).map(pack).collect(), i2s::scale(view.bytes))
}

#[test]
fn older_forms_of_i2s_are_recognised_by_size_and_read_with_a_code_map() {
    const MODEL: &str = "fixtures/gguf/ok/bitnet-i2_s.gguf";
    let is_one = |ty, name: &str| ty == TensorType::I2S && name.ends_with(".weight");
    let with_scales = rewritten(
        MODEL,
        |_| true,
        |gguf, name, ty, _| {
            is_one(ty, name).then(|| {
                let (codes, scale) = low_bits_first(gguf, name);
                let scale = half::f16::from_f32(scale).to_le_bytes();
                codes.chunks(8).flat_map(|block| [block, &scale[..]].concat()).collect()
            })
        },
    );
    let without = rewritten(
        MODEL,
        |_| true,
        |gguf, name, ty, _| is_one(ty, name).then(|| low_bits_first(gguf, name).0),
    );
    for ((_dir, file), form) in [(with_scales, "BitNet32-F16"), (without, "QK256")] {
        let args =
            ["run", "--model", path(&file), "--prompt", "Hello", "--temperature", "0", "--max-tokens", "4"];
        let ran = run(&args);
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("unreadable type 36 ({form})")), "{}", ran.stderr);
        assert!(ran.stderr.contains("--code-map=-1,0,1,x"), "{}", ran.stderr);
        let mapped = json(&[&args[..], &["--code-map", "-1,0,1,x"]].concat());
        assert_eq!(ids(&mapped["output_tokens"]).len(), 4);
        let missing = run(&[&args[..], &["--code-map=x,0,1,x"]].concat());
        assert!(
            missing.code == 3 && missing.stderr.contains("that --code-map gives no value"),
            "{}",
            missing.stderr
        );
        assert_eq!(run(&[&args[..], &["--code-map", "1,2"]].concat()).code, 2);
    }
}
