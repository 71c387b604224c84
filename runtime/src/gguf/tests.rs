//! Tests of the reader and the writer against each other: exact bytes, round trips of arbitrary files, and
//! every kind of damage.

use super::*;
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;

/// A small file with one value of every type and two tensors.
fn sample() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .meta("general.architecture", "bitnet")
        .meta("general.alignment", 64u32)
        .meta("u8", 200u8)
        .meta("i8", -3i8)
        .meta("u16", 60_000u16)
        .meta("i16", -30_000i16)
        .meta("i32", -5i32)
        .meta("f32", 0.5f32)
        .meta("bool", true)
        .meta("u64", u64::MAX)
        .meta("i64", 7i64)
        .meta("f64", 1e-5f64)
        .meta("tokens", ["a", "", "\u{120}b"].into_iter().collect::<Strings>())
        .meta("types", vec![1i32, 3, 6])
        .meta("scores", vec![0.0f32, -1.5])
        .meta("flags", Value::Array(Array::Bool(vec![true, false])))
        .tensor("norm", TensorType::F32, &[3], [0u8; 12])
        .tensor("packed", TensorType::I2S, &[128, 2], [0x55u8; 96]);
    written(writer)
}

fn written(writer: GgufWriter) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = writer.write_to(&mut bytes).expect("writing to memory");
    assert_eq!(len, bytes.len() as u64);
    bytes
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    Gguf::from_bytes("test.gguf", bytes)
}

fn message(result: Result<impl Sized>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn header_bytes_are_the_formats() {
    let mut writer = GgufWriter::new();
    writer.meta("k", 7u32).tensor("t", TensorType::F32, &[2], [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut expected = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend(b"\x01\0\0\0\0\0\0\0k\x04\0\0\0\x07\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0t\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    expected.resize(96, 0);
    expected.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    expected.resize(128, 0);
    assert_eq!(written(writer), expected);
}

#[test]
fn typed_getters_convert_and_refuse() {
    let gguf = open(&sample()).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    assert_eq!(gguf.str("general.architecture").unwrap(), "bitnet");
    assert_eq!(gguf.u32("u8").unwrap(), 200);
    assert_eq!(gguf.get::<u64>("u64").unwrap(), u64::MAX);
    assert_eq!(gguf.get::<i32>("i8").unwrap(), -3);
    assert_eq!(gguf.f32("f64").unwrap(), 1e-5);
    assert!(gguf.bool("bool").unwrap());
    assert_eq!(gguf.i32s("types").unwrap(), [1, 3, 6]);
    assert_eq!(gguf.f32s("scores").unwrap(), [0.0, -1.5]);
    assert_eq!(gguf.strings("tokens").unwrap().iter_lossy().collect::<Vec<_>>(), ["a", "", "\u{120}b"]);
    assert_eq!(gguf.strings("tokens").unwrap().get(2), Some("\u{120}b".as_bytes()));
    assert_eq!(gguf.opt_u32("absent").unwrap(), None);

    let offset = gguf.entry("u64").unwrap().offset;
    assert_eq!(
        message(gguf.u32("u64")),
        format!(
            "test.gguf: metadata key \"u64\" is u64 18446744073709551615, expected an integer that fits u32 (at byte offset {offset}); convert the model again"
        )
    );
    assert!(message(gguf.opt_bool("u8")).contains("is u8 200, expected a bool"));
    assert!(message(gguf.str("types")).contains("is array of i32 [3 x i32], expected a UTF-8 string"));
    assert!(message(gguf.f32("i32")).contains("is i32 -5, expected a float"));
    let missing = message(gguf.u32("token"));
    assert!(missing.contains("metadata key \"token\" is missing (nearest: \"tokens\")"), "{missing}");
}

#[test]
fn tensors_are_views_with_offsets() {
    let bytes = sample();
    let gguf = open(&bytes).unwrap();
    let view = gguf.tensor("packed").unwrap();
    assert_eq!((view.ty, view.dims, view.bytes), (TensorType::I2S, &[128, 2][..], &[0x55u8; 96][..]));
    assert_eq!(&bytes[view.offset as usize..][..96], view.bytes);
    assert_eq!(view.offset % 64, 0);
    let missing = message(gguf.tensor("norms"));
    assert!(missing.contains("\"norms\" is missing; nearest of 2: \"norm\", \"packed\""), "{missing}");
}

#[test]
fn mapped_and_read_files_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, sample()).unwrap();
    let [mapped, read] = [Mapping::Mmap, Mapping::Read].map(|mapping| Gguf::open(&path, mapping).unwrap());
    assert!(mapped.metadata().eq(read.metadata()));
    assert_eq!(mapped.tensor("packed").unwrap().bytes, read.tensor("packed").unwrap().bytes);

    std::fs::write(&path, []).unwrap();
    for mapping in [Mapping::Mmap, Mapping::Read] {
        assert!(
            message(Gguf::open(&path, mapping)).contains("4 of its 4 bytes are missing (at byte offset 0)")
        );
        assert!(matches!(Gguf::open(dir.path(), mapping), Err(Error::Unsupported { .. })));
        let absent = Gguf::open(dir.path().join("absent.gguf"), mapping).err().unwrap();
        assert_eq!(absent.exit_code(), bitforge_schema::exit::ExitCode::NotFound);
    }
}

#[test]
fn tensor_infos_may_be_in_any_offset_order() {
    let mut bytes = Vec::new();
    let mut writer = GgufWriter::new();
    writer.tensor("a", TensorType::F32, &[8], [1; 32]).tensor("b", TensorType::F32, &[8], [2; 32]);
    writer.write_to(&mut bytes).unwrap();
    // Each info is 8 + 1 + 4 + 8 + 4 bytes and then its offset.
    let (first, second) = (24 + 25, 24 + 33 + 25);
    bytes[first] = 32;
    bytes[second] = 0;
    let gguf = open(&bytes).unwrap();
    assert_eq!(gguf.tensor("a").unwrap().bytes, [2; 32]);
    assert_eq!(gguf.tensor("b").unwrap().bytes, [1; 32]);

    bytes[first] = 0;
    assert!(message(open(&bytes)).contains("\"a\" and \"b\" overlap by 32 bytes"));
    bytes[first] = 16;
    assert!(message(open(&bytes)).contains("\"a\" has offset 16, not a multiple of the alignment 32"));
}

#[test]
fn unreadable_types_are_listed_but_not_given() {
    let mut bytes = sample();
    let at = bytes.windows(6).position(|window| window == b"packed").unwrap() + 6 + 4 + 16;
    bytes[at] = 15;
    let gguf = open(&bytes).unwrap();
    assert_eq!((gguf.tensors()[1].type_id, gguf.tensors()[1].len), (15, None));
    assert!(gguf.tensor("norm").is_ok());
    for error in [message(gguf.tensor("packed")), message(gguf.require_readable_types())] {
        assert!(error.contains("tensor \"packed\" has the unreadable type 15 (Q8_K)"), "{error}");
        assert!(error.contains("TQ2_0, I2_S, TL1, TL2, Q2_0"), "{error}");
    }
}

#[test]
fn writer_refuses_what_no_reader_takes() {
    let refused = |writer: GgufWriter| writer.write_to(&mut Vec::new()).unwrap_err().to_string();
    let tensor = |name: &str, ty, dims: &[u64]| {
        let mut writer = GgufWriter::new();
        writer.tensor(name, ty, dims, [0; 4]);
        refused(writer)
    };
    let f32s = TensorType::F32;
    assert!(tensor("t", TensorType::Q8_0, &[33]).contains("of type Q8_0 cannot have the shape [33]"));
    assert!(tensor("t", f32s, &[1, 1, 1, 1, 1]).contains("cannot have the shape"));
    assert!(tensor("t", f32s, &[1, 0]).contains("cannot have the shape"));
    assert!(tensor("t", f32s, &[u64::MAX / 4]).contains("cannot have the shape"));
    assert!(tensor(&"x".repeat(64), f32s, &[1]).contains("has 64 bytes or more"));
    assert!(tensor("t", f32s, &[2]).contains("has 8 bytes but 4 were given"));

    let mut writer = GgufWriter::new();
    writer.meta("k", 1u32).meta("k", 2u32);
    assert!(refused(writer).contains("\"k\" is given twice"));
    let mut writer = GgufWriter::new();
    writer.meta("general.alignment", 24u32);
    assert!(refused(writer).contains("u32 24, not a u32 power of two"));
    let mut writer = GgufWriter::new();
    writer.tensor("t", f32s, &[1], [0; 4]).tensor("t", f32s, &[1], [0; 4]);
    assert!(refused(writer).contains("\"t\" is given twice"));
}

#[test]
fn every_truncation_is_an_error() {
    let mut writer = GgufWriter::new();
    writer.meta("s", "abc").meta("a", vec![1i32, 2]).tensor("t", TensorType::F32, &[8], [0; 32]);
    let bytes = written(writer);
    for len in 0..bytes.len() {
        let error = open(&bytes[..len]).err().unwrap_or_else(|| panic!("{len} of {} bytes", bytes.len()));
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("missing") || error.to_string().contains("can hold"), "{error}");
    }
}

/// Opens the bytes and touches everything; errors are fine, panics are not.
fn exercise(bytes: &[u8]) {
    let Ok(gguf) = open(bytes) else { return };
    for (key, value) in gguf.metadata() {
        let _ = (value.to_string(), value.type_name(), gguf.get::<u32>(key), gguf.get::<Vec<f32>>(key));
        let _ = (gguf.get::<&str>(key), gguf.strings(key).map(|s| s.iter_lossy().count()));
    }
    for info in gguf.tensors() {
        if let Ok(view) = gguf.tensor(&info.name) {
            assert_eq!(view.bytes.len() as u64, view.ty.tensor_bytes(view.dims).unwrap());
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    macro_rules! numbers {
        ($($ty:ident)+) => {
            prop_oneof![
                $(any::<$ty>().prop_map(Value::from),)+
                $(vec(any::<$ty>(), 0..5).prop_map(Value::from),)+
                any::<bool>().prop_map(Value::from),
                vec(any::<bool>(), 0..5).prop_map(|v| Value::Array(Array::Bool(v))),
                vec(any::<u8>(), 0..20).prop_map(Value::Str),
                vec(vec(any::<u8>(), 0..6), 0..5).prop_map(|v| v.into_iter().collect::<Strings>().into()),
            ]
        };
    }
    numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64)
}

#[derive(Clone, Debug)]
struct Content {
    alignment: Option<u32>,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, TensorType, Vec<u64>, u8)>,
}

impl Content {
    fn write(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        if let Some(alignment) = self.alignment {
            writer.meta("general.alignment", alignment);
        }
        for (key, value) in &self.metadata {
            writer.meta(key, value.clone());
        }
        for (name, ty, dims, fill) in &self.tensors {
            writer.tensor(name, *ty, dims, vec![*fill; ty.tensor_bytes(dims).unwrap() as usize]);
        }
        written(writer)
    }
}

fn any_content() -> impl Strategy<Value = Content> {
    let keys = hash_set("[a-z.\u{e9}]{0,12}", 0..6);
    let metadata = keys.prop_flat_map(|keys| {
        let count = keys.len();
        vec(any_value(), count).prop_map(move |values| keys.iter().cloned().zip(values).collect::<Vec<_>>())
    });
    let types: Vec<TensorType> = TensorType::with_rows().collect();
    let shape = (prop::sample::select(types), 1..3u64, vec(1..4u64, 0..4), any::<u8>());
    let tensors = (hash_set("[a-z.]{1,12}", 0..5), vec(shape, 5)).prop_map(|(names, shapes)| {
        let tensors = names.into_iter().zip(shapes).map(|(name, (ty, blocks, rest, fill))| {
            let dims = [vec![blocks * ty.block().0 as u64], rest].concat();
            (name, ty, dims, fill)
        });
        tensors.collect::<Vec<_>>()
    });
    let alignment = proptest::option::of((0..10u32).prop_map(|log2| 1 << log2));
    (alignment, metadata, tensors).prop_map(|(alignment, metadata, tensors)| Content {
        alignment,
        metadata,
        tensors,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(content in any_content()) {
        let bytes = content.write();
        let gguf = match open(&bytes) {
            Err(error) if error.to_string().contains("which have the same size here") => return Ok(()),
            opened => opened.unwrap(),
        };
        prop_assert_eq!(gguf.alignment(), u64::from(content.alignment.unwrap_or(32)));
        let read = Content {
            alignment: content.alignment,
            metadata: gguf
                .metadata()
                .filter(|(key, _)| *key != "general.alignment")
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
            tensors: content.tensors.clone(),
        };
        for ((key, value), (expected_key, expected)) in read.metadata.iter().zip(&content.metadata) {
            prop_assert_eq!(key, expected_key);
            prop_assert_eq!(value.type_name(), expected.type_name());
        }
        for (name, ty, dims, fill) in &content.tensors {
            let view = gguf.tensor(name).unwrap();
            prop_assert_eq!((view.ty, view.dims), (*ty, dims.as_slice()));
            prop_assert_eq!(view.bytes.len() as u64, ty.tensor_bytes(dims).unwrap());
            prop_assert!(view.bytes.iter().all(|byte| byte == fill));
        }
        // NaN is not equal to itself, its bytes are.
        prop_assert_eq!(read.write(), bytes);
    }

    #[test]
    fn damage_never_panics(
        content in any_content(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = content.write();
        exercise(&bytes[..cut.index(bytes.len())]);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        exercise(&bytes);
    }

    #[test]
    fn damage_to_a_header_never_panics(at in 0..400usize, byte in any::<u8>()) {
        let mut bytes = sample();
        bytes[at] ^= byte;
        exercise(&bytes);
    }
}

/// Every file under fixtures/gguf/bad: the byte offset and a part of the message of what is wrong with it.
/// `Types` and `Model` files pass the reader; the latter are for the loader of models to refuse.
const BAD: &[(&str, Damage)] = &[
    ("alignment-0", Reader(98, "general.alignment is u32 0, not a power of two")),
    ("alignment-24", Reader(98, "general.alignment is u32 24, not a power of two")),
    ("alignment-not-a-number", Reader(98, "general.alignment is f32 4.5e-44, not a power of two")),
    ("bad-bool", Reader(118, "key \"flag\" has a bool that is 2")),
    ("big-endian", Reader(4, "big-endian GGUF version 3")),
    ("duplicate-key", Reader(119, "key \"list\" appears twice")),
    ("duplicate-tensor", Reader(196, "tensor \"first\" appears twice")),
    ("empty", Reader(0, "the magic number: 4 of its 4 bytes are missing")),
    ("empty-dimension", Reader(176, "\"first\" has an empty dimension: [0]")),
    ("fewer-rows-than-tokens", Model),
    ("five-dimensions", Reader(172, "\"first\" has 5 dimensions")),
    ("heads-do-not-divide", Model),
    ("huge-array", Reader(139, "\"list\" is 1152921504606846976, more than the 173 bytes")),
    ("huge-metadata-count", Reader(16, "the metadata count is 1152921504606846976, more")),
    ("huge-string", Reader(64, "1152921504606846720 of its 1152921504606846976 bytes are missing")),
    ("huge-tensor-count", Reader(8, "the tensor count is 1152921504606846976, more")),
    ("i2s-code-3", Model),
    (
        "i2s-without-scale",
        Reader(192, "overlap by 32 bytes (at byte offset 192); this looks like a flavour of I2_S"),
    ),
    ("key-not-utf8", Reader(102, "the key of metadata entry 2 is not UTF-8")),
    ("key-of-wrong-type", Model),
    ("key-out-of-range", Model),
    ("missing-architecture", Model),
    ("missing-key", Model),
    ("missing-tensor", Model),
    ("nested-array", Reader(135, "\"list\" holds nested arrays")),
    ("no-dimensions", Reader(172, "\"first\" has 0 dimensions")),
    ("no-heads", Model),
    ("norm-wrong-length", Model),
    ("norm-wrong-type", Model),
    ("offset-not-aligned", Reader(196, "offset 20, not a multiple of the alignment 32")),
    ("offset-overflow", Reader(196, "offset 18446744073709551584, which overflows")),
    ("offset-past-the-end", Reader(4352, "\"other\" ends at byte 4384, but the file has 320 bytes")),
    ("overlapping-tensors", Reader(256, "\"first\" and \"other\" overlap by 32 bytes")),
    ("row-not-whole-blocks", Reader(159, "type Q8_0 has the impossible shape [8]")),
    ("shape-overflow", Reader(159, "impossible shape [9223372036854775807]")),
    ("shape-product-overflow", Reader(24, "impossible shape [4294967296, 4294967296]")),
    ("truncated-data", Reader(288, "ends at byte 320, but the file has 312 bytes: 8 are missing")),
    ("truncated-header", Reader(8, "the tensor count is 2, more than the 4 bytes")),
    ("truncated-metadata", Reader(98, "key \"general.alignment\": 2 of its 4 bytes are missing")),
    ("truncated-tensor-infos", Reader(213, "dimensions of tensor \"other\": 2 of its 8 bytes are missing")),
    ("unknown-architecture", Model),
    ("unknown-element-type", Reader(135, "\"list\" is an array of the unknown value type 13")),
    ("unknown-pre-tokenizer", Model),
    ("unknown-tensor-type", Types("\"first\" has the unreadable type 99 (unknown) (at byte offset 159)")),
    ("unknown-tokenizer", Model),
    ("unknown-value-type", Reader(114, "\"flag\" has the unknown value type 13")),
    ("unsupported-tensor-type", Types("\"first\" has the unreadable type 40 (NVFP4) (at byte offset 159)")),
    ("version-1", Reader(4, "GGUF version 1 is not supported")),
    ("version-4", Reader(4, "GGUF version 4 is not known")),
    ("wrong-magic", Reader(0, "starts with \"GGML\", not with \"GGUF\"")),
    ("wrong-shape", Model),
];

enum Damage {
    Reader(u64, &'static str),
    Types(&'static str),
    Model,
}
use Damage::{Model, Reader, Types};

#[test]
fn bad_files_are_refused_where_they_are_bad() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf/bad");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.iter().eq(BAD.iter().map(|(name, _)| name)), "{names:?}");
    for ((name, damage), mapping) in BAD.iter().zip([Mapping::Mmap, Mapping::Read].into_iter().cycle()) {
        let path = dir.join(format!("{name}.gguf"));
        let opened = Gguf::open(&path, mapping);
        match damage {
            Reader(offset, part) => {
                let error = opened.err().unwrap_or_else(|| panic!("{name} was opened"));
                assert!(
                    matches!(&error, Error::Malformed { offset: at, path: p, .. } if at == offset && *p == path)
                );
                assert!(error.to_string().contains(part), "{name}: {error}");
            }
            Types(part) => {
                let error = opened.unwrap().require_readable_types().err().unwrap().to_string();
                assert!(error.contains(part), "{name}: {error}");
            }
            Model => assert!(opened.unwrap().require_readable_types().is_ok(), "{name}"),
        }
    }
}
