//! A program on a pseudo-terminal: what a person would type goes in, what they would see comes out.
//!
//! The screen is that of an emulated xterm. A wait ends when what is waited for is there; one that never ends fails the
//! test with everything that was seen.

use crate::support::root;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing here takes as long, on a slow machine neither.
const FOREVER: Duration = Duration::from_secs(120);

pub struct Terminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    bytes: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// All that was written, and how far it was looked at.
    seen: String,
    rest: Vec<u8>,
    at: usize,
}

fn size(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn some(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).expect("not zero")
}

impl Terminal {
    /// Starts `bitnet` with these arguments and variables in a window of 40 rows.
    pub fn start(args: &[&str], env: &[(&str, &str)], columns: u16) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let window = size(40, columns);
        // SAFETY: both integers and the window size live through the call; a null name and null settings are allowed.
        let opened = unsafe {
            libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &window)
        };
        assert_eq!(opened, 0, "a pseudo-terminal opens");
        // SAFETY: `openpty` returned two open descriptors that nothing else owns.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let side = || slave.try_clone().expect("a descriptor is free");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
        command.args(args).current_dir(root()).env_clear().env("TERM", "xterm").envs(env.iter().copied());
        command.stdin(side()).stdout(side()).stderr(side());
        // SAFETY: between fork and exec only two system calls are made, which allocate nothing.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the binary starts");
        let (sender, bytes) = channel();
        let mut reader = master.try_clone().expect("a descriptor is free");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(some(40), some(columns), 1000);
        Terminal { child, master, slave, bytes, screen, seen: String::new(), rest: Vec::new(), at: 0 }
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Sends one byte after the other, as a slow line would.
    pub fn send_slowly(&mut self, keys: &str) {
        for byte in keys.as_bytes() {
            self.master.write_all(&[*byte]).expect("the terminal takes keys");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `text` is written after what was waited for before; returns what came before it.
    pub fn wait(&mut self, text: &str) -> String {
        let deadline = Instant::now() + FOREVER;
        loop {
            if let Some(found) = self.seen[self.at..].find(text) {
                let before = self.seen[self.at..self.at + found].to_owned();
                self.at += found + text.len();
                return before;
            }
            self.take(deadline, text);
        }
    }

    /// From here on only what is written next is waited for.
    pub fn forget(&mut self) {
        self.at = self.seen.len();
    }

    /// Waits until the screen fulfils `holds`.
    pub fn wait_screen(&mut self, what: &str, holds: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + FOREVER;
        while !holds(self.screen.screen()) {
            self.take(deadline, what);
        }
    }

    fn take(&mut self, deadline: Instant, what: &str) {
        match self.bytes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                self.screen.process(&bytes);
                self.rest.extend(bytes);
                let whole = match std::str::from_utf8(&self.rest) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let text: Vec<u8> = self.rest.drain(..whole).collect();
                self.seen.push_str(&String::from_utf8(text).expect("it was checked"));
            }
            Err(_) => panic!(
                "waited for {what:?}; written since: {:?}\nscreen:\n{}",
                &self.seen[self.at..],
                self.text()
            ),
        }
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.screen().contents()
    }

    pub fn resize(&mut self, columns: u16) {
        self.screen.set_size(some(40), some(columns));
        let window = size(40, columns);
        // SAFETY: the descriptor is open, and the window size lives through the call.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &window) };
        assert_eq!(set, 0, "the window takes a size");
    }

    pub fn signal(&self, signal: i32) {
        super::support::signal(&self.child, signal);
    }

    /// Whether lines are edited by the terminal itself, as a shell expects it.
    pub fn is_cooked(&self) -> bool {
        let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `tcgetattr` writes a whole termios where it returns 0, which is asserted before it is read.
        let settings = unsafe {
            assert_eq!(libc::tcgetattr(self.slave.as_raw_fd(), settings.as_mut_ptr()), 0);
            settings.assume_init()
        };
        let cooked = libc::ICANON | libc::ECHO | libc::ISIG;
        settings.c_lflag & cooked == cooked
    }

    /// Waits until [`Self::is_cooked`]: from then on Ctrl-C is a signal, before it is a key that is typed ahead.
    pub fn wait_cooked(&self) {
        let deadline = Instant::now() + FOREVER;
        while !self.is_cooked() {
            assert!(Instant::now() < deadline, "the editor kept the terminal");
            std::thread::yield_now();
        }
    }

    /// The exit code, once the program ended by itself; the terminal must be as it was.
    pub fn end(&mut self) -> i32 {
        let deadline = Instant::now() + FOREVER;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(self.is_cooked(), "the terminal is left in raw mode");
                return status.code().expect("not ended by a signal");
            }
            assert!(Instant::now() < deadline, "it does not end; screen:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    /// A failed test leaves no program behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
