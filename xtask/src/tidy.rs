//! `tidy`: the rules of the repository itself, as checks.
//!
//! In: the files of the checkout (as git lists them, otherwise a walk). Out: violations with path, line and
//! remedy. Each rule is a function from a [`Tree`] to violations; its test plants one. Deliberately absent:
//! what rustfmt and clippy check.

mod commands;
mod dependencies;
mod floors;
mod links;

use crate::ci;
use crate::ctx::Ctx;
use crate::docs;
use crate::exit::{Failure, message_of};
use crate::proc::{self, Command};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use cargo_metadata::{Metadata, MetadataCommand};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// What may lie at the top level besides dot files.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "ci",
    "deny.toml",
    "docs",
    "fixtures",
    "runtime",
    "tools",
    "xtask",
];

const MAX_LINES: usize = 600;
/// Source files that may be longer, each with its reason (tables, generated code).
const LONG_FILES: &[(&str, &str)] = &[];

const FIXTURE_BYTES: u64 = 1 << 20;
const FIXTURES_BYTES: u64 = 8 << 20;
/// What was trained cannot be generated on the fly: limits of its own.
const TRAINED: &str = "fixtures/trained/";
const TRAINED_BYTES: u64 = 8_000_000;
/// Inputs that fuzzing found.
const FUZZ: &str = "fixtures/fuzz/";
const FUZZ_BYTES: u64 = 3 << 20;

/// The one module of xtask that starts processes.
const PROC: &str = "xtask/src/proc.rs";

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub rule: &'static str,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        write!(f, "{}{line}: {} ({})", self.path, self.message, self.rule)
    }
}

type Rule = fn(&Tree) -> Vec<Violation>;

const RULES: &[Rule] = &[
    top_level,
    file_length,
    forbidden_text,
    machine_paths,
    one_process_module,
    fixture_sizes,
    links::links,
    links::book,
    generated_docs,
    workflows,
    gpu_apart,
    floors::floors,
    commands::commands,
];

pub fn run(ctx: &Ctx) -> Result<ExitCode> {
    let violations = check(ctx)?;
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "rules": RULES.len() + 2, "violations": violations }))?;
    }
    if violations.is_empty() {
        ctx.out.line(format!("{} tidy: {} rules hold", ctx.out.mark(State::Ok), RULES.len() + 2));
        return Ok(ExitCode::Ok);
    }
    for violation in &violations {
        ctx.out.line(format!("{} {violation}", ctx.out.mark(State::Fail)));
    }
    Ok(ExitCode::CheckFailed)
}

/// Every violation of every rule.
pub fn check(ctx: &Ctx) -> Result<Vec<Violation>> {
    let tree = Tree::read(ctx, ctx.root()?)?;
    let mut violations: Vec<Violation> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    let metadata = metadata(ctx)?;
    violations.extend(runtime_apart(&metadata));
    violations.extend(dependencies::dependencies(ctx, &tree, &metadata)?);
    Ok(violations)
}

/// The checkout: its root and the paths of its files, relative, with `/`, sorted.
pub struct Tree {
    root: PathBuf,
    files: Vec<String>,
}

impl Tree {
    pub fn read(ctx: &Ctx, root: &Path) -> Result<Self> {
        let mut files = if root.join(".git").exists() {
            let list = Command::new("git")
                .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
                .dir(root);
            let text = proc::read(ctx, &list)?;
            let listed = text.split('\0').filter(|path| !path.is_empty());
            // A file that git still lists but that was deleted is not there to check.
            listed.filter(|path| root.join(path).is_file()).map(str::to_string).collect()
        } else {
            let mut files = Vec::new();
            walk(root, root, &mut files)?;
            files
        };
        files.sort();
        files.dedup();
        Ok(Tree { root: root.into(), files })
    }

    /// Whether `path` is there; rules about a part of the tree start with asking for it, since tests tidy small trees.
    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file == path)
    }

    fn with_extension<'a>(&'a self, extensions: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        self.files.iter().map(String::as_str).filter(|path| {
            let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| extensions.contains(&extension))
        })
    }

    /// The text of a file; empty where it is not UTF-8.
    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// Lines of the given kinds of files for which `find` gives a message.
    fn grep(
        &self,
        rule: &'static str,
        extensions: &[&str],
        find: impl Fn(&str) -> Option<String>,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        for path in self.with_extension(extensions) {
            for (index, line) in self.text(path).lines().enumerate() {
                let found = find(line).map(|message| Violation {
                    rule,
                    path: path.into(),
                    line: Some(index + 1),
                    message,
                });
                violations.extend(found);
            }
        }
        violations
    }
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(relative.as_str(), "target" | ".git") {
                walk(root, &path, files)?;
            }
        } else {
            files.push(relative);
        }
    }
    Ok(())
}

fn violation(rule: &'static str, path: &str, message: impl Into<String>) -> Violation {
    Violation { rule, path: path.into(), line: None, message: message.into() }
}

fn top_level(tree: &Tree) -> Vec<Violation> {
    let names: BTreeSet<&str> = tree.files.iter().filter_map(|path| path.split('/').next()).collect();
    let unknown = names.iter().filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    let missing = TOP_LEVEL.iter().filter(|name| !names.contains(*name));
    unknown
        .map(|name| violation("top-level", name, "does not belong at the top level; move it below a folder"))
        .chain(missing.map(|name| violation("top-level", name, "is missing at the top level")))
        .collect()
}

fn file_length(tree: &Tree) -> Vec<Violation> {
    tree.with_extension(&["rs", "py", "sh", "c", "cc", "cpp", "h", "hpp", "cu", "js", "ts"])
        .filter(|path| LONG_FILES.iter().all(|(listed, _)| listed != path))
        .filter_map(|path| {
            let lines = tree.text(path).lines().count();
            let message = format!("has {lines} lines, at most {MAX_LINES} are allowed; split it by topic");
            (lines > MAX_LINES).then(|| violation("file-length", path, message))
        })
        .collect()
}

/// Texts that must not occur, in which files, and what to do instead. They are written in two halves so that
/// this file passes.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (concat!("#[al", "low("), &["rs"], "write an expect attribute with a reason"),
    (concat!("#![al", "low("), &["rs"], "write an expect attribute with a reason"),
    (concat!("#[ig", "nore"), &["rs"], "delete the test or make it run everywhere"),
    (concat!("to", "do!("), &["rs"], "finish it"),
    (concat!("unimple", "mented!("), &["rs"], "finish it"),
    (
        concat!("target-cpu", "=native"),
        &["rs", "toml", "sh", "yml", "yaml", "py"],
        "pick kernels at run time",
    ),
];

fn forbidden_text(tree: &Tree) -> Vec<Violation> {
    FORBIDDEN
        .iter()
        .flat_map(|(text, extensions, remedy)| {
            tree.grep("forbidden-text", extensions, |line| {
                line.contains(text).then(|| format!("holds `{text}`; {remedy}"))
            })
        })
        .collect()
}

/// Folders of somebody's machine.
const MACHINE_PATHS: &[&str] = &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

fn machine_paths(tree: &Tree) -> Vec<Violation> {
    let kinds = ["rs", "toml", "md", "sh", "py", "json", "yml", "yaml", "snap", "txt"];
    tree.grep("machine-paths", &kinds, |line| {
        let found = MACHINE_PATHS.iter().find(|path| {
            line.match_indices(*path)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}>$".contains(c)))
        })?;
        Some(format!("names a folder below {found} of one machine; use a relative path or a variable"))
    })
}

fn one_process_module(tree: &Tree) -> Vec<Violation> {
    let starts = [concat!("process::Com", "mand"), concat!("du", "ct::"), concat!("xsh", "ell::")];
    let mut violations = tree.grep("one-process-module", &["rs"], |line| {
        let used = starts.iter().find(|text| line.contains(**text))?;
        Some(format!("uses {used}; start processes through {PROC}"))
    });
    violations.retain(|Violation { path, .. }| {
        path.starts_with("xtask/src/") && !path.contains("/tests/") && path != PROC
    });
    violations
}

fn fixture_sizes(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (mut total, mut trained, mut fuzz) = (0, 0, 0);
    for path in tree.files.iter().filter(|path| path.starts_with("fixtures/")) {
        let bytes = std::fs::metadata(tree.root.join(path)).map_or(0, |meta| meta.len());
        if path.starts_with(TRAINED) {
            trained += bytes;
            continue;
        }
        *if path.starts_with(FUZZ) { &mut fuzz } else { &mut total } += bytes;
        if bytes > FIXTURE_BYTES {
            let message = format!("has {bytes} bytes, at most {FIXTURE_BYTES} are allowed; make it smaller");
            violations.push(violation("fixture-sizes", path, message));
        }
    }
    for (path, bytes, most, remedy) in [
        ("fixtures", total, FIXTURES_BYTES, "generate on the fly"),
        (TRAINED, trained, TRAINED_BYTES, "train a smaller model"),
        (FUZZ, fuzz, FUZZ_BYTES, "minimise it with `cargo xtask fuzz cmin --all`"),
    ] {
        if bytes > most {
            let message = format!("holds {bytes} bytes, at most {most} are allowed; {remedy}");
            violations.push(violation("fixture-sizes", path, message));
        }
    }
    violations
}

fn generated_docs(tree: &Tree) -> Vec<Violation> {
    let stale = docs::stale(&tree.root).into_iter();
    stale.map(|path| violation("generated-docs", path, "is out of date; run `cargo xtask docs`")).collect()
}

/// The lanes are right, and the workflows say what they say.
fn workflows(tree: &Tree) -> Vec<Violation> {
    if !tree.has("xtask/src/ci/mod.rs") {
        return Vec::new();
    }
    let of = |error: anyhow::Error| vec![violation("workflows", ci::FILE, message_of(&error))];
    let stale = match ci::read(&tree.root).and_then(|lanes| ci::workflow::stale(&tree.root, &lanes)) {
        Ok(stale) => stale,
        Err(error) => return of(error),
    };
    let message = "is out of date; run `cargo xtask ci generate`";
    stale.iter().map(|path| violation("workflows", path, message)).collect()
}

/// CUDA's crate is used in runtime/src/cuda alone, and its module is named behind the feature; so is the GPU's.
fn gpu_apart(tree: &Tree) -> Vec<Violation> {
    let (cuda, gpu) = (["cuda", "rc::"].concat(), "runtime/src/gpu/");
    let watched = |path: &str| path.starts_with("runtime/") && !path.starts_with("runtime/src/cuda/");
    let mut violations = tree.grep("gpu-apart", &["rs"], |line| {
        line.contains(&cuda).then(|| "uses the CUDA crate; only runtime/src/cuda may".to_string())
    });
    violations.retain(|Violation { path, .. }| watched(path));
    for path in tree.with_extension(&["rs"]).filter(|path| watched(path)) {
        let text = tree.text(path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            for (module, feature) in [
                ("crate::cuda", "cuda"),
                ("pub mod cuda;", "cuda"),
                ("crate::gpu", "gpu"),
                ("pub mod gpu;", "gpu"),
                ("bitnet_runtime::cuda", "cuda"),
                ("bitnet_runtime::gpu", "gpu"),
            ] {
                // What is under a feature of its own needs no other.
                let inside = path.starts_with(gpu) && feature == "gpu";
                if !inside
                    && line.contains(module)
                    && !line.trim_start().starts_with("//")
                    && !behind(&lines, index, feature)
                {
                    let message = format!("names {module} without #[cfg(feature = \"{feature}\")] above it");
                    violations
                        .push(Violation { line: Some(index + 1), ..violation("gpu-apart", path, message) });
                }
            }
        }
    }
    violations
}

/// Whether a line is below the attribute of a feature, within the item that it belongs to: a blank line ends that.
fn behind(lines: &[&str], index: usize, feature: &str) -> bool {
    let attribute = format!("feature = \"{feature}\"");
    let before = lines[..=index].iter().rev().take_while(|line| !line.trim().is_empty());
    before.into_iter().any(|line| line.contains("cfg") && line.contains(&attribute))
}

/// The workspace's own packages.
fn metadata(ctx: &Ctx) -> Result<Metadata> {
    let command = ctx.cargo(["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    let text = proc::read(ctx, &command)?;
    let parsed = MetadataCommand::parse(text.lines().next().unwrap_or_default());
    Ok(parsed.map_err(|error| Failure::new(ExitCode::BadInput, format!("cargo metadata: {error}")))?)
}

/// xtask, and what it depends on inside the workspace, never links the runtime.
fn runtime_apart(metadata: &Metadata) -> Vec<Violation> {
    let dependencies = |name: &str| {
        let package = metadata.packages.iter().find(|package| *package.name == name);
        package.into_iter().flat_map(|package| package.dependencies.iter().map(|dep| dep.name.clone()))
    };
    let mut seen = BTreeSet::new();
    let mut open = vec!["xtask".to_string()];
    while let Some(name) = open.pop() {
        if seen.insert(name.clone()) {
            open.extend(dependencies(&name));
        }
    }
    let linked = seen.iter().any(|name| name.starts_with("bitnet-"));
    let message = "depends on the runtime; start the bitnet binary and read its JSON instead";
    linked.then(|| violation("runtime-apart", "xtask/Cargo.toml", message)).into_iter().collect()
}

#[cfg(test)]
mod tests;
