//! Text from the model: `bitnet run` with a receipt, and how it is shown.
//!
//! In: the release binary, a model, a prompt. Out: the text on stdout, its numbers, `receipts/run.json`.
//! Deliberately absent: which model.

use super::{Kind, Model};
use crate::cli;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Debug, Serialize)]
pub struct Generated {
    model: Model,
    prompt: String,
    run: RunOutput,
}

/// What `bitnet run --json` prints, as far as it is shown here.
#[derive(Debug, Deserialize, Serialize)]
pub struct RunOutput {
    pub prompt_tokens: Vec<u32>,
    pub output_tokens: Vec<u32>,
    pub text: String,
    pub timings: Timings,
    /// The selection line.
    pub selection: String,
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Timings {
    /// `None` where there was nothing to measure.
    pub prompt_tokens_per_second: Option<f64>,
    pub decode_tokens_per_second: Option<f64>,
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// Generates, prints the text, and returns the numbers. `receipt` is written by the binary itself.
pub fn generate(
    ctx: &Ctx,
    binary: &Path,
    model: &Model,
    receipt: &Path,
    args: &cli::Up,
) -> Result<Generated> {
    let prompt = args.prompt.as_deref().unwrap_or(model.kind.prompt());
    let command = Command::new(binary)
        .args(["run", "--temperature", "0", "--json", "--max-tokens"])
        .args([args.max_tokens.to_string()])
        .args(["--model"])
        .args([&model.path])
        .args(["--receipt"])
        .args([receipt])
        .args(["--prompt", prompt]);
    let mut progress = ctx.out.progress("generating");
    let finished = proc::run(ctx, &command, Stdout::Capture, &ctx.log_file("up-run")?, |line| {
        progress.message(line);
    })?;
    drop(progress);
    if !finished.success() {
        // The binary's exit code is of the same table.
        let code = ExitCode::ALL.into_iter().find(|code| Some(*code as i32) == finished.code);
        return fail(code.unwrap_or(ExitCode::Internal), finished.explain());
    }
    let run: RunOutput = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("`{}` printed JSON that xtask does not know", finished.line))?;
    if !ctx.out.is_json() {
        ctx.out.stdout(&format!("{prompt}{}", run.text))?;
    }
    Ok(Generated { model: model.clone(), prompt: prompt.to_string(), run })
}

pub fn render(generated: &Generated) -> String {
    let RunOutput { prompt_tokens, output_tokens, timings, selection, .. } = &generated.run;
    let note = match generated.model.kind {
        Kind::TrainedFixture => " (trained on the King James Bible alone)",
        Kind::Catalog | Kind::File => "",
    };
    let speed = |speed: Option<f64>| speed.map_or("no speed".into(), |speed| format!("{speed:.1} tokens/s"));
    format!(
        "model:     {}{note}\nprompt:    {} tokens, {}\ngenerated: {} tokens, {}\nselection: {selection}",
        generated.model.name,
        prompt_tokens.len(),
        speed(timings.prompt_tokens_per_second),
        output_tokens.len(),
        speed(timings.decode_tokens_per_second),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the shape that `bitnet run --json` prints.
    const OUTPUT: &str = r#"{
        "model": {"path": "m.gguf"}, "prompt_tokens": [1, 2, 3], "output_tokens": [4, 5], "text": " two words",
        "finish_reason": "max-tokens",
        "timings": {"load_ms": 1.5, "prompt_tokens_per_second": 300.25, "decode_tokens_per_second": null},
        "selection": "requested=auto compiled=[scalar] detected=[scalar] selected=scalar reason=best"
    }"#;

    fn generated(kind: Kind) -> Generated {
        let run = serde_json::from_str(OUTPUT).unwrap();
        let model = Model { name: "m".into(), path: "m.gguf".into(), kind };
        Generated { model, prompt: "Say".into(), run }
    }

    #[test]
    fn the_report_for_people_and_programs() {
        insta::assert_snapshot!(render(&generated(Kind::Catalog)));
        insta::assert_json_snapshot!("json", generated(Kind::TrainedFixture));
    }

    #[test]
    fn the_fixture_says_what_it_knows() {
        let text = render(&generated(Kind::TrainedFixture));
        assert!(text.contains("(trained on the King James Bible alone)"), "{text}");
    }
}
