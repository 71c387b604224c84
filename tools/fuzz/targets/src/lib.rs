//! What is fuzzed: one function per target, each with the laws that it must keep for every input.
//!
//! In: any bytes. Out: nothing; a law that does not hold is a panic. `tools/fuzz` puts libFuzzer behind the targets,
//! `tests/replay.rs` runs the committed inputs, [`mutate`] damages good files. Every input of a megabyte must be done
//! with within a second and 2 GB. Deliberately absent: libFuzzer, which has a workspace of its own, and any use of this
//! crate by xtask except as a process.

pub mod bases;
mod cache;
mod documents;
mod gguf;
mod grammar;
mod http;
mod input;
mod libraries;
pub mod manifest;
mod matmul;
pub mod mutate;
mod quant;
mod safetensors;
mod sampling;
pub mod seeds;
mod template;
mod text;

pub use http::{Reply, exchange, raw, server};

/// Whether a target reads what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It reads files, text or requests of strangers.
    Parser,
    /// It computes.
    Operation,
}

/// One thing to fuzz.
pub struct Target {
    pub name: &'static str,
    pub kind: Kind,
    /// What the bytes are given to.
    pub about: &'static str,
    /// What must hold besides that nothing panics, hangs or eats memory.
    pub oracle: &'static str,
    /// Longest input that is tried.
    pub max_len: usize,
    pub run: fn(&[u8]),
}

/// The bound on inputs: a megabyte.
const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

const fn parser(
    name: &'static str,
    run: fn(&[u8]),
    max_len: usize,
    about: &'static str,
    oracle: &'static str,
) -> Target {
    Target { name, kind: Kind::Parser, about, oracle, max_len, run }
}

const fn operation(
    name: &'static str,
    run: fn(&[u8]),
    max_len: usize,
    about: &'static str,
    oracle: &'static str,
) -> Target {
    Target { name, kind: Kind::Operation, about, oracle, max_len, run }
}

/// Every target, in the order in which they are shown.
pub const TARGETS: &[Target] = &[
    parser(
        "gguf-header",
        gguf::header,
        MIB,
        "a GGUF file's header",
        "tensors lie inside the file, aligned, with the bytes that their type and shape take",
    ),
    parser(
        "gguf-kv",
        gguf::metadata,
        MIB,
        "metadata behind a good header",
        "what was read, encoded again, is what was given",
    ),
    parser(
        "gguf-load",
        gguf::load,
        64 * KIB,
        "patches on eight good models: tokenizer, weights, an engine, four tokens",
        "a prompt at once gives the logits of its tokens one by one, bit for bit",
    ),
    parser(
        "gguf-round-trip",
        gguf::round_trip,
        MIB,
        "a GGUF file, written again",
        "the copy has the same metadata and tensors",
    ),
    parser(
        "safetensors",
        safetensors::target,
        MIB,
        "a safetensors file, raw or made from the input",
        "tensors fill the data without holes; a file made well is read back",
    ),
    parser(
        "sentencepiece",
        documents::sentencepiece,
        MIB,
        "a tokenizer.model",
        "the tokenizer that it makes keeps its ids inside its vocabulary",
    ),
    parser(
        "tokenizer-encode",
        text::encode,
        MIB,
        "text to ids with byte-level BPE and SentencePiece, and vocabularies made from the input",
        "decoding gives the text back; ids lie inside the vocabulary",
    ),
    parser(
        "streaming-decode",
        text::decode,
        64 * KIB,
        "ids to text, one by one",
        "the pieces are the whole bytes, decoded at once",
    ),
    parser(
        "chat-template",
        template::target,
        64 * KIB,
        "a Jinja template and messages",
        "rendering twice gives one text, of bounded length; built-in templates hold every message",
    ),
    operation(
        "sampling-chain",
        sampling::target,
        16 * KIB,
        "settings, logits and a history",
        "a naive chain allows the token; the answer of the best candidates gives the same one",
    ),
    operation(
        "stop-rules",
        text::stop,
        MIB,
        "stop texts and pieces of text",
        "a naive search finds the same end; how text is cut does not matter",
    ),
    operation(
        "quant-i2s",
        quant::i2s,
        64 * KIB,
        "I2_S tensors in three layouts",
        "codes row by row equal the converted tensor; packing gives the bytes back",
    ),
    operation(
        "quant-tl1",
        quant::tl1,
        64 * KIB,
        "TL1 tensors and tile sizes",
        "packing what was unpacked and unpacking it gives the same codes",
    ),
    operation(
        "quant-tl2",
        quant::tl2,
        64 * KIB,
        "TL2 tensors and tile sizes",
        "packing what was unpacked and unpacking it gives the same codes",
    ),
    operation(
        "quant-tq",
        quant::tq,
        64 * KIB,
        "TQ1_0, TQ2_0 and Q2_0 rows",
        "weights are code times scale; codes survive packing",
    ),
    operation(
        "quant-q",
        quant::q,
        64 * KIB,
        "rows of every other type",
        "quantized rows are near what they were; simple types decode as a naive reader has it",
    ),
    operation(
        "matmul",
        matmul::target,
        64 * KIB,
        "products by every kernel of this CPU",
        "the bits of the scalar definition",
    ),
    operation(
        "kv-cache",
        cache::target,
        4 * KIB,
        "sequences that grow, fork, shrink, shift and close, in f16 and q8_0",
        "a list per sequence holds the same values; pages are counted exactly",
    ),
    parser(
        "receipt",
        documents::receipt,
        MIB,
        "the JSON of a receipt",
        "what was read, written again, reads the same",
    ),
    parser(
        "lanes",
        documents::lanes,
        64 * KIB,
        "the pipeline's definition, lanes.toml",
        "every lane is found by its name; an error names the line",
    ),
    parser(
        "elf",
        libraries::elf,
        MIB,
        "an ELF file, as analyze-library reads it",
        "the report is JSON, bounded, and the same again",
    ),
    parser("macho", libraries::macho, MIB, "a Mach-O file, thin or fat", "as elf"),
    parser("pe", libraries::pe, MIB, "a PE or COFF file", "as elf"),
    parser("ar", libraries::ar, MIB, "an archive", "as elf"),
    parser(
        "hub-response",
        documents::hub,
        MIB,
        "a hub's list of files, redirects, waiting times, addresses of models",
        "names stay below their folder; a redirect stays on http; addresses read as they are written",
    ),
    parser(
        "http-request",
        http::request,
        64 * KIB,
        "the bytes of a connection, to a real server on loopback",
        "every answer is well-formed HTTP with a known status; the server answers afterwards",
    ),
    parser(
        "http-body",
        http::body,
        MIB,
        "JSON bodies of chats and completions, to a real server on loopback",
        "an answer in OpenAI's form, or an error that says what is wrong",
    ),
    parser(
        "json-schema",
        grammar::target,
        64 * KIB,
        "a JSON schema, compiled to a grammar and walked through",
        "a text that the grammar calls complete is JSON",
    ),
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
