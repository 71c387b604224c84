//! `cluster eval`: `bitnet perplexity` with some chunks of the text to a shard.
//!
//! In: a model, a text, how many shards. Out: the perplexity, judged as `eval` does, and a receipt of the kind `cluster-eval` with
//! the sums of every shard. Deliberately absent: another way of measuring; each shard is what one machine does.

use super::Cluster;
use super::merge::add_up;
use super::plan::{Answer, Bounds, Plan, split};
use crate::binary;
use crate::ctx::Ctx;
use crate::eval::judge::judge;
use crate::eval::settings::Settings;
use crate::eval::{self, Output};
use crate::receipts::store;
use anyhow::{Context, Result, ensure};
use bitforge_receipt_schema::cluster::{ClusterEval, Shard};
use bitforge_receipt_schema::eval::Measured;
use bitforge_receipt_schema::{Body, FileFacts};
use bitforge_schema::exit::ExitCode;
use std::path::PathBuf;

#[derive(clap::Args, Clone, Debug)]
pub struct EvalArgs {
    /// A name of the catalog or a GGUF file
    #[arg(long)]
    pub model: String,
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Parts of the text, each for one worker at a time
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub shards: u32,
    /// Tokens of a chunk; the committed goldens are of 512
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub ctx_size: u32,
    /// Threads, and CPUs of a node, of each shard
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    #[command(flatten)]
    pub bounds: Bounds,
}

pub fn run(ctx: &Ctx, args: &EvalArgs) -> Result<ExitCode> {
    let cluster = Cluster::of(ctx)?;
    let (model, text) = (eval::file_of(ctx, &args.model)?, eval::present(args.text.clone())?);
    let binary = binary::release(ctx)?;
    // One chunk here says how many the text has.
    let first = eval::ask(ctx, &binary, &model, &text, args.ctx_size, Some("1"))?;
    let mut plan = Plan::new(&[("bitnet", &binary), ("model", &model), ("text", &text)], &args.bounds)?;
    let context = args.ctx_size.to_string();
    for range in split(first.text_chunks, args.shards) {
        let id = format!("{}..{}", range.start, range.end);
        let words =
            ["{file:bitnet}", "perplexity", "--json", "--model", "{file:model}", "--file", "{file:text}"];
        let more = ["--ctx-size", &context, "--chunks", &id];
        plan.add(id.clone(), args.threads, words.into_iter().chain(more));
    }
    let facts = [&binary, &model, &text].map(|path| store::file_facts(path));
    let [binary, model, text] = facts;
    let body = merged(&plan.run(ctx, &cluster)?, binary?, model?, text?)?;
    let judged = judge(&body.measured, &Settings::load(ctx)?);
    let parents = store::parents_of(ctx, &["build"], &body.binary, &body.binary)?;
    let (shards, scored, error) = (body.shards.len(), body.measured.scored, body.measured.standard_error);
    let lost: usize = body.shards.iter().map(|shard| shard.lost.len()).sum();
    let receipt = store::write(ctx, Body::ClusterEval(Box::new(body)), &parents)?;
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({
            "perplexity": judged.perplexity, "standard_error": error, "scored": scored, "shards": shards, "lost": lost,
            "judged": judged, "receipt": receipt
        }))?;
    }
    let told = format!("perplexity {:.6} +/- {error:.4}", judged.perplexity);
    ctx.out.line(format!("{told}: {scored} tokens in {shards} shards, {lost} of them lost and done again"));
    judged.problems.iter().chain(&judged.unknown).for_each(|problem| ctx.out.line(problem));
    ctx.out.line(format!("receipt: {}", receipt.display()));
    Ok(if judged.problems.is_empty() { ExitCode::Ok } else { ExitCode::Diverged })
}

/// What the shards printed, if it is of one text.
fn merged(answers: &[Answer], binary: FileFacts, model: FileFacts, text: FileFacts) -> Result<ClusterEval> {
    let parse = |answer: &Answer| -> Result<Output> {
        let id = &answer.id;
        let output: Output = serde_json::from_str(&answer.stdout)
            .with_context(|| format!("shard {id} printed JSON that xtask does not know"))?;
        let range = output.first_chunk..output.first_chunk + output.nll.len() as u32;
        ensure!(*id == format!("{}..{}", range.start, range.end), "shard {id} scored the chunks {range:?}");
        Ok(output)
    };
    let outputs = answers.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let first = outputs.first().context("the text has no chunks")?;
    let (context, text_chunks) = (first.ctx_size, first.text_chunks);
    let activation_quant = first.engine.activation_quant;
    for (answer, output) in answers.iter().zip(&outputs) {
        ensure!(
            (output.ctx_size, output.text_chunks, output.engine.activation_quant)
                == (context, text_chunks, activation_quant),
            "shard {} measured something else than shard {}",
            answer.id,
            answers[0].id
        );
    }
    let shard = |(answer, output): (&Answer, Output)| Shard {
        first_chunk: output.first_chunk,
        scored: output.scored,
        nll: output.nll,
        squares: output.squares,
        kernels: output.kernels,
        node: answer.node.clone(),
        processor: answer.processor.clone(),
        lost: answer.lost.clone(),
    };
    let mut shards: Vec<Shard> = answers.iter().zip(outputs).map(shard).collect();
    shards.sort_by_key(|shard| shard.first_chunk);
    let sums = add_up(text_chunks, context, &shards).map_err(anyhow::Error::msg)?;
    let measured = Measured {
        model,
        text,
        context,
        scored: sums.scored,
        activation_quant,
        nll: sums.nll,
        standard_error: sums.standard_error,
        kernels: sums.kernels,
    };
    Ok(ClusterEval { binary, text_chunks, measured, shards })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::tests::answer;
    use serde_json::{Value, json};

    fn printed(first: u32, nll: &[f64]) -> Value {
        json!({
            "engine": { "activation_quant": "token" }, "ctx_size": 4, "first_chunk": first, "text_chunks": 3, "scored": nll.len(),
            "standard_error": 0.0, "nll": nll, "squares": nll, "kernels": []
        })
    }

    fn put_together(shards: &[(&str, Value)]) -> Result<ClusterEval, String> {
        let answers: Vec<Answer> = shards.iter().map(|(id, value)| answer(id, &value.to_string())).collect();
        let file = |name: &str| FileFacts { name: name.into(), bytes: 1, sha256: "0".repeat(64) };
        merged(&answers, file("b"), file("m"), file("t")).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_shards_printed_becomes_a_receipt_that_holds() {
        let eval = put_together(&[("1..3", printed(1, &[2.0, 6.0])), ("0..1", printed(0, &[1.0]))]).unwrap();
        assert_eq!((eval.measured.nll.as_slice(), eval.measured.scored), (&[1.0, 2.0, 6.0][..], 3));
        let first: Vec<u32> = eval.shards.iter().map(|shard| shard.first_chunk).collect();
        assert_eq!((first, eval.shards[0].lost.as_slice()), (vec![0, 1], &["x".to_string()][..]));
        crate::cluster::merge::holds(&eval).unwrap();
    }

    #[test]
    fn shards_of_something_else_are_refused() {
        let first = ("0..1", printed(0, &[1.0]));
        let refused = |id, value: Value| put_together(&[first.clone(), (id, value)]).unwrap_err();
        assert!(refused("1..3", printed(0, &[2.0, 6.0])).contains("shard 1..3 scored the chunks 0..2"));
        assert!(refused("1..3", json!({})).contains("shard 1..3 printed JSON"));
        for (field, value) in [
            ("ctx_size", json!(8)),
            ("text_chunks", json!(4)),
            ("engine", json!({ "activation_quant": "block256" })),
        ] {
            let mut other = printed(1, &[2.0, 6.0]);
            other[field] = value;
            assert!(
                refused("1..3", other).contains("shard 1..3 measured something else than shard 0..1"),
                "{field}"
            );
        }
        assert!(put_together(&[first]).unwrap_err().contains("end at chunk 1 of 3"));
        assert!(put_together(&[]).unwrap_err().contains("no chunks"));
    }
}
