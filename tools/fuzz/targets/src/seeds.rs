//! Inputs to start from: good files and requests, in the form that each target takes.
//!
//! In: the fixtures of the checkout. Out: named inputs. Fuzzing finds the rest; what is committed under `fixtures/fuzz`
//! is what was left after minimising.

use crate::bases::MODELS;
use std::path::Path;

/// Seeds of `target`, `root` being the checkout.
///
/// # Errors
/// A fixture that cannot be read.
pub fn of(target: &str, root: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let folder = |name: &str| files(&root.join(name));
    Ok(match target {
        "gguf-header" | "gguf-round-trip" => headers(&folder("fixtures/gguf/bad")?),
        "gguf-kv" => MODELS.iter().map(|(_, model)| keys(model)).collect(),
        "gguf-load" => (0..MODELS.len() as u8)
            .flat_map(|base| [vec![base], [&[base, 0x30], &200u32.to_le_bytes()[..], &[1]].concat()])
            .collect(),
        "safetensors" => safetensors(),
        "sentencepiece" => vec![sentencepiece()],
        "tokenizer-encode" => texts(&[0, 1, 2, 4, 5, 0x80, 0x81]),
        "streaming-decode" => (0..16u8).map(|how| (how..how + 60).collect()).collect(),
        "chat-template" => {
            let templates = folder("fixtures/chat")?.into_iter().filter(|(name, _)| name.ends_with(".jinja"));
            let talk =
                [&b"\x00You are kind.\xff\x01Hi\xff\x02Hello!\xff\x01"[..], "Ünd?".as_bytes()].concat();
            templates.map(|(_, text)| [&[0][..], &text, b"\xff", &talk].concat()).collect()
        }
        "sampling-chain" => {
            (0..=255u8).step_by(9).map(|flags| [vec![flags], (0..120).collect()].concat()).collect()
        }
        "stop-rules" => vec![
            b"\x02\xff\x00STOP\xffab\xffa S\xffT\xffOP b\xffc".to_vec(),
            b"\x03\x09\x00aab\xffab\xffb\xffaaaaab".to_vec(),
        ],
        "quant-i2s" => (0..6u8).map(|layout| [vec![layout, 3, 0, 1, 0], vec![0x92; 400]].concat()).collect(),
        "quant-tl1" | "quant-tl2" => vec![
            [vec![0, 0, 7, 0, 15, 0], (0..200).collect()].concat(),
            [vec![0, 1, 11, 0, 3, 1], vec![0x35; 500]].concat(),
            b"\x01256x1024:128,64,32;3200x8640:160,64,32".to_vec(),
            b"\x01[a]\nm = 32\nk = 256\nbm = 32\nbk = 24\nbmm = 32\n".to_vec(),
        ],
        "quant-tq" | "quant-q" => (0..13u8).map(|ty| [vec![ty, 1, 0], (0..255).collect()].concat()).collect(),
        "matmul" => (0..64u8)
            .map(|kernel| [vec![kernel, kernel % 8, 2, 0, 3, 0, 5, 0], (1..90).collect()].concat())
            .collect(),
        "kv-cache" => vec![
            [vec![0, 1, 1, 200, 0, 8], vec![0, 0, 2, 0, 70, 0, 1, 0, 66, 0, 3, 1, 20, 0, 6, 0, 3, 9]]
                .concat(),
            [vec![1, 0, 0, 100, 0, 3], vec![0, 0, 2, 0, 99, 0, 5, 0, 40, 0, 1, 0, 40, 0, 7, 0, 0, 0]]
                .concat(),
        ],
        "receipt" => files(&root.join("docs/receipts"))?
            .into_iter()
            .filter(|(name, text)| name.ends_with(".json") && text.len() < 100_000)
            .map(|(_, text)| text)
            .collect(),
        "lanes" => vec![std::fs::read(root.join("ci/lanes.toml"))?, b"version = 1\n".to_vec()],
        "elf" => samples(root, |name, data| data.starts_with(b"\x7fELF") && !name.contains("cuda"))?,
        "macho" => samples(root, |name, _| name.contains("macos"))?,
        "pe" => samples(root, |name, _| name.contains("windows") && !name.ends_with(".lib"))?,
        "ar" => samples(root, |name, _| name.ends_with(".a") || name.ends_with(".lib"))?,
        "hub-response" => hub(),
        "http-request" => requests(),
        "http-body" => bodies(),
        "json-schema" => schemas(),
        _ => Vec::new(),
    })
}

/// Longer inputs out of `seed`, of `len` bytes: the whole of it, a part or a byte over and over, with its beginning and its
/// end in place. What takes more than time in proportion shows here.
pub fn stretched(seed: &[u8], len: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (from, to) in [(0, 1), (1, 2), (1, 4), (3, 4)].map(|(n, d)| (seed.len() * n / d, seed.len())) {
        for width in [1, 2, 9, seed.len()] {
            let part = &seed[from.min(to.saturating_sub(1))..(from + width).min(to)];
            let rest = &seed[(from + width).min(to)..];
            if !part.is_empty() {
                let room = len.saturating_sub(from + rest.len());
                let middle = part.iter().copied().cycle().take(room);
                all.push(
                    seed[..from]
                        .iter()
                        .copied()
                        .chain(middle)
                        .chain(rest.iter().copied())
                        .take(len)
                        .collect(),
                );
            }
        }
    }
    all
}

/// Names and contents of the files of a folder, sorted.
pub fn files(dir: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
        }
    }
    files.sort();
    Ok(files)
}

fn samples(root: &Path, wanted: impl Fn(&str, &[u8]) -> bool) -> std::io::Result<Vec<Vec<u8>>> {
    let samples = files(&root.join("fixtures/elf/bin"))?.into_iter();
    Ok(samples.filter(|(name, data)| wanted(name, data)).map(|(_, data)| data).collect())
}

/// Damaged files that are small, and the beginning of good ones.
fn headers(bad: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    let small = bad.iter().map(|(_, data)| data.clone()).filter(|data| data.len() < 20_000);
    small.chain([tiny()]).collect()
}

/// A good file of a few hundred bytes.
fn tiny() -> Vec<u8> {
    use bitnet_runtime::gguf::{GgufWriter, Strings};
    use bitnet_runtime::tensor::TensorType;
    let mut writer = GgufWriter::new();
    writer.meta("general.architecture", "llama").meta("a.u8", 3u8).meta("a.f64", 0.5f64).meta("a.bool", true);
    writer.meta("a.ints", vec![1i32, -2]).meta("a.strings", ["x", "yz"].iter().collect::<Strings>());
    writer.tensor("w", TensorType::F32, &[4, 2], vec![0; 32]).tensor(
        "q",
        TensorType::Q4_0,
        &[32],
        vec![7; 18],
    );
    let mut out = Vec::new();
    writer.write_to(&mut out).expect("a small file");
    out
}

/// The first keys of a model, as the target takes them.
fn keys(model: &[u8]) -> Vec<u8> {
    let gguf = bitnet_runtime::gguf::Gguf::from_bytes("base", model).expect("a committed fixture");
    let mut out = vec![0];
    for (key, value) in gguf.metadata() {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        if bytes.len() > 300 {
            continue;
        }
        out[0] += 1;
        out.extend((key.len() as u64).to_le_bytes());
        out.extend(key.as_bytes());
        out.extend(value.type_id().to_le_bytes());
        out.extend(bytes);
    }
    out
}

fn safetensors() -> Vec<Vec<u8>> {
    let json = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"__metadata__":{"format":"pt"}}"#;
    let raw = [&[0][..], &(json.len() as u64).to_le_bytes(), json, &[0; 12]].concat();
    vec![raw, b"\x01\x03\x00\x00\x02\x02\x03one\xff\x01\x00\x01\x04two\xff".to_vec()]
}

/// A model of protobuf's wire format: pieces with scores and types, a trainer, a normalizer.
fn sentencepiece() -> Vec<u8> {
    let spec = crate::bases::sentencepiece(true);
    let mut out = Vec::new();
    let count = spec.tokens.len();
    let picked = (0..3).chain(3 + 97..3 + 105).chain(count - 20..count);
    for id in picked {
        let text = &spec.tokens[id];
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text);
        piece.push(0x15);
        piece.extend(spec.scores[id].to_le_bytes());
        piece.extend([0x18, spec.token_types[id] as u8]);
        out.extend([0x0a, piece.len() as u8]);
        out.extend(piece);
    }
    // model_type BPE, the ids of unknown, BOS and EOS, and no padding; then add_dummy_prefix.
    let trainer = [0x18, 2, 0xc0, 2, 0, 0xc8, 2, 1, 0xd0, 2, 2];
    out.extend([0x12, trainer.len() as u8]);
    out.extend(trainer);
    out.extend([0x1a, 2, 0x18, 1]);
    out
}

fn texts(flags: &[u8]) -> Vec<Vec<u8>> {
    let text = "The sky above 12345 is\n\n  blue, isn't it? été 日本 <|eot_id|> <s>aab</s>\t🎉";
    let mut seeds: Vec<Vec<u8>> =
        flags.iter().filter(|flag| **flag < 0x80).map(|flag| [&[*flag], text.as_bytes()].concat()).collect();
    seeds.push(b"\x80\x02\x20\x00a\xffb\xffab\xffa b\xff<s>\xffabab ab".to_vec());
    seeds.push(b"\x80\x09\x20\x00<unk>\xffa\xff\xe2\x96\x81\xff\xe2\x96\x81a\xffaa\xff aa a".to_vec());
    seeds
}

fn hub() -> Vec<Vec<u8>> {
    let list = r#"{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":[{"rfilename":"a/b.gguf"},{"rfilename":"c"}]}"#;
    let seed = |base: &str, location: &str, wait: &str, address: &str, list: &str| {
        [base, location, wait, address]
            .iter()
            .flat_map(|part| [part.as_bytes(), b"\xff"].concat())
            .chain(list.bytes())
            .collect()
    };
    vec![
        seed("https://h/a/b?c=1", "/x", "7", "hf:a/b@main:f.gguf", list),
        seed(
            "http://h:81/a",
            "https://o/x#f",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "pypi:a-b==1.0:m/a.gguf",
            "{}",
        ),
        seed("https://h", "//o:1/x", "", "bundle:a.zip:name", "a/b/c"),
        seed("https://h/", "x/y", "99999999999", "https://h:1/a/b.gguf?x=1", list),
    ]
}

/// Requests as they are on the wire.
pub fn requests() -> Vec<Vec<u8>> {
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
    };
    let post = |path: &str, body: &str| {
        let (host, json) = ("host: localhost\r\nconnection: close", "content-type: application/json");
        format!("POST {path} HTTP/1.1\r\n{host}\r\n{json}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    let mut all: Vec<Vec<u8>> = [
        "/health",
        "/ready",
        "/metrics",
        "/props",
        "/openapi.json",
        "/v1/models",
        "/v1/models/small",
        "/",
        "/nothing",
    ]
    .map(get)
    .into();
    all.extend(CHATS.iter().map(|body| post("/v1/chat/completions", body)));
    all.extend(COMPLETIONS.iter().map(|body| post("/v1/completions", body)));
    all.push(post("/v1/embeddings", r#"{"input":"x"}"#));
    all.push(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n10\r\n{\"prompt\":\"abcd\"\r\n1\r\n}\r\n0\r\n\r\n".to_vec());
    all.push(b"OPTIONS /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: http://x\r\naccess-control-request-method: GET\r\n\r\n".to_vec());
    all.push(b"GET /health HTTP/1.0\r\n\r\n".to_vec());
    all.push(
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            .to_vec(),
    );
    all
}

const CHATS: &[&str] = &[
    r#"{"messages":[{"role":"user","content":"Hi"}]}"#,
    r#"{"model":"small","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"}]}],"max_tokens":3,"logprobs":true,"top_logprobs":2,"n":2,"seed":7,"temperature":0.5,"top_p":0.9,"stop":["x","yy"]}"#,
    r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":2}"#,
    r#"{"messages":[{"role":"user","content":"j"}],"response_format":{"type":"json_object"},"max_tokens":8}"#,
    r#"{"messages":[{"role":"user","content":"j"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}},"max_tokens":8}"#,
    r#"{"messages":[{"role":"user","content":"b"}],"logit_bias":{"5":-100,"6":2.5},"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.1,"top_k":3,"min_p":0.1,"ignore_eos":true,"max_tokens":2}"#,
];
const COMPLETIONS: &[&str] = &[
    r#"{"prompt":"Once"}"#,
    r#"{"prompt":["a","b"],"max_tokens":2,"echo":true,"logprobs":3}"#,
    r#"{"prompt":[1,2,3],"stream":true,"max_tokens":2}"#,
    r#"{"prompt":[[1,2],[3]],"suffix":"","best_of":1,"n":1,"stop":"z"}"#,
];

fn bodies() -> Vec<Vec<u8>> {
    let chats = CHATS.iter().map(|body| [&[0], body.as_bytes()].concat());
    chats.chain(COMPLETIONS.iter().map(|body| [&[1], body.as_bytes()].concat())).collect()
}

fn schemas() -> Vec<Vec<u8>> {
    [
        r#"{"type":"object","properties":{"a":{"type":"integer","minimum":3},"b":{"enum":["x",1,null]}},"required":["a"],"additionalProperties":false}"#,
        r#"{"type":"array","items":{"type":"string","pattern":"^[a-z]+$","maxLength":5},"minItems":1,"maxItems":3}"#,
        r##"{"$ref":"#/$defs/n","$defs":{"n":{"anyOf":[{"type":"number"},{"type":"array","items":{"$ref":"#/$defs/n"}}]}}}"##,
        r#"{"oneOf":[{"const":true},{"type":"string","format":"date"}]}"#,
        r#"{"allOf":[{"type":"integer"},{"multipleOf":3},{"maximum":100}]}"#,
        r#"true"#,
    ]
    .iter()
    .map(|schema| [schema.as_bytes(), b"\xff", &(0..90).collect::<Vec<u8>>()].concat())
    .collect()
}
