//! Ending early: Ctrl-C, and a reader that goes away.

use crate::support::*;
use std::io::Read;
use std::process::Stdio;

/// More tokens than any test waits for.
const ENDLESS: [&str; 13] = [
    "run",
    "--model",
    MODEL,
    "--prompt",
    "Hello",
    "--max-tokens",
    "100000000",
    "--context-shift",
    "--ctx-size",
    "64",
    "--temperature",
    "2",
    "--ignore-eos",
];

#[test]
fn an_interrupt_ends_cleanly_with_the_text_so_far() {
    let mut child =
        bitnet(&ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut first = [0u8; 1];
    child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("text is streamed");
    signal(&child, libc::SIGINT);
    let ran = finish(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("(interrupted)") && ran.stdout.ends_with('\n'), "{}", ran.stderr);
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let mut child =
        bitnet(&ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let ran = finish(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("error:"), "{}", ran.stderr);
}
