//! A long-lived child that is talked to in lines: a request on its stdin, an answer on its stdout.
//!
//! In: a [`Command`]. Out: lines. Its stderr goes to a log file. A child that dies, stays silent for too long or
//! is interrupted is an error that names the log. Dropping a [`Session`] closes the child's stdin, and ends its
//! process group where that does not end it. Deliberately absent: what the lines mean.

use super::{Command, Group, Handle, check_interrupted};
use crate::ctx::Ctx;
use crate::exit::fail;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub struct Session {
    line: String,
    log: PathBuf,
    stdin: Option<PipeWriter>,
    lines: Receiver<std::io::Result<String>>,
    handle: Handle,
    group: Group,
}

impl Session {
    /// Starts `command`; what it writes to stderr goes to `log`.
    pub fn start(ctx: &Ctx, command: &Command, log: &Path) -> Result<Self> {
        check_interrupted()?;
        let mut file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        writeln!(file, "$ {}", command.line()).with_context(|| format!("writing {}", log.display()))?;
        let (child_in, stdin) = std::io::pipe().context("creating a pipe")?;
        let (stdout, child_out) = std::io::pipe().context("creating a pipe")?;
        let expression =
            command.expression_with_stdin(ctx).stdin_file(child_in).stdout_file(child_out).stderr_file(file);
        let handle = expression.start().map_err(|error| command.not_started(&error))?;
        // The expression holds the child's ends of the pipes: they must close here for the child's end to show.
        drop(expression);
        let group = Group::register(&handle.pids());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Session { line: command.line(), log: log.into(), stdin: Some(stdin), lines, handle, group })
    }

    /// Sends one line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let sent = match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{line}").and_then(|()| stdin.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        if sent.is_err() { self.ended() } else { Ok(()) }
    }

    /// The next line, within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            check_interrupted()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return line.with_context(|| format!("reading the answer of `{}`", self.line)),
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return fail(
                        ExitCode::Timeout,
                        format!(
                            "`{}` gave no answer within {} s; its messages: {}",
                            self.line,
                            limit.as_secs(),
                            self.log.display()
                        ),
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The error of a child that is gone: its own exit code where it is of the table, and its last lines.
    fn ended<T>(&mut self) -> Result<T> {
        check_interrupted()?;
        self.stdin = None;
        let output = self.handle.wait_timeout(Duration::from_secs(5)).context("waiting for a child")?;
        let code = output.and_then(|output| output.status.code());
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().skip(1).collect();
        let tail = tail[tail.len().saturating_sub(8)..].join("\n  ");
        let known = ExitCode::ALL.into_iter().find(|known| Some(*known as i32) == code);
        let status = code.map_or("a signal".into(), |code| format!("exit status {code}"));
        let code = known.filter(|code| *code != ExitCode::Ok).unwrap_or(ExitCode::Internal);
        fail(code, format!("`{}` ended with {status}; its last lines:\n  {tail}", self.line))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin = None;
        if !matches!(self.handle.wait_timeout(Duration::from_secs(2)), Ok(Some(_))) {
            self.group.signal(libc::SIGKILL);
            let _ = self.handle.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{code_of, message_of};
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    fn start(script: &str) -> (Session, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::new(None, Env::from_process(), Reporter::for_tests());
        let command = Command::new("sh").args(["-c", script]);
        (Session::start(&ctx, &command, &dir.path().join("log")).unwrap(), dir)
    }

    #[test]
    fn lines_go_both_ways() {
        let (mut session, _dir) = start("while read line; do echo \"got $line\"; done");
        for word in ["one", "two"] {
            session.send(word).unwrap();
            assert_eq!(session.receive(Duration::from_secs(60)).unwrap(), format!("got {word}"));
        }
    }

    #[test]
    fn a_child_that_dies_is_explained() {
        let (mut session, _dir) = start("echo no such tensor >&2; exit 3");
        let error = session.receive(Duration::from_secs(60)).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::BadInput);
        assert!(message_of(&error).contains("no such tensor"), "{error:#}");
        assert!(session.send("late").is_err());
    }

    #[test]
    fn silence_has_a_limit() {
        let (mut session, _dir) = start("sleep 60");
        let error = session.receive(Duration::from_millis(50)).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Timeout);
        session.group.signal(libc::SIGKILL);
    }
}
