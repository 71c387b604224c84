//! Safetensors files: raw bytes, or a file made from the input, which must be read back.

use crate::input::Input;
use bitnet_runtime::convert::safetensors::Safetensors;

pub fn target(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() & 1 {
        0 => raw(input.rest()),
        _ => made(&mut input),
    }
}

/// A file of a stranger.
pub fn raw(data: &[u8]) {
    let file = match Safetensors::from_bytes("fuzz.safetensors", data) {
        Ok(file) => file,
        Err(error) => return assert!(error.to_string().starts_with("fuzz.safetensors"), "{error}"),
    };
    let header = data.first_chunk().map_or(0, |len| u64::from_le_bytes(*len)) + 8;
    let mut end = header;
    let mut names = std::collections::HashSet::new();
    for view in file.tensors() {
        assert!(names.insert(view.name.to_owned()), "{} twice", view.name);
        assert_eq!(view.offset, end, "{} leaves a hole or overlaps", view.name);
        end += view.bytes.len() as u64;
        let elements: u64 = view.shape.iter().product();
        assert!(elements == 0 || (view.bytes.len() as u64).is_multiple_of(elements), "{}", view.name);
    }
    assert_eq!(end, data.len() as u64, "data that belongs to no tensor");
}

const TYPES: [(&str, usize); 4] = [("U8", 1), ("F16", 2), ("BF16", 2), ("F32", 4)];

fn made(input: &mut Input<'_>) {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for number in 0..input.byte() % 8 {
        let (dtype, size) = TYPES[input.below(TYPES.len())];
        let shape: Vec<usize> = (0..input.byte() % 4).map(|_| usize::from(input.byte() % 9)).collect();
        let start = body.len();
        body.resize(start + size * shape.iter().product::<usize>(), 7u8);
        let name = format!("{number}{}", input.text());
        header.insert(
            name,
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, body.len()] }),
        );
    }
    let json = serde_json::Value::Object(header.clone()).to_string();
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &body].concat();
    let read = Safetensors::from_bytes("made", &file).expect("a well-made file is read");
    assert_eq!(read.tensors().count(), header.len());
    for view in read.tensors() {
        assert_eq!(header[view.name]["dtype"], view.dtype.name());
        assert_eq!(header[view.name]["shape"], serde_json::json!(view.shape));
    }
    raw(&file);
}
