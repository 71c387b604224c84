//! `up`: from a checkout to real text, in one command.
//!
//! Steps: preflight, build the release binary, fetch the model, run it, show the text with tokens per second
//! and the selection line. Without network it runs a committed fixture with random weights and says so.
//! Deliberately absent: any link to the runtime; the binary is started and its JSON is read.

use crate::binary;
use crate::cli::{self, ModelArg};
use crate::ctx::Ctx;
use crate::exit::{Failure, code_of, fail, message_of};
use crate::models::catalog::Catalog;
use crate::models::fetch::{self, Cached};
use crate::preflight::{self, Show};
use crate::proc::{self, Command, Stdout};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const DEFAULT_MODEL: &str = "smollm2-135m";
/// What runs without network: a tiny ternary model with random weights.
const FIXTURES: &str = "fixtures/gguf/ok";

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    path: PathBuf,
    kind: Kind,
    prompt: String,
    run: RunOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Catalog,
    File,
    /// Random weights: the arithmetic is real, the text means nothing.
    RandomWeightFixture,
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

pub fn run(ctx: &Ctx, args: &cli::Up) -> Result<ExitCode> {
    let (checks, code) = preflight::report(ctx, &[]);
    if code != ExitCode::Ok {
        ctx.out.line(preflight::render(&ctx.out, &checks, Show::NotOk));
        return fail(code, "this machine cannot build and run bitforge yet; the checks above say what to do");
    }
    done(
        ctx,
        &format!(
            "preflight: {} checks ok, {} to look at later (`cargo xtask preflight`)",
            checks.ok,
            checks.checks.len() - checks.ok
        ),
    );
    let binary = binary::release(ctx)?;
    done(ctx, &format!("build: {}", binary.display()));
    let (model, path, kind) = choose_model(ctx, args.model.as_deref())?;
    let run = generate(ctx, &binary, &path, args)?;
    let report = Report { model, path, kind, prompt: args.prompt.clone(), run };
    if ctx.out.is_json() {
        ctx.out.json(&report)?;
    } else {
        ctx.out.stdout(&format!("{}{}", report.prompt, report.run.text))?;
    }
    ctx.out.line(render(&report));
    Ok(ExitCode::Ok)
}

fn done(ctx: &Ctx, text: &str) {
    ctx.out.line(format!("{} {text}", ctx.out.mark(State::Ok)));
}

/// The model that was asked for; the default one gives way to a fixture where there is no network.
fn choose_model(ctx: &Ctx, asked: Option<&str>) -> Result<(String, PathBuf, Kind)> {
    let name = match asked.map(ModelArg::parse) {
        Some(ModelArg::File(path)) if path.is_file() => {
            return Ok((path.display().to_string(), path, Kind::File));
        }
        Some(ModelArg::File(path)) => {
            return fail(
                ExitCode::NotFound,
                format!("{} is not a file; give --model a name or a path", path.display()),
            );
        }
        Some(ModelArg::Name(name)) => name,
        None => DEFAULT_MODEL.to_string(),
    };
    let catalog = Catalog::load(ctx)?;
    match fetch::fetch(ctx, catalog.get(&name)?, &ctx.cache_dir()?, Cached::Size) {
        Ok(fetched) => {
            let how = if fetched.cached { "from the cache" } else { "fetched and verified" };
            done(ctx, &format!("model: {name}, {how}"));
            Ok((name, fetched.path, Kind::Catalog))
        }
        Err(error) if asked.is_none() && code_of(&error) == ExitCode::Network => {
            let path = fixture(ctx.root()?)?;
            ctx.out.line(format!(
                "{} {}\n  running the fixture {} instead: its weights are random, so its text is not readable",
                ctx.out.mark(State::Warn),
                message_of(&error),
                path.display()
            ));
            Ok((
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                path,
                Kind::RandomWeightFixture,
            ))
        }
        Err(error) => Err(error),
    }
}

/// The first ternary fixture, I2_S before others.
fn fixture(root: &Path) -> Result<PathBuf> {
    let dir = root.join(FIXTURES);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    files.sort_by_key(|path| (!path.to_string_lossy().contains("i2_s"), path.clone()));
    files.into_iter().next().ok_or_else(|| {
        Failure::new(
            ExitCode::NotFound,
            format!("{} has no fixture; run `cargo xtask fixtures`", dir.display()),
        )
        .into()
    })
}

fn generate(ctx: &Ctx, binary: &Path, model: &Path, args: &cli::Up) -> Result<RunOutput> {
    let command = Command::new(binary)
        .args(["run", "--temperature", "0", "--json", "--max-tokens"])
        .args([args.max_tokens.to_string()])
        .args(["--model"])
        .args([model])
        .args(["--prompt", args.prompt.as_str()]);
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
    serde_json::from_str(&finished.stdout)
        .with_context(|| format!("`{}` printed JSON that xtask does not know", finished.line))
}

fn render(report: &Report) -> String {
    let RunOutput { prompt_tokens, output_tokens, timings, selection, .. } = &report.run;
    let note = match report.kind {
        Kind::RandomWeightFixture => " (random weights: the text means nothing)",
        Kind::Catalog | Kind::File => "",
    };
    let speed = |speed: Option<f64>| speed.map_or("no speed".into(), |speed| format!("{speed:.1} tokens/s"));
    format!(
        "model:     {}{note}\nprompt:    {} tokens, {}\ngenerated: {} tokens, {}\nselection: {selection}",
        report.model,
        prompt_tokens.len(),
        speed(timings.prompt_tokens_per_second),
        output_tokens.len(),
        speed(timings.decode_tokens_per_second),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    /// In the shape that `bitnet run --json` prints.
    const OUTPUT: &str = r#"{
        "model": {"path": "m.gguf"}, "prompt_tokens": [1, 2, 3], "output_tokens": [4, 5], "text": " two words",
        "finish_reason": "max-tokens",
        "timings": {"load_ms": 1.5, "prompt_tokens_per_second": 300.25, "decode_tokens_per_second": null},
        "selection": "requested=auto compiled=[scalar] detected=[scalar] selected=scalar reason=best"
    }"#;

    fn report(kind: Kind) -> Report {
        let run = serde_json::from_str(OUTPUT).unwrap();
        Report { model: "m".into(), path: "m.gguf".into(), kind, prompt: "Say".into(), run }
    }

    #[test]
    fn the_report_for_people_and_programs() {
        insta::assert_snapshot!(render(&report(Kind::Catalog)));
        insta::assert_json_snapshot!("json", report(Kind::RandomWeightFixture));
    }

    #[test]
    fn random_weights_are_named_as_such() {
        let text = render(&report(Kind::RandomWeightFixture));
        assert!(text.contains("(random weights: the text means nothing)"), "{text}");
    }

    #[test]
    fn without_network_a_ternary_fixture_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::new(
            Some(dir.path().into()),
            Env::from_pairs([("BITNET_OFFLINE", "1"), ("BITNET_CACHE_DIR", dir.path().to_str().unwrap())]),
            Reporter::for_tests(),
        );
        std::fs::create_dir_all(dir.path().join("tools")).unwrap();
        let catalog = include_str!("../../tools/models.toml");
        std::fs::write(dir.path().join("tools/models.toml"), catalog).unwrap();
        std::fs::create_dir_all(dir.path().join(FIXTURES)).unwrap();
        assert_eq!(code_of(&choose_model(&ctx, None).unwrap_err()), ExitCode::NotFound);
        for name in ["a-tq1_0.gguf", "b-i2_s.gguf", "README.md"] {
            std::fs::write(dir.path().join(FIXTURES).join(name), "").unwrap();
        }
        let (name, path, kind) = choose_model(&ctx, None).unwrap();
        assert_eq!((name.as_str(), kind), ("b-i2_s", Kind::RandomWeightFixture));
        assert!(path.is_file());
        // A model that was asked for is never replaced.
        let error = choose_model(&ctx, Some(DEFAULT_MODEL)).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Network);
        let error = choose_model(&ctx, Some("none/such.gguf")).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::NotFound);
    }
}
