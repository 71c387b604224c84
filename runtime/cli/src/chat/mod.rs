//! `bitnet chat`: a conversation in the terminal.
//!
//! In: lines, of which those that start with `/` are commands. Out: answers on stdout as they are made, everything else on
//! stderr. On a terminal lines are edited; off it they are read as they come, one message each, and the first
//! failure ends the command. [`command`] knows the commands, [`input`] reads, [`session`] holds the conversation and asks the
//! engine, [`file`] keeps conversations in the web page's format, [`terminal`] is what a terminal needs besides.
//! Deliberately absent: tools, several conversations at once, colours off a terminal.

mod command;
mod file;
mod input;
mod session;
pub mod terminal;

use super::args::ChatCommandArgs;
use super::ctx::Ctx;
use super::interrupt::Waiting;
use super::run::sampling_params;
use super::{prompt, settings};
use bitnet_runtime::chat::Role;
use bitnet_runtime::generate::{FinishReason, load_tokenizer};
use bitnet_runtime::sampling::rng;
use bitnet_runtime::{Error, Result};
use command::{Command, Metrics};
use input::{Input, Line};
use session::{Answered, Session};

pub fn run(ctx: &mut Ctx, args: &ChatCommandArgs) -> Result<()> {
    let params = sampling_params(&args.sampling);
    params.validate()?;
    let mut input = Input::open(ctx, args)?;
    let (tokenizer, engine) = settings::load(ctx, &args.engine, args.ctx_size, |gguf| {
        let (tokenizer, warnings) = load_tokenizer(gguf)?;
        ctx.fall_back(&warnings)?;
        Ok(tokenizer)
    })?;
    let template = prompt::template(args.chat, &tokenizer, engine.gguf().path())?;
    let mut session = Session::new(engine, tokenizer, template, params, args.max_tokens);
    session.fixed_seed = args.sampling.seed.is_some();
    session.system = args.system.clone().unwrap_or_default();
    session.stop = args.stop.iter().map(|text| prompt::unescape(text)).collect();
    if let Some(path) = &args.load {
        load(ctx, &mut session, path)?;
    }
    let mut chat = Chat { ctx, session, metrics: args.metrics, last: None, leaving: false };
    chat.greet(&input);
    chat.converse(&mut input)
}

struct Chat<'a> {
    ctx: &'a Ctx,
    session: Session,
    /// Whether the numbers are shown after every answer.
    metrics: bool,
    last: Option<Answered>,
    /// Ctrl-C was the last that happened: once more leaves.
    leaving: bool,
}

enum Next {
    GoOn,
    Leave,
}

impl Chat<'_> {
    fn greet(&self, input: &Input) {
        if input.is_terminal() {
            let session = &self.session;
            self.ctx.note(format_args!(
                "{} on {}, {} positions. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.",
                session.model_name(),
                session.engine.selection().selected,
                session.engine.context()
            ));
        }
    }

    fn converse(&mut self, input: &mut Input) -> Result<()> {
        loop {
            let line = {
                // Nothing is computed while a line is waited for: a signal then ends the process at once.
                let _waiting = Waiting::start(&self.ctx.interrupt);
                input.read()?
            };
            let leaving = std::mem::take(&mut self.leaving);
            let next = match line {
                Line::End => Ok(Next::Leave),
                Line::Interrupted if leaving || !input.is_terminal() => return Err(Error::Interrupted),
                Line::Interrupted => {
                    self.leaving = true;
                    self.ctx.note("Ctrl-C once more leaves");
                    continue;
                }
                Line::Text(text) => self.act(&text, input),
            };
            match next {
                Ok(Next::GoOn) => {}
                Ok(Next::Leave) => return Ok(()),
                // Nothing can be shown any more.
                Err(error @ Error::Io { .. }) if error.to_string().starts_with(super::ctx::STDOUT) => {
                    return Err(error);
                }
                Err(error) if input.is_terminal() => self.ctx.note(format_args!("error: {error}")),
                Err(error) => return Err(error),
            }
        }
    }

    fn act(&mut self, text: &str, input: &mut Input) -> Result<Next> {
        match command::parse(text)? {
            None if text.trim().is_empty() => {}
            None => {
                let text = text.trim();
                // A slash that starts a message is written twice.
                let text = text.strip_prefix('/').unwrap_or(text);
                self.session.push(Role::User, text);
                self.answer(input)?;
            }
            Some(Command::Quit) => return Ok(Next::Leave),
            Some(Command::Help) => self.ctx.note(command::help()),
            Some(Command::Clear) => {
                self.session.clear();
                self.last = None;
                self.ctx.note("a new conversation");
            }
            Some(Command::System(None)) => self.ctx.note(match self.session.system.as_str() {
                "" => "no system message; /system TEXT sets one",
                text => text,
            }),
            Some(Command::System(Some(text))) => {
                self.session.system = text;
                self.ctx.note("the system message holds from the next answer on");
            }
            Some(Command::Save(path)) => {
                file::save(&self.session, &path)?;
                self.ctx.note(format_args!(
                    "saved {} messages to {}",
                    self.session.messages.len(),
                    path.display()
                ));
            }
            Some(Command::Load(path)) => {
                load(self.ctx, &mut self.session, &path)?;
                self.last = None;
            }
            Some(Command::Metrics(Metrics::Show)) => self.show_metrics(),
            Some(Command::Metrics(Metrics::Always(always))) => {
                self.metrics = always;
                self.ctx.note(if always { "numbers after every answer" } else { "no numbers after answers" });
            }
            Some(Command::Regenerate) => {
                self.session.drop_answer()?;
                if !self.session.fixed_seed {
                    self.session.params.seed = rng::random_seed();
                }
                self.answer(input)?;
            }
            Some(Command::Edit(new)) => self.edit(new, input)?,
        }
        Ok(Next::GoOn)
    }

    /// Takes the last question back and asks `new`, or what is made of it in the editor.
    fn edit(&mut self, new: Option<String>, input: &mut Input) -> Result<()> {
        let old = self.session.last_question()?.to_owned();
        let new = match new {
            Some(text) => text,
            None if !input.is_terminal() => {
                return Err(Error::usage("/edit without a text", "off a terminal give one: /edit TEXT"));
            }
            None => {
                let _waiting = Waiting::start(&self.ctx.interrupt);
                match input.edit(&old)? {
                    Line::Text(text) => text,
                    Line::End | Line::Interrupted => {
                        self.ctx.note("nothing was changed");
                        return Ok(());
                    }
                }
            }
        };
        if new.trim().is_empty() {
            self.ctx.note("nothing was changed");
            return Ok(());
        }
        self.session.drop_question();
        self.session.push(Role::User, new.trim());
        self.answer(input)
    }

    /// Answers the last question, showing words as they come. A question that cannot be answered is taken back.
    fn answer(&mut self, input: &Input) -> Result<()> {
        // The flag is as waiting for the line left it: a Ctrl-C since then is meant for this answer.
        let terminal = input.is_terminal();
        let (ctx, mut shown) = (self.ctx, String::new());
        let answered = self.session.answer(
            &mut |dropped| {
                ctx.note(format_args!(
                    "(the context is full: the oldest {dropped} messages are no longer seen)"
                ))
            },
            &mut |piece| {
                // An answer starts where its first word does.
                let piece = if shown.is_empty() { piece.trim_start() } else { piece };
                shown.push_str(piece);
                ctx.print(&if terminal { terminal::harmless(piece) } else { piece.into() })
            },
        );
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) => {
                if !shown.is_empty() {
                    ctx.print("\n")?;
                }
                self.session.drop_unanswered();
                return Err(error);
            }
        };
        if !shown.ends_with('\n') {
            ctx.print("\n")?;
        }
        match &answered.finish {
            FinishReason::Interrupted => ctx.note("(stopped; Ctrl-C once more leaves)"),
            FinishReason::MaxTokens => {
                ctx.note(format_args!("(ended at {} tokens; --max-tokens allows more)", answered.tokens))
            }
            _ => {}
        }
        if answered.shifted {
            ctx.note("(the context was full: the oldest half was dropped along the way)");
        }
        let interrupted = answered.finish == FinishReason::Interrupted;
        self.leaving = interrupted;
        self.last = Some(answered);
        if self.metrics {
            self.show_metrics();
        }
        // Off a terminal nobody could say what comes next.
        if interrupted && !terminal { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn show_metrics(&self) {
        let session = &self.session;
        if let Some(last) = &self.last {
            self.ctx.note(last.numbers());
        }
        self.ctx.note(format_args!(
            "context: {} of {} positions, {} messages; {} threads; seed {}",
            session.engine.position(),
            session.engine.context(),
            session.messages.len(),
            session.engine.threads(),
            session.params.seed
        ));
        self.ctx.note(session.engine.selection());
    }
}

fn load(ctx: &Ctx, session: &mut Session, path: &std::path::Path) -> Result<()> {
    let conversation = file::load(path)?;
    ctx.note(format_args!("loaded {} messages from {}", conversation.messages.len(), path.display()));
    session.clear();
    session.id = conversation.id;
    session.system = conversation.system;
    session.messages = conversation.messages;
    Ok(())
}
