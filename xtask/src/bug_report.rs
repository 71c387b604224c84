//! `report`: a redacted bundle for a bug report.
//!
//! In: the checks of preflight, versions, the receipts of the last steps and the ends of the logs. Out: one zip
//! file of text. Names of the user and the machine, their folders and passwords in addresses are replaced before
//! anything is written. Deliberately absent: model files, prompts outside receipts, and any sending.

use crate::cli;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::preflight;
use crate::proc::{self, Command};
use crate::report::bytes;
use anyhow::{Context, Result};
use bitforge_schema::env::VARIABLES;
use bitforge_schema::exit::ExitCode;
use std::io::Write;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

/// The end of a log that is kept.
const LOG_TAIL: usize = 128 * 1024;

/// One text of the bundle.
struct Entry {
    name: String,
    text: String,
}

pub fn run(ctx: &Ctx, args: &cli::BugReport) -> Result<ExitCode> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("bitforge-report.zip"));
    if out.exists() && !args.force {
        return fail(
            ExitCode::Usage,
            format!("{} is there already; give another --out, or --force to replace it", out.display()),
        );
    }
    let redaction = Redaction::of(ctx);
    let mut entries = vec![Entry { name: "facts.json".into(), text: facts(ctx)? }];
    let target = ctx.target_dir()?;
    entries.extend(texts(&target.join("receipts"), "receipts", "json")?);
    entries.extend(texts(&target.join("logs"), "logs", "log")?);
    for entry in &mut entries {
        entry.text = redaction.apply(&entry.text);
    }
    write_zip(&out, &entries)?;
    let size = std::fs::metadata(&out).map_or(0, |meta| meta.len());
    for Entry { name, text } in &entries {
        ctx.out.line(format!("  {name} ({})", bytes(text.len() as u64)));
    }
    ctx.out.line(format!(
        "{} ({}): please read it before you send it; names and folders of this machine were replaced",
        out.display(),
        bytes(size)
    ));
    if ctx.out.is_json() {
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        ctx.out.json(&serde_json::json!({ "path": out, "entries": names }))?;
    }
    Ok(ExitCode::Ok)
}

/// Versions, preflight and the environment variables that bitforge reads.
fn facts(ctx: &Ctx) -> Result<String> {
    let ask = |program: &str, args: &[&str]| {
        let command = Command::new(program).args(args.iter().copied()).dir(ctx.root()?);
        anyhow::Ok(proc::read(ctx, &command).unwrap_or_else(|error| format!("could not ask: {error:#}")))
    };
    let (preflight, _) = preflight::report(ctx, &[]);
    let environment: serde_json::Map<String, serde_json::Value> = VARIABLES
        .iter()
        .filter_map(|variable| Some((variable.name.to_string(), ctx.env.get(variable.name)?.into())))
        .collect();
    let facts = serde_json::json!({
        "xtask": env!("CARGO_PKG_VERSION"),
        "revision": ask("git", &["rev-parse", "HEAD"])?,
        "changed_files": ask("git", &["status", "--short"])?.lines().collect::<Vec<_>>(),
        "rustc": ask("rustc", &["--version", "--verbose"])?.lines().collect::<Vec<_>>(),
        "environment": environment,
        "preflight": preflight,
    });
    serde_json::to_string_pretty(&facts).context("serializing the facts")
}

/// The files of `dir` with this extension, the end of each; a folder that is not there has none.
fn texts(dir: &Path, below: &str, extension: &str) -> Result<Vec<Entry>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let content = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let tail = &content[content.len().saturating_sub(LOG_TAIL)..];
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(Entry { name: format!("{below}/{name}"), text: String::from_utf8_lossy(tail).into_owned() })
        })
        .collect()
}

fn write_zip(out: &Path, entries: &[Entry]) -> Result<()> {
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("creating a file in {}", dir.display()))?;
    let mut zip = zip::ZipWriter::new(file);
    for Entry { name, text } in entries {
        zip.start_file(name.as_str(), SimpleFileOptions::default())
            .and_then(|()| zip.write_all(text.as_bytes()).map_err(Into::into))
            .with_context(|| format!("writing {name} to {}", out.display()))?;
    }
    let file = zip.finish().with_context(|| format!("writing {}", out.display()))?;
    file.persist(out).with_context(|| format!("writing {}", out.display()))?;
    Ok(())
}

/// What is replaced by what, longest first so that a folder goes before its parent.
struct Redaction(Vec<(String, &'static str)>);

impl Redaction {
    fn of(ctx: &Ctx) -> Self {
        let path = |path: Result<PathBuf>| path.ok().map(|path| path.display().to_string());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self::new([
            (path(ctx.target_dir()), "<target>"),
            (path(ctx.root().map(Path::to_path_buf)), "<checkout>"),
            (path(ctx.cache_dir()), "<cache>"),
            (ctx.env.get("CARGO_HOME").map(str::to_string), "<cargo>"),
            (ctx.env.get("HOME").map(str::to_string), "<home>"),
            (ctx.env.get("USER").map(str::to_string), "<user>"),
            (ctx.env.get("LOGNAME").map(str::to_string), "<user>"),
            (host.map(|host| host.trim().to_string()), "<host>"),
        ])
    }

    fn new<const N: usize>(pairs: [(Option<String>, &'static str); N]) -> Self {
        // A user called "a", or the folder "/", would take the text apart.
        let long_enough = |value: &String| value.len() >= 4;
        let mut pairs: Vec<_> =
            pairs.into_iter().filter_map(|(value, to)| Some((value.filter(long_enough)?, to))).collect();
        pairs.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        Redaction(pairs)
    }

    fn apply(&self, text: &str) -> String {
        let text = without_credentials(text);
        self.0.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }
}

/// `scheme://user:password@host` without what stands before the `@`.
fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let authority =
            tail.find(|c: char| c.is_whitespace() || "/\"'<>\\".contains(c)).unwrap_or(tail.len());
        rest = match tail[..authority].rfind('@') {
            Some(sign) => {
                out.push_str("<credentials>");
                &tail[sign..]
            }
            None => tail,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;
    use std::io::Read;

    #[test]
    fn names_folders_and_passwords_are_replaced() {
        let redaction = Redaction::new([
            (Some("/people/someone".into()), "<home>"),
            (Some("/people/someone/src/bitforge".into()), "<checkout>"),
            (Some("someone".into()), "<user>"),
            (Some("/".into()), "<root>"),
            (None, "<host>"),
        ]);
        let text = "/people/someone/src/bitforge/a.rs /people/someone/.cache someone \
                    https://me:secret@proxy.example/simple http://example/x@y /";
        assert_eq!(
            redaction.apply(text),
            "<checkout>/a.rs <home>/.cache <user> https://<credentials>@proxy.example/simple http://example/x@y /"
        );
    }

    #[test]
    fn the_bundle_holds_logs_and_receipts_without_the_folder_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("checkout");
        for sub in ["target/receipts", "target/logs"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        let line = format!("opening {}/model.gguf", root.display());
        std::fs::write(root.join("target/logs/run.log"), &line).unwrap();
        std::fs::write(root.join("target/receipts/run.json"), "{}").unwrap();
        // The target folder of the test run itself is not the planted one.
        let process = Env::from_process();
        let env = Env::from_pairs(process.iter().filter(|(name, _)| *name != "CARGO_TARGET_DIR"));
        let ctx = Ctx::new(Some(root.clone()), env, Reporter::for_tests());
        let out = dir.path().join("bundle.zip");
        let args = cli::BugReport { out: Some(out.clone()), force: false };
        run(&ctx, &args).unwrap();
        let mut zip = zip::ZipArchive::new(std::fs::File::open(&out).unwrap()).unwrap();
        let names: Vec<String> = zip.file_names().map(str::to_string).collect();
        assert_eq!(names, ["facts.json", "receipts/run.json", "logs/run.log"]);
        let mut text = String::new();
        zip.by_name("logs/run.log").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "opening <checkout>/model.gguf");
        assert!(run(&ctx, &args).is_err(), "a bundle is never overwritten unasked");
    }
}
