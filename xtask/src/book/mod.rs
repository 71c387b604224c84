//! `book [--check] [--open]`: the pages as an mdBook in `target/book`.
//!
//! In: `docs/SUMMARY.md`, which lists the pages, `docs/book.toml`, a pinned mdbook. Out: HTML, and a failure where a link
//! of it leads nowhere. The pages are laid out anew under `target/book-source` (`lay_out`), since the book also has pages
//! from outside docs and links to files that are none. Deliberately absent: a server; the book opens as files.

mod html;
mod lay_out;

use crate::cargo_tool;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::path::Path;

/// The table of contents; its links are the pages of the book.
pub const SUMMARY: &str = "docs/SUMMARY.md";
/// Pages outside docs that must be in the book as well.
const TOP_PAGES: [&str; 4] = ["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"];

#[derive(clap::Args, Clone, Debug)]
pub struct BookArgs {
    /// Fail where the built book has a link that leads nowhere
    #[arg(long)]
    pub check: bool,
    /// Show the book in a browser
    #[arg(long)]
    pub open: bool,
}

/// Whether the book must have this file of the tree as a page.
pub fn is_page(path: &str) -> bool {
    path != SUMMARY && (TOP_PAGES.contains(&path) || path.starts_with("docs/") && path.ends_with(".md"))
}

pub fn run(ctx: &Ctx, args: &BookArgs) -> Result<ExitCode> {
    let source = ctx.target_dir()?.join("book-source");
    let book = ctx.target_dir()?.join("book");
    let pages = lay_out::lay_out(ctx.root()?, &source)?;
    let mdbook = cargo_tool::installed(ctx, cargo_tool::MDBOOK)?;
    build(ctx, &mdbook, &source, &book, args)?;
    let dead = html::dead_links(&book)?;
    for link in &dead {
        ctx.out.line(format!("{} {link}", ctx.out.mark(State::Fail)));
    }
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "book": book, "pages": pages, "dead_links": dead }))?;
    }
    if args.check && !dead.is_empty() {
        return fail(
            ExitCode::CheckFailed,
            format!("{} links of {} lead nowhere", dead.len(), book.display()),
        );
    }
    let index = book.join("index.html");
    ctx.out.line(format!("{} book: {pages} pages, {}", ctx.out.mark(State::Ok), index.display()));
    Ok(ExitCode::Ok)
}

fn build(ctx: &Ctx, mdbook: &Path, source: &Path, book: &Path, args: &BookArgs) -> Result<()> {
    if book.exists() {
        std::fs::remove_dir_all(book).with_context(|| format!("removing {}", book.display()))?;
    }
    let words: &[&str] =
        if args.open { &["build", "--open", "--dest-dir"] } else { &["build", "--dest-dir"] };
    let command = Command::new(mdbook).args(words.iter().copied()).args([book]).args([source]);
    let mut progress = ctx.out.progress("book");
    let log = ctx.log_file("book")?;
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?;
    let finished = finished.must_succeed(ExitCode::BadInput)?;
    // mdbook warns and goes on where a page is not what it seems: an unclosed tag, a picture that is not there.
    match finished.tail().lines().find(|line| line.trim_start().starts_with("WARN")) {
        Some(warning) if args.check => fail(ExitCode::CheckFailed, format!("mdbook: {}", warning.trim())),
        _ => Ok(()),
    }
}
