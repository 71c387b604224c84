//! `bitnet inspect`: what a GGUF file holds and whether this runtime could run it.
//!
//! A file that cannot be run is still shown; the reasons are warnings.

use super::args::{Format, InspectArgs};
use super::ctx::Ctx;
use super::format::{Align, count, mebibytes, plain};
use super::json::{ConfigSummary, InspectOutput, TensorSummary, TokenizerSummary};
use super::{catalog, digest, inspect_html, inspect_run, settings, summary};
use bitforge_schema::catalog::{Catalog, Tokenizer as Named};
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::gguf::{Array, Gguf, Value, value_type_name};
use bitnet_runtime::model::ModelConfig;
use bitnet_runtime::models::{references, tokenizer};
use bitnet_runtime::{Error, Result};
use serde_json::{Map, json};
use std::fmt::Write;

/// Arrays up to this length are shown whole, longer ones by their first elements.
const WHOLE_ARRAY: usize = 8;
/// Characters of a string that are shown.
const TEXT_SHOWN: usize = 80;

pub fn run(ctx: &mut Ctx, args: &InspectArgs) -> Result<()> {
    let gguf = Gguf::open(catalog::resolve(&ctx.env, &args.model.model)?, args.model.mapping())?;
    let named = Catalog::committed().get(&args.model.model).and_then(|model| model.tokenizer.clone());
    let (mut output, misfit) = inspect(&gguf, named.as_ref());
    let config = ModelConfig::from_gguf(&gguf).ok();
    output.memory = config.map(|config| inspect_run::memory(&gguf, &config, args.ctx_size)).transpose()?;
    output.kernels = inspect_run::kernels(&gguf, settings::kernel_request(&ctx.env, None)?)?;
    ctx.warn(&output.warnings);
    if let Some(path) = &args.html {
        let page = inspect_html::render(&gguf, &output)?;
        std::fs::write(path, page).map_err(|source| Error::io(path, source))?;
        ctx.note(format_args!("page {}", path.display()));
    }
    match ctx.format {
        Format::Json => ctx.print_json(&output)?,
        Format::Human => ctx.print(&human(&output))?,
    }
    misfit.map_or(Ok(()), Err)
}

/// What the file holds; also the error where its tokenizer does not fit.
fn inspect(gguf: &Gguf, named: Option<&Named>) -> (InspectOutput, Option<Error>) {
    let mut warnings = Vec::new();
    let mut misfit = None;
    let config = ModelConfig::from_gguf(gguf).map(|config| config_summary(&config));
    let config = config.map_err(|error| warnings.push(error.to_string())).ok();
    let tokenizer = match load_tokenizer(gguf) {
        Ok((tokenizer, its_warnings)) => {
            warnings.extend(its_warnings);
            let facts = digest::tokenizer(gguf, &tokenizer);
            misfit = tokenizer::check(gguf, &tokenizer, named).err();
            Some(TokenizerSummary {
                family: tokenizer.family(),
                vocab_size: tokenizer.vocab_size(),
                real_vocab_size: tokenizer.real_vocab_size(),
                bos: tokenizer.bos(),
                eos: tokenizer.eos(),
                adds_bos: tokenizer.adds_bos(),
                end_of_generation: tokenizer.end_of_generation().to_vec(),
                has_chat_template: tokenizer.chat_template().is_some(),
                chat_template_sha256: tokenizer.chat_template().map(references::template_digest),
                pre: gguf.opt_str("tokenizer.ggml.pre").ok().flatten().map(str::to_owned),
                vocabulary: tokenizer::Vocabulary::of(gguf, &tokenizer),
                mismatch: misfit.as_ref().map(Error::to_string),
                inferred: tokenizer.inferred().to_vec(),
                authority: facts.authority,
                sha256: facts.sha256,
            })
        }
        Err(error) => {
            warnings.push(error.to_string());
            None
        }
    };
    warnings.extend(gguf.require_readable_types().err().map(|error| error.to_string()));
    let tensors = gguf.tensors().iter().map(|info| TensorSummary {
        name: info.name.clone(),
        r#type: info.type_name(),
        dims: info.dims.clone(),
        part: info.part,
        offset: info.offset,
        bytes: info.len,
    });
    let output = InspectOutput {
        model: summary::model(gguf),
        gguf_version: gguf.version(),
        alignment: gguf.alignment(),
        parts: gguf.parts().len(),
        config,
        tokenizer,
        metadata: gguf.metadata().map(|(key, value)| (key.to_owned(), abbreviate(value))).collect(),
        tensors: tensors.collect(),
        memory: None,
        kernels: Vec::new(),
        references: references::verdicts(gguf),
        warnings,
    };
    (output, misfit)
}

fn config_summary(config: &ModelConfig) -> ConfigSummary {
    ConfigSummary {
        layers: config.layers,
        hidden: config.hidden,
        feed_forward: config.feed_forward,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        context_length: config.context_length,
        rope_base: config.rope_base,
        rope_dim: config.rope_dim,
        rope_pairing: format!("{:?}", config.rope_pairing),
        rope_scale: config.rope_scale,
        rms_eps: config.rms_eps,
        activation: format!("{:?}", config.activation),
    }
}

pub(super) fn abbreviate(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => shortest(*v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(cut(&String::from_utf8_lossy(v))),
        Value::Array(array) => abbreviate_array(array),
    }
}

fn abbreviate_array(array: &Array) -> serde_json::Value {
    let first = if array.len() <= WHOLE_ARRAY { array.len() } else { 3 };
    let elements = match array {
        Array::U8(v) => json!(v[..first]),
        Array::I8(v) => json!(v[..first]),
        Array::U16(v) => json!(v[..first]),
        Array::I16(v) => json!(v[..first]),
        Array::U32(v) => json!(v[..first]),
        Array::I32(v) => json!(v[..first]),
        Array::U64(v) => json!(v[..first]),
        Array::I64(v) => json!(v[..first]),
        Array::F32(v) => v[..first].iter().copied().map(shortest).collect(),
        Array::F64(v) => json!(v[..first]),
        Array::Bool(v) => json!(v[..first]),
        Array::Str(v) => v.iter_lossy().take(first).map(|text| json!(cut(&text))).collect(),
    };
    if first == array.len() {
        return elements;
    }
    json!({"type": value_type_name(array.element_type_id()), "length": array.len(), "first": elements})
}

/// The f64 that prints with as few digits as the f32: 1e-5, not 9.999999747378752e-6.
fn shortest(v: f32) -> serde_json::Value {
    json!(v.to_string().parse::<f64>().unwrap_or(v.into()))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn human(output: &InspectOutput) -> String {
    let model = &output.model;
    let mut facts: Vec<(&str, String)> = vec![
        ("file", model.path.clone()),
        ("format", format!("GGUF version {}, alignment {}", output.gguf_version, output.alignment)),
        ("parts", output.parts.to_string()),
        ("size", format!("{} ({} bytes)", mebibytes(model.file_bytes), model.file_bytes)),
        ("name", model.name.clone().unwrap_or_else(|| "none".into())),
        ("model", model.title()),
        ("parameters", format!("{} ({})", count(model.parameters), model.parameters)),
    ];
    facts.retain(|(name, _)| *name != "parts" || output.parts > 1);
    facts.extend(model.bits_per_weight.map(|bits| ("bits/weight", format!("{bits:.2}"))));
    if let Some(c) = &output.config {
        facts.extend([
            ("layers", c.layers.to_string()),
            ("hidden", format!("{} (feed-forward {})", c.hidden, c.feed_forward)),
            ("heads", format!("{} of {} (key/value heads {})", c.heads, c.head_dim, c.kv_heads)),
            ("rope", format!("base {}, {} elements, {} pairs", c.rope_base, c.rope_dim, c.rope_pairing)),
            ("activation", c.activation.clone()),
            ("context", c.context_length.to_string()),
        ]);
    }
    if let Some(t) = &output.tokenizer {
        let template = if t.has_chat_template { "with" } else { "without" };
        let id = |id: Option<u32>| id.map_or_else(|| "none".into(), |id| id.to_string());
        facts.push((
            "tokenizer",
            format!(
                "{}, {} tokens ({} with padding), BOS {}, EOS {}, {template} chat template",
                t.family,
                t.real_vocab_size,
                t.vocab_size,
                id(t.bos),
                id(t.eos)
            ),
        ));
    }
    facts.extend(inspect_run::facts(output));
    let mut out = String::new();
    for (name, fact) in facts {
        writeln!(out, "{name:<12} {fact}").expect("writing to a string does not fail");
    }
    let metadata: Vec<Vec<String>> = output.metadata.iter().map(|(k, v)| vec![k.clone(), shown(v)]).collect();
    out += &format!("\nmetadata ({})\n{}", metadata.len(), plain(&[Align::Left, Align::Left], &metadata));
    let tensors: Vec<Vec<String>> = output.tensors.iter().map(tensor_row).collect();
    let aligns = [Align::Left, Align::Left, Align::Left, Align::Right, Align::Right];
    out += &format!("\ntensors ({}): name, type, dimensions, bytes, offset\n", tensors.len());
    out + &plain(&aligns, &tensors)
}

pub(super) fn shown(value: &serde_json::Value) -> String {
    let long = |object: &Map<String, serde_json::Value>| {
        let items: Vec<String> = object.get("first")?.as_array()?.iter().map(shown).collect();
        let kind = object.get("type")?.as_str()?;
        Some(format!("[{}, … {} x {kind}]", items.join(", "), object.get("length")?))
    };
    value.as_object().and_then(long).unwrap_or_else(|| value.to_string())
}

fn tensor_row(tensor: &TensorSummary) -> Vec<String> {
    let dims: Vec<String> = tensor.dims.iter().map(u64::to_string).collect();
    let bytes = tensor.bytes.map_or_else(|| "unknown".into(), |bytes| bytes.to_string());
    vec![tensor.name.clone(), tensor.r#type.clone(), dims.join(" x "), bytes, tensor.offset.to_string()]
}
