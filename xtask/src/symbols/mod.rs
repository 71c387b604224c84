//! `cargo xtask analyze-library`: what a library is, what it exports and needs, and what it is able to do.
//!
//! In: library files of any common format. Out: a table, JSON (an array of libraries) or cfg lines on
//! standard output; messages on standard error. Flow: `open` maps the file and picks a reader in `formats`,
//! which fills a `model::Library`; `capabilities` draws conclusions from exact symbol names; `table`, `json`,
//! `cfg` and `compare` report. Nothing is run and no other program is called. Deliberately absent: code,
//! relocations, debug information, the search for libraries.

mod capabilities;
mod cfg;
mod compare;
mod demangle;
mod expect;
mod formats;
mod hardening;
mod json;
mod model;
mod open;
pub mod place;
mod table;
#[cfg(test)]
mod tests;

use anyhow::Context as _;
use bitforge_schema::exit::ExitCode;
use clap::builder::PossibleValuesParser;
use model::Library;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What `analyze-library` is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct AnalyzeArgs {
    /// Libraries, objects, archives or executables to read
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Capabilities that the given libraries must have between them, such as llama,i2s
    #[arg(long, value_delimiter = ',', value_name = "CAPABILITY", value_parser = PossibleValuesParser::new(capabilities::names()))]
    pub expect: Vec<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub format: OutputFormat,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Report what was added, removed or changed from PATH to OTHER
    #[arg(long, value_name = "OTHER", conflicts_with_all = ["expect", "needs"])]
    pub diff: Option<PathBuf>,
    /// Report which undefined symbols of PATH the library OTHER provides; may be repeated
    #[arg(long, value_name = "OTHER", conflicts_with = "expect")]
    pub needs: Vec<PathBuf>,
    /// Show C++ and Rust names as they are written in source
    #[arg(long)]
    pub demangle: bool,
    /// How many of the largest symbols and sections to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Read the full symbol table, local symbols included, where the file still has it
    #[arg(long)]
    pub all_symbols: bool,
    /// Read files into memory instead of mapping them (safe where another process may shorten them)
    #[arg(long)]
    pub no_mmap: bool,
}

/// Forms of output.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people
    Table,
    /// For programs: an array of libraries (fixtures/schemas/analyze-library.schema.json)
    Json,
    /// For build scripts: cargo::rustc-check-cfg and cargo::rustc-cfg lines
    Cfg,
}

impl AnalyzeArgs {
    fn output(&self) -> OutputFormat {
        if self.json { OutputFormat::Json } else { self.format }
    }
}

/// Reads `args.paths` and reports on them. A file that cannot be read is named on standard error and the
/// others are still reported; the exit code is that of the first failure, or `CheckFailed` where an expected
/// capability is missing.
pub fn run(args: &AnalyzeArgs, stdout: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::with_capacity(1 << 16, stdout);
    let mut errors = std::io::stderr().lock();
    let code = report(args, &mut out, &mut errors).and_then(|code| Ok(out.flush().map(|()| code)?));
    match code {
        // The reader of a pipe has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::Ok),
        other => other.context("cannot write the report"),
    }
}

/// The names of what the libraries at `paths` are able to do between them, sorted.
pub fn capabilities_of(paths: &[PathBuf]) -> anyhow::Result<Vec<&'static str>> {
    let options = open::Options { all_symbols: false };
    let mut names = std::collections::BTreeSet::new();
    for path in paths {
        let bytes =
            open::bytes(path, open::Access::Map).with_context(|| format!("reading {}", path.display()))?;
        let libraries = open::read(&display(path), &bytes, &options)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        names.extend(libraries.iter().flat_map(capabilities::find).map(|found| found.name));
    }
    Ok(names.into_iter().collect())
}

/// Everything that the command can say of `data`, as the table, as JSON and as what it needs of itself, for tests and
/// fuzzing of hostile files.
///
/// # Errors
/// Why it cannot be read.
pub fn every_form(name: &str, data: &[u8], demangle: bool) -> Result<Vec<u8>, String> {
    let libraries = open::read(name, data, &open::Options::default())?;
    let args = AnalyzeArgs {
        paths: Vec::new(),
        expect: Vec::new(),
        format: OutputFormat::Table,
        json: false,
        diff: None,
        needs: Vec::new(),
        demangle,
        top: 10,
        all_symbols: false,
        no_mmap: false,
    };
    let mut out = Vec::new();
    let written = json::write(&args, &libraries, &mut out)
        .and_then(|()| Ok(libraries.iter().try_for_each(|library| table::write(&args, library, &mut out))?))
        .and_then(|()| compare::needs(&args, &libraries, &libraries, &mut out));
    written.expect("a vector takes what is written");
    Ok(out)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
}

fn report(args: &AnalyzeArgs, out: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::Ok;
    let files = load(args, &args.paths, &mut code, errors)?;
    let libraries = parse(args, &files, &mut code, errors)?;
    let others = args.diff.iter().chain(&args.needs).cloned().collect::<Vec<_>>();
    let other_files = load(args, &others, &mut code, errors)?;
    let other = parse(args, &other_files, &mut code, errors)?;
    match () {
        () if !others.is_empty() && (libraries.is_empty() || other.is_empty()) => return Ok(code),
        () if args.diff.is_some() => {
            if !compare::diff(args, &libraries, &other, out)? {
                fail(&mut code, ExitCode::BadInput);
                let (from, to) = (&libraries[0], &other[0]);
                writeln!(
                    errors,
                    "error: {} is for {}, {} for {}: nothing to compare; give libraries for the same machine",
                    from.path, from.machine, to.path, to.machine
                )?;
            }
        }
        () if !args.needs.is_empty() => compare::needs(args, &libraries, &other, out)?,
        () => match args.output() {
            OutputFormat::Table => {
                libraries.iter().try_for_each(|library| table::write(args, library, out))?
            }
            OutputFormat::Json => json::write(args, &libraries, out)?,
            OutputFormat::Cfg => cfg::write(&libraries, out)?,
        },
    }
    let met = expect::check(&args.expect, &libraries, errors)?;
    Ok(if code == ExitCode::Ok && !met { ExitCode::CheckFailed } else { code })
}

fn load(
    args: &AnalyzeArgs,
    paths: &[PathBuf],
    code: &mut ExitCode,
    errors: &mut dyn Write,
) -> std::io::Result<Vec<(String, open::Bytes)>> {
    let access = if args.no_mmap { open::Access::Read } else { open::Access::Map };
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        match open::bytes(path, access) {
            Ok(bytes) => files.push((display(path), bytes)),
            Err(error) => {
                let found = error.kind() != std::io::ErrorKind::NotFound;
                fail(code, if found { ExitCode::BadInput } else { ExitCode::NotFound });
                writeln!(errors, "error: cannot read {}: {error}", path.display())?;
            }
        }
    }
    Ok(files)
}

fn parse<'d>(
    args: &AnalyzeArgs,
    files: &'d [(String, open::Bytes)],
    code: &mut ExitCode,
    errors: &mut dyn Write,
) -> std::io::Result<Vec<Library<'d>>> {
    let options = open::Options { all_symbols: args.all_symbols };
    let mut libraries = Vec::with_capacity(files.len());
    for (path, bytes) in files {
        match open::read(path, bytes, &options) {
            Ok(read) => libraries.extend(read),
            Err(error) => {
                fail(code, ExitCode::BadInput);
                writeln!(errors, "error: {path}: {error}")?;
            }
        }
    }
    Ok(libraries)
}

fn fail(code: &mut ExitCode, failure: ExitCode) {
    if *code == ExitCode::Ok {
        *code = failure;
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
