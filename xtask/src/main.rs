//! Temporary entry point of this branch: `analyze-library` only.
mod symbols;

#[derive(clap::Parser)]
enum Task {
    AnalyzeLibrary(symbols::AnalyzeArgs),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let Task::AnalyzeLibrary(args) = clap::Parser::parse();
    Ok(symbols::run(&args, &mut std::io::stdout().lock())?.into())
}
