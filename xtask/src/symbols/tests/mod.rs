//! Tests against the libraries in fixtures/elf/bin: goldens, other readers, capabilities, hostile input.

mod abilities;
mod command;
mod goldens;
mod hostile;
mod readers;
mod schema;

use super::{AnalyzeArgs, model::Library, open};
use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: AnalyzeArgs,
}

/// Parsed arguments; paths that start with `bin/` are samples.
fn args(words: &[&str]) -> AnalyzeArgs {
    let place = |word: &&str| match word.strip_prefix("bin/") {
        Some(name) => sample(name).display().to_string(),
        None => word.to_string(),
    };
    let words = ["analyze-library".to_owned()].into_iter().chain(words.iter().map(place));
    <Cli as clap::Parser>::try_parse_from(words).unwrap().args
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/elf")
}

fn sample(name: &str) -> PathBuf {
    fixtures().join("bin").join(name)
}

/// Names and bytes of all samples, sorted by name.
fn samples() -> Vec<(String, Vec<u8>)> {
    let mut samples: Vec<_> = std::fs::read_dir(fixtures().join("bin"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    samples.sort();
    assert!(samples.len() > 30);
    samples
}

fn read<'d>(name: &str, data: &'d [u8]) -> Result<Vec<Library<'d>>, String> {
    open::read(name, data, &open::Options::default())
}

/// What a command writes to standard output and standard error, paths of samples cut to their names.
fn report(words: &[&str]) -> (ExitCode, String, String) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = super::report(&args(words), &mut out, &mut errors).unwrap();
    let bin = format!("{}/", fixtures().join("bin").display());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&bin, "");
    (code, text(out), text(errors))
}
