//! The one place that starts processes.
//!
//! In: a [`Command`]. Out: its output. [`read`] is for short commands (xshell), [`probe`] for short ones that
//! may be missing or hang, [`run`] for long ones (duct): the output goes to a log file, the tail and the first
//! compiler error come back on failure, a time limit and Ctrl-C end the whole process group.
//! Children see the environment of this process with [`Ctx::env`] laid over it.
//!
//! Deliberately absent: what the commands mean.

pub mod session;

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use duct::Handle;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A program, its arguments and what differs from this process.
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: Vec<(String, OsString)>,
    limit: Option<Duration>,
    patience: Duration,
}

/// Children have files to remove; on a busy machine that takes a while.
const PATIENCE: Duration = Duration::from_secs(10);

impl Command {
    pub fn new(program: impl Into<OsString>) -> Self {
        Command {
            program: program.into(),
            args: Vec::new(),
            dir: None,
            env: Vec::new(),
            limit: None,
            patience: PATIENCE,
        }
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Ends the command and its children after `limit`.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// How long a command that [`run`] started may take to end once it was asked to; then it is killed.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The command line, as a person would type it.
    pub fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args).map(|word| word.to_string_lossy());
        let quote = |word: std::borrow::Cow<str>| {
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$&;|<>*".contains(c)) {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.into_owned()
            }
        };
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// The variables of [`Ctx::env`], and over them those of the command: each name once, since of two values for
    /// one name duct takes the first.
    fn environment(&self, ctx: &Ctx) -> BTreeMap<String, OsString> {
        // A value that is not UTF-8 was read lossily: the child inherits the true one.
        let laid_over = ctx.env.iter().filter(|(_, value)| !value.contains('\u{fffd}'));
        laid_over
            .map(|(name, value)| (name.to_string(), OsString::from(value)))
            .chain(self.env.iter().cloned())
            .collect()
    }

    fn expression(&self, ctx: &Ctx) -> duct::Expression {
        self.expression_with_stdin(ctx).stdin_null()
    }

    /// An expression whose stdin is the caller's to set.
    fn expression_with_stdin(&self, ctx: &Ctx) -> duct::Expression {
        let mut expression = duct::cmd(&self.program, &self.args).unchecked().before_spawn(|command| {
            // A group of its own, so that a signal to the group reaches grandchildren (cargo's rustc).
            command.process_group(0);
            Ok(())
        });
        for (name, value) in self.environment(ctx) {
            expression = expression.env(name, value);
        }
        match &self.dir {
            Some(dir) => expression.dir(dir),
            None => expression,
        }
    }

    fn not_started(&self, error: &std::io::Error) -> Failure {
        let program = self.program.to_string_lossy();
        match error.kind() {
            ErrorKind::NotFound => Failure::new(
                ExitCode::Toolchain,
                format!("{program} was not found on PATH; `cargo xtask preflight` says how to install it"),
            ),
            _ => Failure::new(ExitCode::Toolchain, format!("{program} could not be started: {error}")),
        }
    }
}

/// Standard output of a short command that must succeed, without the final newline.
pub fn read(ctx: &Ctx, command: &Command) -> Result<String> {
    let shell = xshell::Shell::new().context("opening the current directory")?;
    if let Some(dir) = &command.dir {
        shell.change_dir(dir);
    }
    let mut cmd = shell.cmd(&command.program).args(&command.args).quiet().ignore_status();
    for (name, value) in command.environment(ctx) {
        cmd = cmd.env(name, value);
    }
    let output = cmd.output().map_err(|error| {
        Failure::new(ExitCode::Toolchain, format!("`{}` could not be started: {error}", command.line()))
    })?;
    check_interrupted()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail = stderr.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev();
        return fail(
            ExitCode::CheckFailed,
            format!(
                "`{}` failed ({}): {}",
                command.line(),
                output.status,
                tail.collect::<Vec<_>>().join("\n")
            ),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

/// What a short look at a program gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Output(String),
    Missing,
    Failed(String),
    TimedOut,
}

/// Runs a short command that may be missing, fail or hang; ends it after `limit`.
pub fn probe(ctx: &Ctx, command: &Command, limit: Duration) -> Probe {
    let handle = match command.expression(ctx).stdout_capture().stderr_capture().start() {
        Ok(handle) => handle,
        Err(error) if error.kind() == ErrorKind::NotFound => return Probe::Missing,
        Err(error) => return Probe::Failed(error.to_string()),
    };
    let group = Group::register(&handle.pids());
    match handle.wait_timeout(limit) {
        Ok(Some(output)) if output.status.success() => {
            Probe::Output(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
        }
        Ok(Some(output)) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Probe::Failed(stderr.lines().last().unwrap_or("no message").trim().to_string())
        }
        Ok(None) => {
            group.signal(libc::SIGKILL);
            Probe::TimedOut
        }
        Err(error) => Probe::Failed(error.to_string()),
    }
}

/// A long command that ran to its end.
#[derive(Debug)]
pub struct Finished {
    pub line: String,
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub log: PathBuf,
    pub seconds: f64,
    tail: VecDeque<String>,
    first_error: Vec<String>,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The first compiler error, otherwise the end of the output, and where the whole of it is.
    pub fn explain(&self) -> String {
        let status = self.code.map_or("ended by a signal".to_string(), |code| format!("exit status {code}"));
        let (what, lines): (_, Vec<&str>) = if self.first_error.is_empty() {
            ("the last lines", self.tail.iter().map(String::as_str).collect())
        } else {
            ("the first error", self.first_error.iter().map(String::as_str).collect())
        };
        format!(
            "`{}` failed ({status}); {what}:\n  {}\nthe whole output: {}",
            self.line,
            lines.join("\n  "),
            self.log.display()
        )
    }

    /// The end of the output, for judging why it failed.
    pub fn tail(&self) -> String {
        Vec::from_iter(self.tail.iter().map(String::as_str)).join("\n")
    }

    /// `self`, or a failure with `code` that explains.
    pub fn must_succeed(self, code: ExitCode) -> Result<Self> {
        if self.success() { Ok(self) } else { fail(code, self.explain()) }
    }
}

/// Where the standard output of a long command goes. Standard error always goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// To the log, line by line, with standard error.
    Log,
    /// Into [`Finished::stdout`].
    Capture,
}

/// Runs a long command: every line goes to `log` and to `watch`.
///
/// A non-zero status is not an error here (see [`Finished::must_succeed`]); a program that is missing, a time
/// limit that passed and Ctrl-C are.
pub fn run(
    ctx: &Ctx,
    command: &Command,
    stdout: Stdout,
    log: &Path,
    mut watch: impl FnMut(&str),
) -> Result<Finished> {
    check_interrupted()?;
    let start = Instant::now();
    let mut log_file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    writeln!(log_file, "$ {}", command.line()).with_context(|| format!("writing {}", log.display()))?;
    let captured = tempfile::tempfile().context("creating a temporary file")?;
    let mut expression = command.expression(ctx);
    if stdout == Stdout::Capture {
        expression = expression.stdout_file(captured.try_clone().context("cloning a file handle")?);
    }
    let reader = expression.stderr_to_stdout().reader().map_err(|error| command.not_started(&error))?;
    let group = Group::register(&reader.pids());
    let deadline = command.limit.map(|limit| start + limit);
    let done = AtomicBool::new(false);
    let mut lines = Lines::default();

    let (read_result, ended) = std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| group.guard(deadline, command.patience, &done));
        let result = read_lines(&reader, |line| {
            lines.add(line);
            watch(line);
            writeln!(log_file, "{line}")
        });
        done.store(true, Ordering::Release);
        (result, watchdog.join().unwrap_or(Ended::Interrupted))
    });
    let line = command.line();
    match ended {
        Ended::TimedOut => {
            let limit = command.limit.unwrap_or_default().as_secs();
            return fail(
                ExitCode::Timeout,
                format!("`{line}` ran past its limit of {limit} s; the output so far: {}", log.display()),
            );
        }
        Ended::Interrupted => return interrupted(),
        Ended::ByItself => {}
    }
    read_result.with_context(|| format!("copying the output of `{line}` to {}", log.display()))?;
    let output = reader.try_wait().context("waiting for a child")?;
    let code = output.and_then(|output| output.status.code());
    check_interrupted()?;
    let stdout = read_back(captured).context("reading the captured output")?;
    let seconds = start.elapsed().as_secs_f64();
    let Lines { tail, first_error, .. } = lines;
    Ok(Finished { line, code, stdout, log: log.into(), seconds, tail, first_error })
}

fn read_back(mut file: File) -> std::io::Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_lines(
    reader: &duct::ReaderHandle,
    mut each: impl FnMut(&str) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        // A progress bar redraws its line with carriage returns: the last drawing counts.
        each(text.trim_end_matches(['\r', '\n']).rsplit('\r').next().unwrap_or_default())?;
        bytes.clear();
    }
    Ok(())
}

/// The end of an output and the first compiler error in it.
#[derive(Default)]
struct Lines {
    tail: VecDeque<String>,
    first_error: Vec<String>,
    error_is_over: bool,
}

impl Lines {
    const TAIL: usize = 20;
    const ERROR: usize = 12;

    fn add(&mut self, line: &str) {
        if self.tail.len() == Self::TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_string());
        let started = !self.first_error.is_empty();
        self.error_is_over |= started && (line.trim().is_empty() || self.first_error.len() == Self::ERROR);
        if !self.error_is_over && (started || is_compiler_error(line)) {
            self.first_error.push(line.to_string());
        }
    }
}

/// Whether a line starts the error of rustc, cargo, gcc, clang, cmake, ninja or a linker.
fn is_compiler_error(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("error: ")
        || line.starts_with("error[")
        || line.starts_with("CMake Error")
        || line.starts_with("ninja: error")
        || line.contains(": error: ")
        || line.contains(": fatal error: ")
        || line.contains(": undefined reference to ")
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INTERRUPTS: AtomicU8 = AtomicU8::new(0);
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Makes Ctrl-C (and SIGTERM, SIGHUP) end the running children and then this process with
/// [`ExitCode::Interrupted`]; a second one does not wait.
pub fn install_interrupt_handler() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::Release);
        let again = INTERRUPTS.fetch_add(1, Ordering::AcqRel) > 0;
        for &group in groups().iter() {
            signal_group(group, if again { libc::SIGKILL } else { libc::SIGTERM });
        }
        if again {
            std::process::exit(ExitCode::Interrupted as i32);
        }
    })
    .context("installing the Ctrl-C handler")
}

/// An error after Ctrl-C; long loops call it.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Acquire) { interrupted() } else { Ok(()) }
}

fn interrupted<T>() -> Result<T> {
    fail(ExitCode::Interrupted, "interrupted")
}

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal_group(group: i32, signal: i32) {
    // SAFETY: kill takes plain integers and touches no memory; a group that is gone gives ESRCH.
    unsafe { libc::kill(-group, signal) };
}

enum Ended {
    ByItself,
    TimedOut,
    Interrupted,
}

/// The process group of a running child, known to the Ctrl-C handler until dropped.
struct Group {
    id: Option<i32>,
    /// It came after Ctrl-C, so the handler may have missed it.
    late: bool,
}

impl Group {
    fn register(pids: &[u32]) -> Self {
        let group = pids.first().and_then(|pid| i32::try_from(*pid).ok());
        let mut groups = groups();
        groups.extend(group);
        Group { id: group, late: INTERRUPTED.load(Ordering::Acquire) }
    }

    fn signal(&self, signal: i32) {
        if let Some(group) = self.id {
            signal_group(group, signal);
        }
    }

    /// Waits for `done`; asks the group to end at the deadline or after Ctrl-C, and after `patience` ends it.
    fn guard(&self, deadline: Option<Instant>, patience: Duration, done: &AtomicBool) -> Ended {
        let mut ended = Ended::ByItself;
        let mut asked: Option<Instant> = None;
        while !done.load(Ordering::Acquire) {
            match asked {
                Some(at) if at.elapsed() > patience => self.signal(libc::SIGKILL),
                Some(_) => {}
                None if INTERRUPTED.load(Ordering::Acquire) => ended = Ended::Interrupted,
                None if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    ended = Ended::TimedOut;
                }
                None => {}
            }
            if asked.is_none() && !matches!(ended, Ended::ByItself) {
                // After Ctrl-C the handler has asked already; a child takes a second time for a demand.
                if self.late || matches!(ended, Ended::TimedOut) {
                    self.signal(libc::SIGTERM);
                }
                asked = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ended
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.id {
            groups().remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    fn ctx() -> Ctx {
        Ctx::new(None, Env::from_pairs([("BITFORGE_TEST", "laid over")]), Reporter::for_tests())
    }

    fn sh(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[test]
    fn a_commands_own_variable_goes_before_that_of_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::var("PATH").unwrap();
        let env = Env::from_pairs([("BITFORGE_WORD", "process"), ("PATH", path.as_str())]);
        let ctx = Ctx::new(None, env, Reporter::for_tests());
        let command = Command::new("sh").args(["-c", "echo $BITFORGE_WORD"]).env("BITFORGE_WORD", "command");
        assert_eq!(read(&ctx, &command).unwrap(), "command");
        let finished = run(&ctx, &command, Stdout::Capture, &dir.path().join("log"), |_| {}).unwrap();
        assert_eq!(finished.stdout.trim(), "command");
    }

    #[test]
    fn short_commands_give_stdout_and_see_the_environment() {
        assert_eq!(read(&ctx(), &sh("echo $BITFORGE_TEST")).unwrap(), "laid over");
        assert_eq!(read(&ctx(), &sh("echo $X").env("X", "own")).unwrap(), "own");
        let error = read(&ctx(), &sh("echo no >&2; exit 3")).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::CheckFailed);
        assert!(error.to_string().contains("no"), "{error}");
    }

    #[test]
    fn probes_tell_missing_from_failed_from_slow() {
        let second = Duration::from_secs(1);
        assert_eq!(probe(&ctx(), &sh("echo 1.2"), second * 60), Probe::Output("1.2".into()));
        assert_eq!(probe(&ctx(), &Command::new("no-such-program-here"), second), Probe::Missing);
        assert_eq!(probe(&ctx(), &sh("echo bad >&2; exit 1"), second * 60), Probe::Failed("bad".into()));
        assert_eq!(probe(&ctx(), &sh("sleep 60"), Duration::from_millis(50)), Probe::TimedOut);
    }

    #[test]
    fn a_long_command_is_logged_watched_and_captured() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut seen = Vec::new();
        let finished = run(&ctx(), &sh("echo out; echo err >&2"), Stdout::Capture, &log, |line| {
            seen.push(line.to_string());
        })
        .unwrap();
        assert!(finished.success());
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(seen, ["err"]);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "$ sh -c 'echo out; echo err >&2'\nerr\n");
    }

    #[test]
    fn a_failure_shows_the_first_compiler_error_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script =
            "echo fine; echo 'a.cpp:3:1: error: no member'; echo '  3 | x'; echo; echo later; exit 2";
        let finished = run(&ctx(), &sh(script), Stdout::Log, &log, |_| {}).unwrap();
        let text = finished.explain().replace(&log.display().to_string(), "LOG");
        insta::assert_snapshot!(text, @r"
        `sh -c 'echo fine; echo '\''a.cpp:3:1: error: no member'\''; echo '\''  3 | x'\''; echo; echo later; exit 2'` failed (exit status 2); the first error:
          a.cpp:3:1: error: no member
            3 | x
        the whole output: LOG
        ");
        assert_eq!(code_of(&finished.must_succeed(ExitCode::Toolchain).unwrap_err()), ExitCode::Toolchain);
    }

    #[test]
    fn a_time_limit_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("grandchild");
        // The grandchild would write the marker after the limit.
        let script = format!("(sleep 2; touch {}) & wait", marker.display());
        let command = sh(&script).limit(Duration::from_millis(100));
        let error = run(&ctx(), &command, Stdout::Log, &dir.path().join("log"), |_| {}).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Timeout);
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!marker.exists());
    }

    #[test]
    fn one_that_does_not_end_when_asked_is_killed_when_patience_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let command = sh("trap '' TERM; while :; do sleep 1; done").limit(Duration::from_millis(50));
        let command = command.patience(Duration::from_millis(100));
        let error = run(&ctx(), &command, Stdout::Log, &dir.path().join("log"), |_| {}).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Timeout);
    }

    #[test]
    fn a_missing_program_names_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let command = Command::new("no-such-program-here");
        let error = run(&ctx(), &command, Stdout::Log, &dir.path().join("log"), |_| {}).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Toolchain);
        assert!(error.to_string().contains("cargo xtask preflight"), "{error}");
    }
}
