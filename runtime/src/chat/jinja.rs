//! The Jinja environment that chat templates expect, the one of Hugging Face's `apply_chat_template`.
//!
//! Blocks are trimmed, Python's string and dictionary methods work, `raise_exception` and `strftime_now` exist.
//! Templates come from files of strangers: steps are counted (`FUEL`), what they walk through ([`Budget`])
//! and what compiling takes ([`folding`]); nothing can be loaded or included, and every failure is an error that names the line. The library recurses where expressions and values nest, as deep as a
//! template is long and its steps allow, so it works on a thread with a stack for that ([`on_large_stack`]).

use super::budget::{self, Budget};
use super::folding;
use super::{AddGenerationPrompt, ChatContext, Message, strftime};
use crate::error::{Error as RuntimeError, Result};
use minijinja::machinery::{self, CodeGenerator, Instructions};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Steps (and 64-byte pieces of text) that one rendering may take: well under a second, at most 64 MB.
/// Conversations of thousands of messages stay below it.
const FUEL: u64 = 1_000_000;

/// Longest template; those in use have up to 20 KB. Nested expressions take [`STACK`] in proportion.
const MOST_BYTES: usize = 64 << 10;

/// Addresses, not memory: only what is used is there.
const STACK: usize = 1 << 30;

const NAME: &str = "tokenizer.chat_template";

/// Whether `source` compiles.
pub(super) fn check(source: &str, path: &Path) -> Result<()> {
    on_large_stack(source, path, || compile(source).map(drop).map_err(|e| failure(&e, path)))
}

pub(super) fn render(
    source: &str,
    path: &Path,
    messages: &[Message],
    prompt: AddGenerationPrompt,
    chat: &ChatContext,
) -> Result<String> {
    on_large_stack(source, path, || {
        let environment = environment(chat.now);
        let message = |m: &Message| context! { role => m.role.name(), content => m.content.as_str() };
        let variables = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt => prompt == AddGenerationPrompt::Yes,
            bos_token => chat.bos_token.as_str(),
            eos_token => chat.eos_token.as_str(),
            tools => (),
            documents => (),
        };
        let instructions = compile(source).map_err(|e| failure(&e, path))?;
        let (mut text, no_blocks) = (String::new(), BTreeMap::new());
        let mut out = machinery::make_string_output(&mut text);
        machinery::eval(&environment, &instructions, variables, &no_blocks, &mut out, AutoEscape::None)
            .map_err(|e| failure(&e, path))?;
        drop(out);
        Ok(text)
    })
}

/// The template's instructions, with operators that pay for what they walk through.
pub(super) fn compile(source: &str) -> std::result::Result<Instructions<'_>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let tree = machinery::parse(source, NAME, syntax.expect("the usual delimiters are valid"))?;
    folding::check(&tree, FUEL)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    Ok(budget::guarded(source, &generator.finish().0))
}

/// Runs `work`, which compiles `source`, on a thread of its own whose stack no such template can use up.
fn on_large_stack<T: Send>(source: &str, path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if source.len() > MOST_BYTES {
        let what = format!("{NAME} has {} bytes, at most {MOST_BYTES} are read", source.len());
        return Err(refused(path, what));
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("bitnet-template".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| {
            refused(path, format!("{NAME} cannot be read: no thread with a large stack: {error}"))
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn environment(now: SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    let raise = |message: String| -> std::result::Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    };
    let time = move |format: String| {
        strftime::format(&format, now).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
    };
    let budget = Budget::new(FUEL);
    budget.install(&mut environment);
    environment.add_function("raise_exception", budget.paid(Value::from_function(raise)));
    environment.add_function("strftime_now", budget.paid(Value::from_function(time)));
    environment
}

fn failure(error: &Error, path: &Path) -> RuntimeError {
    let line = error.line().map_or(String::new(), |line| format!(" in line {line}"));
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_string),
    };
    let what = format!("{NAME} fails{line}: {detail}");
    refused(path, what)
}

fn refused(path: &Path, what: String) -> RuntimeError {
    RuntimeError::unsupported(
        path,
        what,
        "use --chat raw, instruct or llama3-chat instead of the file's template",
    )
}
