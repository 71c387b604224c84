//! Edges of the reader that whole files seldom show: models in parts, foreign magic numbers, types that cannot be read.

use super::*;
use crate::tensor::TensorType;
use std::path::PathBuf;

fn message(result: Result<impl Sized>) -> String {
    result.err().expect("an error").to_string()
}

fn bytes_of(writer: GgufWriter) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).expect("writing to memory");
    bytes
}

/// A part with one tensor of eight values.
fn part(folder: &Path, name: &str, meta: &[(&str, u32)], tensor: &'static str, value: u8) -> PathBuf {
    let mut writer = GgufWriter::new();
    meta.iter().for_each(|(key, value)| {
        writer.meta(*key, *value);
    });
    writer.tensor(tensor, TensorType::F32, &[8], [value; 32]);
    let path = folder.join(name);
    std::fs::write(&path, bytes_of(writer)).unwrap();
    path
}

const FIRST: &str = "m-00001-of-00002.gguf";
const SECOND: &str = "m-00002-of-00002.gguf";
const HEAD: [(&str, u32); 3] = [("split.no", 0), ("split.count", 2), ("split.tensors.count", 2)];
const REST: [(&str, u32); 2] = [("split.no", 1), ("split.count", 2)];

fn open(path: &Path) -> Result<Gguf> {
    Gguf::open(path, Mapping::Read)
}

#[test]
fn a_model_in_two_parts_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = part(dir.path(), FIRST, &HEAD, "a", 1);
    part(dir.path(), SECOND, &REST, "b", 2);
    let gguf = open(&first).unwrap();
    assert_eq!(
        gguf.tensors().iter().map(|info| (info.name.as_str(), info.part)).collect::<Vec<_>>(),
        [("a", 0), ("b", 1)]
    );
    assert_eq!(
        (gguf.tensor("a").unwrap().bytes, gguf.tensor("b").unwrap().bytes),
        (&[1; 32][..], &[2; 32][..])
    );
    assert!(gguf.has_tensor("b") && !gguf.has_tensor("c"));
    assert_eq!(gguf.info("b").map(|info| info.part), Some(1));
    assert!(gguf.info("c").is_none());
    // One part needs no name.
    let alone = part(
        dir.path(),
        "alone.gguf",
        &[("split.no", 0), ("split.count", 1), ("split.tensors.count", 9)],
        "a",
        1,
    );
    assert_eq!(open(&alone).unwrap().tensors().len(), 1);
}

#[test]
fn parts_that_are_not_the_first_misnamed_or_missing_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let first = part(dir.path(), FIRST, &HEAD, "a", 1);
    assert!(message(open(&first)).contains("m-00002-of-00002.gguf: part 2 of 2 is missing"));
    assert!(matches!(open(&first), Err(Error::NotFound { .. })));
    let second = part(dir.path(), SECOND, &REST, "b", 2);
    let text = message(open(&second));
    assert!(
        text.contains("this is part 2 of 2") && text.contains("m-00001-of-00002.gguf, which names"),
        "{text}"
    );
    let misnamed = part(dir.path(), "other.gguf", &HEAD, "a", 1);
    let text = message(open(&misnamed));
    assert!(text.contains("the first of 2 parts is not named NAME-00001-of-00002.gguf"), "{text}");
}

#[test]
fn parts_of_different_models_are_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let first = part(dir.path(), FIRST, &HEAD, "a", 1);
    let with = |meta: &[(&str, u32)], tensor| {
        part(dir.path(), SECOND, meta, tensor, 2);
        message(open(&first))
    };
    assert!(
        with(&[("split.no", 0), ("split.count", 2)], "b")
            .contains("split.no is 0, but this part's name says 1")
    );
    assert!(
        with(&[("split.no", 1), ("split.count", 3)], "b")
            .contains("split.count is 3, but this part's name says 2")
    );
    assert!(with(&[("split.count", 2)], "b").contains("split.no is missing, but"));
    assert!(with(&REST, "a").contains("tensor \"a\" is in another part as well"));
    part(dir.path(), SECOND, &REST, "b", 2);
    part(dir.path(), FIRST, &[("split.no", 0), ("split.count", 2), ("split.tensors.count", 3)], "a", 1);
    assert!(message(open(&first)).contains("split.tensors.count is 3, but the parts have 2 tensors"));
    let mut writer = GgufWriter::new();
    writer.meta("split.count", "two").tensor("a", TensorType::F32, &[8], [1; 32]);
    std::fs::write(&first, bytes_of(writer)).unwrap();
    assert!(message(open(&first)).contains("\"split.count\" is string"));
}

#[test]
fn a_foreign_magic_number_says_what_to_do() {
    for (magic, remedy) in [
        ("lmgg", "files older than GGUF"),
        ("tjgg", "files older than GGUF"),
        ("fmgg", "files older than GGUF"),
        ("algg", "files older than GGUF"),
        ("vers", "Git LFS pointer"),
        ("FUGG", "byte-swapped"),
        ("PK\u{3}\u{4}", "give a GGUF file"),
    ] {
        let text = message(Gguf::from_bytes("x.gguf", format!("{magic}{}", "\0".repeat(40)).as_bytes()));
        assert!(text.contains(remedy), "{magic}: {text}");
    }
}

/// So many tensors of one value, of a type that nobody knows.
fn of_unknown_type(count: usize) -> Gguf {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut writer = GgufWriter::new();
    for name in &NAMES[..count] {
        writer.tensor(*name, TensorType::F32, &[8], [0; 32]);
    }
    let mut bytes = bytes_of(writer);
    // An info is the name with its length, dimensions, type and offset: 33 bytes, the type 21 bytes in.
    (0..count).for_each(|index| bytes[24 + 33 * index + 21] = 99);
    Gguf::from_bytes("x.gguf", &bytes).unwrap()
}

#[test]
fn three_unreadable_tensors_are_named_and_the_others_counted() {
    for require in [Gguf::require_readable_types, Gguf::require_mappable_types] {
        let text = message(require(&of_unknown_type(5)));
        assert!(text.contains("tensor \"c\"") && !text.contains("tensor \"d\""), "{text}");
        assert!(text.contains(", and 2 more tensors"), "{text}");
        assert!(!message(require(&of_unknown_type(3))).contains("more tensors"));
    }
    assert!(message(of_unknown_type(1).tensor("a")).contains("unreadable type 99 (unknown)"));
}

#[test]
fn only_an_overlap_of_a_trailer_behind_i2_s_is_a_missing_scale() {
    let overlapping = |ty: TensorType, dims: &[u64], len: usize, by: usize| {
        let mut writer = GgufWriter::new();
        writer.tensor("a", ty, dims, vec![0u8; len]).tensor("b", TensorType::F32, &[8], [0; 32]);
        let mut bytes = bytes_of(writer);
        let info = 24 + 8 + 1 + 4 + 8 * dims.len() + 4 + 8;
        // The offset of the second tensor, 8 + 1 + 4 + 8 + 4 bytes into its info.
        let at = info + 25;
        let offset = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        bytes[at..at + 8].copy_from_slice(&(offset - by as u64).to_le_bytes());
        message(Gguf::from_bytes("x.gguf", &bytes))
    };
    let missing_scale = "flavour of I2_S without the tensor's scale";
    assert!(overlapping(TensorType::I2S, &[128, 2], 96, 32).contains(missing_scale));
    let text = overlapping(TensorType::I2S, &[128, 2], 96, 64);
    assert!(text.contains("overlap by 64 bytes") && !text.contains(missing_scale), "{text}");
    let text = overlapping(TensorType::F32, &[16], 64, 32);
    assert!(text.contains("overlap by 32 bytes") && !text.contains(missing_scale), "{text}");
}

#[test]
fn lists_know_whether_they_are_empty_and_floats_are_narrowed() {
    let strings = |list: &[&str]| list.iter().collect::<Strings>();
    assert!(strings(&[]).is_empty() && !strings(&[""]).is_empty());
    let array = |list: &[u32]| Array::U32(list.to_vec());
    assert!(array(&[]).is_empty() && !array(&[0]).is_empty());
    let mut writer = GgufWriter::new();
    writer.meta("wide", vec![0.5f64, -2.0]).meta("huge", vec![1e300f64]);
    let gguf = Gguf::from_bytes("x.gguf", bytes_of(writer)).unwrap();
    assert_eq!(gguf.f32s("wide").unwrap(), [0.5, -2.0]);
    assert!(message(gguf.f32s("huge")).contains("expected an array of floats"));
}

#[test]
fn every_getter_gives_what_is_there_and_says_what_is_not() {
    let mut writer = GgufWriter::new();
    writer
        .meta("u32", 7u32)
        .meta("f32", 2.5f32)
        .meta("yes", true)
        .meta("no", false)
        .meta("text", "abc")
        .meta("words", ["a", "bc"].into_iter().collect::<Strings>())
        .meta("ints", vec![-4i64, 5])
        .meta("floats", vec![0.5f32, -2.0]);
    let gguf = Gguf::from_bytes("x.gguf", bytes_of(writer)).unwrap();
    assert_eq!((gguf.u32("u32").unwrap(), gguf.opt_u32("u32").unwrap()), (7, Some(7)));
    assert_eq!((gguf.f32("f32").unwrap(), gguf.opt_f32("f32").unwrap()), (2.5, Some(2.5)));
    assert_eq!((gguf.bool("yes").unwrap(), gguf.opt_bool("yes").unwrap()), (true, Some(true)));
    assert_eq!((gguf.bool("no").unwrap(), gguf.opt_bool("no").unwrap()), (false, Some(false)));
    assert_eq!((gguf.str("text").unwrap(), gguf.opt_str("text").unwrap()), ("abc", Some("abc")));
    let words = gguf.strings("words").unwrap();
    assert_eq!(
        (words.len(), words.get(0), words.get(1), words.get(2)),
        (2, Some(&b"a"[..]), Some(&b"bc"[..]), None)
    );
    assert_eq!(gguf.opt_strings("words").unwrap(), Some(words));
    assert_eq!(
        (gguf.i32s("ints").unwrap(), gguf.opt_i32s("ints").unwrap()),
        (vec![-4, 5], Some(vec![-4, 5]))
    );
    assert_eq!(
        (gguf.f32s("floats").unwrap(), gguf.opt_f32s("floats").unwrap()),
        (vec![0.5, -2.0], Some(vec![0.5, -2.0]))
    );
    assert_eq!(gguf.value("u32"), Some(&Value::U32(7)));
    assert_eq!(gguf.value("none"), None);
    let absent = "metadata key \"none\" is missing";
    for missing in [
        message(gguf.u32("none")),
        message(gguf.f32("none")),
        message(gguf.bool("none")),
        message(gguf.str("none")),
        message(gguf.strings("none")),
        message(gguf.i32s("none")),
        message(gguf.f32s("none")),
    ] {
        assert!(missing.contains(absent), "{missing}");
    }
    assert_eq!(
        (gguf.opt_u32("none").unwrap(), gguf.opt_f32("none").unwrap(), gguf.opt_bool("none").unwrap()),
        (None, None, None)
    );
    assert_eq!((gguf.opt_str("none").unwrap(), gguf.opt_strings("none").unwrap()), (None, None));
    assert_eq!((gguf.opt_i32s("none").unwrap(), gguf.opt_f32s("none").unwrap()), (None, None));
    for (wrong, expected) in [
        (message(gguf.opt_u32("f32")), "\"f32\" is f32 2.5, expected an integer that fits u32"),
        (message(gguf.opt_f32("u32")), "\"u32\" is u32 7, expected a float"),
        (message(gguf.opt_bool("text")), "\"text\" is string \"abc\", expected a bool"),
        (message(gguf.opt_str("yes")), "\"yes\" is bool true, expected a UTF-8 string"),
        (
            message(gguf.opt_strings("ints")),
            "\"ints\" is array of i64 [2 x i64], expected an array of strings",
        ),
        (message(gguf.opt_i32s("floats")), "expected an array of integers that fit i32"),
        (message(gguf.opt_f32s("ints")), "expected an array of floats"),
    ] {
        assert!(wrong.contains(expected), "{wrong}");
    }
    assert!(message(gguf.opt::<Vec<u32>>("ints")).contains("expected an array of integers that fit u32"));
}

#[test]
fn a_file_is_as_long_as_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let first = part(dir.path(), FIRST, &HEAD, "a", 1);
    let second = part(dir.path(), SECOND, &REST, "b", 2);
    let len = |path: &Path| std::fs::metadata(path).unwrap().len();
    let gguf = open(&first).unwrap();
    assert_eq!(gguf.file_len(), len(&first) + len(&second));
    assert_eq!(
        gguf.parts().map(<[u8]>::len).collect::<Vec<_>>(),
        [len(&first) as usize, len(&second) as usize]
    );
    let view = gguf.tensor("b").unwrap();
    assert_eq!(view.path, second);
    assert_eq!(std::fs::read(&second).unwrap()[view.offset as usize..][..32], [2; 32]);
    assert!(
        gguf.bad_tensor("b", "is odd").to_string().contains("m-00002-of-00002.gguf: tensor \"b\" is odd")
    );
}

/// A file without tensors that ends with its only value.
fn ends_with(value: impl Into<Value>, padding: usize) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.meta("k", value);
    let mut bytes = bytes_of(writer);
    bytes.truncate(bytes.len() - padding);
    bytes
}

#[test]
fn an_array_may_reach_the_end_of_the_file_and_no_farther() {
    // 24 bytes, the key's 9, its type's 4, the array's 12, seven bytes: 56, padded to 64.
    let bytes = ends_with(vec![1u8, 2, 3, 4, 5, 6, 7], 8);
    assert_eq!(bytes.len(), 56);
    assert_eq!(
        Gguf::from_bytes("x.gguf", &bytes).unwrap().value("k"),
        Some(&Value::Array(Array::U8(vec![1, 2, 3, 4, 5, 6, 7])))
    );
    let text = message(Gguf::from_bytes("x.gguf", &bytes[..55]));
    assert!(
        text.contains(
            "the length of the u8 array of metadata key \"k\" is 7, more than the 6 bytes after it can hold"
        ),
        "{text}"
    );
}

#[test]
fn a_damaged_bool_is_told_by_its_byte() {
    let bytes = ends_with(Value::Array(Array::Bool(vec![true, false, true])), 0);
    assert_eq!(
        Gguf::from_bytes("x.gguf", &bytes).unwrap().value("k"),
        Some(&Value::Array(Array::Bool(vec![true, false, true])))
    );
    let mut damaged = bytes;
    damaged[49 + 2] = 3;
    let text = message(Gguf::from_bytes("x.gguf", &damaged));
    assert!(text.contains("\"k\" has a bool that is 3, not 0 or 1 (at byte offset 51)"), "{text}");
}

#[test]
fn types_have_names() {
    let named = |gguf: &Gguf| gguf.tensors().iter().map(TensorInfo::type_name).collect::<Vec<_>>();
    assert_eq!(named(&of_unknown_type(1)), ["type 99"]);
    let mut writer = GgufWriter::new();
    writer.tensor("a", TensorType::Q8_0, &[32], [0; 34]);
    let gguf = Gguf::from_bytes("x.gguf", bytes_of(writer)).unwrap();
    assert_eq!(named(&gguf), ["Q8_0"]);
    assert_eq!(gguf.tensors()[0].ty(), Some(TensorType::Q8_0));
    assert_eq!(of_unknown_type(1).tensors()[0].ty(), None);
}

#[test]
fn an_ambiguous_type_is_told_by_its_first_tensor() {
    let mut writer = GgufWriter::new();
    writer
        .tensor("norm", TensorType::F32, &[8], [0; 32])
        .tensor("packed", TensorType::I2S, &[512], vec![0u8; 160])
        .tensor("last", TensorType::F32, &[8], [0; 32]);
    let text = message(Gguf::from_bytes("x.gguf", bytes_of(writer)));
    assert!(
        text.contains(
            "the type 36 of tensor \"packed\" could be I2_S or BitNet32-F16, which have the same size here"
        ),
        "{text}"
    );
}

#[test]
fn what_is_written_side_by_side_is_what_is_written_in_turn() {
    let writer = |given: usize| {
        let mut writer = GgufWriter::new();
        writer
            .meta("k", 1u32)
            .tensor("x".repeat(63), TensorType::F32, &[3], [1u8; 12])
            .tensor("b", TensorType::F32, &[8, 2], vec![2u8; given])
            .tensor("c", TensorType::F32, &[1], [3u8; 4]);
        writer
    };
    let expected = bytes_of(writer(64));
    for threads in [0, 1, 3] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let len = writer(64).write_to_file(file.as_file(), threads).unwrap();
        assert_eq!(len, expected.len() as u64);
        assert_eq!(std::fs::read(file.path()).unwrap(), expected);
        let error = writer(60).write_to_file(file.as_file(), threads).unwrap_err();
        assert_eq!(error.to_string(), "tensor \"b\" has 64 bytes but 60 were given");
    }
    // What is buffered on the way out arrives as well.
    let mut out = std::io::BufWriter::with_capacity(1 << 16, Vec::new());
    writer(64).write_to(&mut out).unwrap();
    assert_eq!(out.get_ref(), &expected);
}
