//! `bitnet models diff A B`: in what two GGUF files differ.
//!
//! Keys and tensors that only one has, values that differ, tensors of another type, shape or content.

use super::args::Format;
use super::catalog;
use super::ctx::Ctx;
use super::inspect::{abbreviate, shown};
use super::models_args::DiffArgs;
use bitnet_runtime::Result;
use bitnet_runtime::gguf::{Gguf, TensorInfo};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;

#[derive(Debug, Serialize)]
pub struct DiffOutput {
    a: String,
    b: String,
    /// Whether neither metadata nor tensors differ; padding and order are not looked at.
    equal: bool,
    metadata: Vec<Difference>,
    tensors: Vec<Difference>,
    /// Tensors that are the same in both.
    same_tensors: usize,
}

#[derive(Debug, Serialize)]
pub struct Difference {
    name: String,
    /// `None` where A lacks it.
    a: Option<serde_json::Value>,
    b: Option<serde_json::Value>,
    what: &'static str,
}

pub fn run(ctx: &mut Ctx, args: &DiffArgs) -> Result<()> {
    let [a, b] = args.models();
    let open =
        |args: &super::args::ModelArgs| Gguf::open(catalog::resolve(&ctx.env, &args.model)?, args.mapping());
    let output = diff(&open(&a)?, &open(&b)?);
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

fn diff(a: &Gguf, b: &Gguf) -> DiffOutput {
    let keys: BTreeSet<&str> = a.metadata().chain(b.metadata()).map(|(key, _)| key).collect();
    let encoded = |gguf: &Gguf, key: &str| {
        gguf.value(key).map(|value| {
            let mut bytes = value.type_id().to_le_bytes().to_vec();
            value.encode(&mut bytes);
            bytes
        })
    };
    let metadata: Vec<Difference> = keys
        .into_iter()
        .filter(|key| encoded(a, key) != encoded(b, key))
        .map(|key| {
            let (left, right) = (a.value(key).map(abbreviate), b.value(key).map(abbreviate));
            let what = what(left.is_some(), right.is_some(), "value");
            Difference { name: key.into(), a: left, b: right, what }
        })
        .collect();
    let names: BTreeSet<&str> =
        a.tensors().iter().chain(b.tensors()).map(|info| info.name.as_str()).collect();
    let find = |gguf: &Gguf, name: &str| gguf.tensors().iter().position(|info| info.name == name);
    let (mut tensors, mut same_tensors) = (Vec::new(), 0);
    for name in names {
        let left = find(a, name).map(|at| &a.tensors()[at]);
        let right = find(b, name).map(|at| &b.tensors()[at]);
        let what = match (left, right) {
            (Some(x), Some(y)) if x.type_id != y.type_id => "type",
            (Some(x), Some(y)) if x.dims != y.dims => "shape",
            (Some(x), Some(y)) if content(a, x) != content(b, y) => "content",
            (Some(_), Some(_)) => {
                same_tensors += 1;
                continue;
            }
            (left, right) => what(left.is_some(), right.is_some(), ""),
        };
        let describe = |info: &TensorInfo| serde_json::json!({ "type": info.type_name(), "dims": info.dims, "bytes": info.len });
        tensors.push(Difference { name: name.into(), a: left.map(describe), b: right.map(describe), what });
    }
    DiffOutput {
        a: a.path().display().to_string(),
        b: b.path().display().to_string(),
        equal: metadata.is_empty() && tensors.is_empty(),
        metadata,
        tensors,
        same_tensors,
    }
}

fn what(left: bool, right: bool, both: &'static str) -> &'static str {
    match (left, right) {
        (true, false) => "only in A",
        (false, true) => "only in B",
        _ => both,
    }
}

/// A tensor's bytes; `None` where the length of its type is not known.
fn content<'a>(gguf: &'a Gguf, info: &TensorInfo) -> Option<&'a [u8]> {
    info.len.map(|_| gguf.data(info))
}

fn human(output: &DiffOutput) -> String {
    let mut out = format!("A {}\nB {}\n", output.a, output.b);
    let side = |value: &Option<serde_json::Value>| match value {
        Some(serde_json::Value::Object(map)) if map.contains_key("dims") => {
            format!("{} {}", map["type"].as_str().unwrap_or_default(), map["dims"])
        }
        Some(value) => shown(value),
        None => "-".into(),
    };
    for (title, differences) in [("metadata", &output.metadata), ("tensors", &output.tensors)] {
        writeln!(out, "\n{title}: {} differ", differences.len()).expect("writing to a string does not fail");
        for Difference { name, a, b, what } in differences {
            writeln!(out, "  {name} ({what})\n    A {}\n    B {}", side(a), side(b))
                .expect("writing to a string does not fail");
        }
    }
    out + &format!("\n{} tensors are the same in both\n", output.same_tensors)
}
