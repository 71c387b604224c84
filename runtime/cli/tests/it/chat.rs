//! `bitnet chat` on a pseudo-terminal and off it, with the trained fixture.

use crate::pty::Terminal;
use crate::support::*;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const TRAINED: &str = "fixtures/trained/kjv-b158.gguf";
/// Few tokens, the same every time.
const SHORT: [&str; 6] = ["chat", "-m", TRAINED, "--temperature", "0", "-n12"];
/// More tokens than any test waits for.
const ENDLESS: [&str; 6] = ["chat", "-m", TRAINED, "--temperature", "0", "-n100000000"];
/// What the editor writes when it starts to take a line, and when it has one (bracketed paste on and off).
const READY: &str = "\x1b[?2004h";
const TAKEN: &str = "\x1b[?2004l";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A chat whose history is below `home`, at its first prompt.
fn chat(args: &[&str], home: &Path) -> Terminal {
    let home = home.to_str().expect("UTF-8");
    let mut terminal = Terminal::start(args, &[("XDG_STATE_HOME", home), ("HOME", home)], 100);
    terminal.wait("/help lists the commands");
    terminal.wait(READY);
    terminal
}

/// Sends a line; returns what is written until the next one can be typed.
fn ask(terminal: &mut Terminal, line: &str) -> String {
    terminal.send(line);
    terminal.send("\r");
    terminal.wait(TAKEN);
    terminal.wait(READY).replace("\r\n", "\n").trim_start_matches('\n').to_owned()
}

fn saved(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("it was saved")).expect("JSON")
}

/// Role and text of every message of a saved conversation.
fn messages(file: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let messages = file["conversations"][0]["messages"].as_array().expect("messages");
    messages.iter().map(|message| (text(&message["role"]), text(&message["text"]))).collect()
}

fn questions(file: &Value) -> Vec<String> {
    messages(file).into_iter().filter(|(role, _)| role == "user").map(|(_, text)| text).collect()
}

#[test]
fn every_command_does_what_help_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("talk.json");
    let path = file.to_str().expect("UTF-8");
    let mut terminal = chat(&SHORT, dir.path());
    let help = ask(&mut terminal, "/help");
    for name in ["/help", "/clear", "/system", "/save", "/load", "/metrics", "/regen", "/edit", "/quit"] {
        assert!(help.contains(name), "{help}");
    }
    assert!(ask(&mut terminal, "/regen").contains("nothing was asked yet"));
    let first = ask(&mut terminal, "In the beginning");
    assert!(first.contains("(ended at 12 tokens; --max-tokens allows more)"), "{first}");
    assert_eq!(ask(&mut terminal, "/regen"), first, "temperature 0");

    let metrics = ask(&mut terminal, "/metrics");
    assert!(metrics.contains("tokens/s; answer: 12 tokens, "), "{metrics}");
    assert!(
        metrics.contains("of 512 positions, 2 messages;") && metrics.contains("requested=auto compiled=["),
        "{metrics}"
    );
    // Only the token that has to be is evaluated again.
    let prompt = metrics.split("prompt: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    let reused = metrics.split("tokens, ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    assert_eq!(number(reused), number(prompt) - 1, "{metrics}");
    assert!(ask(&mut terminal, "/metrics on").contains("after every answer"));
    assert!(ask(&mut terminal, "And then").contains("of 512 positions, 4 messages;"));
    ask(&mut terminal, "/metrics off");

    assert!(ask(&mut terminal, "/system").contains("no system message"));
    ask(&mut terminal, "/system Speak of the sea.");
    assert!(ask(&mut terminal, "/system").contains("Speak of the sea."));
    assert!(ask(&mut terminal, &format!("/save {path}")).contains("saved 4 messages"));
    let file = saved(&file);
    assert_eq!(file["format"], "bitforge-conversations-1");
    assert_eq!(file["conversations"][0]["system"], "Speak of the sea.");
    assert_eq!(questions(&file), ["In the beginning", "And then"]);
    assert!(first.starts_with(&messages(&file)[1].1), "{first}");

    assert!(ask(&mut terminal, "/clear").contains("a new conversation"));
    assert!(ask(&mut terminal, "/edit").contains("nothing was asked yet"));
    assert!(ask(&mut terminal, &format!("/load {path}")).contains("loaded 4 messages"));
    ask(&mut terminal, "/system none");
    ask(&mut terminal, "/edit Then said he");
    // The editor starts with the last question.
    terminal.send("/edit\r");
    terminal.wait("Then said he");
    terminal.send(" unto them\r");
    terminal.wait("(ended at 12 tokens");
    terminal.wait(READY);
    ask(&mut terminal, &format!("/save {path}"));
    let file = saved(Path::new(path));
    assert_eq!(questions(&file), ["In the beginning", "Then said he unto them"]);
    assert_eq!(file["conversations"][0]["system"], "");

    assert!(ask(&mut terminal, "/nonsense").contains("/nonsense is no command; write /help"));
    assert!(ask(&mut terminal, "/load nowhere.json").contains("nowhere.json: No such file"));
    ask(&mut terminal, "//help me");
    ask(&mut terminal, &format!("/save {path}"));
    assert_eq!(questions(&saved(Path::new(path)))[2], "/help me");
    terminal.send("/quit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_c_stops_an_answer_and_twice_leaves() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut terminal = chat(&ENDLESS, dir.path());
    // At the prompt: a line is dropped, the chat stays.
    terminal.send("half a line");
    terminal.wait("half a line");
    terminal.send(CTRL_C);
    terminal.wait("Ctrl-C once more leaves");
    terminal.wait(READY);
    // In an answer.
    terminal.send("In the beginning\r");
    terminal.wait("\r\n");
    terminal.wait(" ");
    terminal.send(CTRL_C);
    terminal.wait("(stopped; Ctrl-C once more leaves)");
    terminal.wait(READY);
    // The chat goes on where it was: both turns are there.
    assert!(ask(&mut terminal, "/metrics").contains("2 messages"));
    terminal.send(CTRL_C);
    terminal.wait("Ctrl-C once more leaves");
    terminal.wait(READY);
    terminal.send(CTRL_C);
    assert_eq!(terminal.end(), 130);

    let mut terminal = chat(&ENDLESS, dir.path());
    terminal.send("In the beginning\r");
    terminal.wait("\r\n");
    terminal.wait(" ");
    terminal.send(CTRL_C);
    terminal.wait("(stopped");
    terminal.wait(READY);
    terminal.send(CTRL_C);
    assert_eq!(terminal.end(), 130);

    let mut terminal = chat(&ENDLESS, dir.path());
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_c_at_any_moment_leaves_a_chat_that_works() {
    let dir = tempfile::tempdir().expect("a folder");
    let question = "and they went up and found the people in the field ".repeat(6);
    let mut terminal = chat(&ENDLESS, dir.path());
    for milliseconds in [0, 1, 2, 4, 7, 12, 20, 33, 60, 110, 200] {
        // Before and within the prompt's evaluation, and in the answer. (A key before that is typed ahead.)
        terminal.send(&format!("{question}\r"));
        terminal.wait(TAKEN);
        terminal.wait_cooked();
        std::thread::sleep(Duration::from_millis(milliseconds));
        terminal.send(CTRL_C);
        terminal.wait("Ctrl-C once more leaves");
        terminal.wait(READY);
        ask(&mut terminal, "/clear");
    }
    assert!(ask(&mut terminal, "/metrics").contains("0 messages"));
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_signal_at_the_prompt_ends_it_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().expect("a folder");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut terminal = chat(&ENDLESS, dir.path());
        terminal.send("half a line");
        terminal.wait("half a line");
        assert!(!terminal.is_cooked(), "the editor has the terminal");
        terminal.signal(signal);
        assert_eq!(terminal.end(), 130);
    }
}

#[test]
fn wide_characters_are_edited_as_they_are_seen() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("talk.json");
    let mut terminal = chat(&SHORT, dir.path());
    // Bytes of a character may come apart.
    terminal.send_slowly("日本語");
    terminal.wait_screen("three wide characters", |screen| screen.cursor_position().1 == 2 + 6);
    assert!(terminal.text().contains("> 日本語"), "{}", terminal.text());
    terminal.send("🦉é\u{7f}\u{7f}");
    terminal.wait_screen("two of them deleted", |screen| {
        screen.cursor_position().1 == 2 + 6 && screen.contents().trim_end().ends_with("> 日本語")
    });
    // Two to the left, one character between: the cursor moves by characters, not by bytes or columns.
    terminal.send("\x1b[D\x1b[Dה🜁");
    terminal.send("\x1b[F e\u{301}!\r");
    terminal.wait("(ended at 12 tokens");
    terminal.wait(READY);
    ask(&mut terminal, &format!("/save {}", file.display()));
    assert_eq!(questions(&saved(&file)), ["日ה🜁本語 e\u{301}!"]);
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_line_survives_a_window_that_changes() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("talk.json");
    let line = "日本 ".repeat(5) + &"one two three four five six seven ".repeat(3) + "end";
    let mut terminal = chat(&SHORT, dir.path());
    terminal.send(&line);
    terminal.wait_screen("the whole line", |screen| screen.contents().contains("seven end"));
    for columns in [47, 30, 120] {
        terminal.forget();
        terminal.resize(columns);
        // The editor is told, and wraps the line anew, whatever the width.
        terminal.wait("seven end");
        let joined = move |screen: &vt100::Screen| screen.rows(0, columns).collect::<Vec<_>>().concat();
        let end = |text: &str| {
            text.chars().filter(|c| !c.is_whitespace()).collect::<String>().ends_with("sevenend")
        };
        terminal.send(" x\u{7f}\u{7f}");
        terminal.wait_screen(&format!("the line at {columns} columns"), |screen| {
            end(&joined(screen)) && usize::from(screen.cursor_position().1) < usize::from(columns)
        });
    }
    terminal.send("\r");
    terminal.wait("(ended at 12 tokens");
    terminal.wait(READY);
    // And in the middle of an answer.
    terminal.send("and\r");
    terminal.resize(60);
    terminal.wait("(ended at 12 tokens");
    terminal.wait(READY);
    ask(&mut terminal, &format!("/save {}", file.display()));
    assert_eq!(questions(&saved(&file)), [line.as_str(), "and"]);
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_message_may_have_many_lines() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("talk.json");
    let mut terminal = chat(&SHORT, dir.path());
    for (keys, ends) in [
        ("one\\\rtwo\r", "a backslash"),
        ("\"\"\"three\rfour\r\"\"\"\r", "a block"),
        ("\x1b[200~five\nsix\x1b[201~\r", "a paste"),
    ] {
        terminal.send(keys);
        terminal.wait("(ended at 12 tokens");
        terminal.wait(READY);
        assert!(terminal.text().contains("> "), "{ends}");
    }
    ask(&mut terminal, &format!("/save {}", file.display()));
    assert_eq!(questions(&saved(&file)), ["one\ntwo", "three\nfour", "five\nsix"]);
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_history_lasts_and_commands_complete() {
    let dir = tempfile::tempdir().expect("a folder");
    let kept = dir.path().join("bitforge/chat-history");
    let mut terminal = chat(&[&SHORT[..], &["--no-history"]].concat(), dir.path());
    ask(&mut terminal, "a secret");
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
    assert!(!kept.exists());

    let mut terminal = chat(&SHORT, dir.path());
    ask(&mut terminal, "By the waters of Babylon");
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
    let mode = std::fs::metadata(&kept).expect("it is kept").permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read what was typed");

    let mut terminal = chat(&SHORT, dir.path());
    terminal.send("\x1b[A");
    terminal.wait("By the waters of Babylon");
    terminal.send("\x15/met\t");
    terminal.wait("/metrics ");
    terminal.send("\x15/load fixtures/tra\t");
    terminal.wait("fixtures/trained/");
    terminal.send("\x15/\t\t");
    terminal.wait("/regen");
    terminal.send(CTRL_C);
    terminal.wait(READY);
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_full_context_is_told_and_the_chat_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut terminal = chat(&[&SHORT[..], &["--ctx-size", "64"]].concat(), dir.path());
    let mut told = String::new();
    for _ in 0..4 {
        told += &ask(&mut terminal, "and the people went up to the city");
    }
    assert!(told.contains("(the context is full: the oldest 2 messages are no longer seen)"), "{told}");
    let long = "and the people of the land went up ".repeat(20);
    let refused = ask(&mut terminal, &long);
    assert!(
        refused.contains("and the context 64; ask in fewer words, or give a larger --ctx-size"),
        "{refused}"
    );
    assert!(
        ask(&mut terminal, "/metrics").contains("of 64 positions, 8 messages"),
        "the question was taken back"
    );
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);

    let args = ["chat", "-m", TRAINED, "--temperature", "0", "-n200", "--ctx-size", "64"];
    let mut terminal = chat(&args, dir.path());
    let answer = ask(&mut terminal, "In the beginning");
    assert!(answer.contains("(the context was full: the oldest half was dropped along the way)"), "{answer}");
    assert!(ask(&mut terminal, "And").contains("(ended at 200 tokens"));
    terminal.send(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

/// Runs a chat on `lines` of stdin.
fn piped(args: &[&str], lines: &str) -> Ran {
    let mut child = bitnet(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // A chat that failed reads no further.
    let _ = child.stdin.take().expect("piped").write_all(lines.as_bytes());
    finish(child.wait_with_output().expect("it ends"))
}

#[test]
fn off_a_terminal_answers_are_all_that_is_on_stdout() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("talk.json");
    let save = format!("/save {}\n", file.display());
    let ran = piped(&SHORT, &format!("In the beginning\n/regen\n\none\\\ntwo\n/metrics\n{save}"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let file = saved(&file);
    let answers: Vec<String> =
        messages(&file).into_iter().filter(|(role, _)| role == "assistant").map(|(_, text)| text).collect();
    assert_eq!(questions(&file), ["In the beginning", "one\ntwo"]);
    let shown: Vec<&str> = ran.stdout.lines().map(str::trim_end).collect();
    assert_eq!(shown, [&answers[0][..], &answers[0], &answers[1]]);
    assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "no escape sequences");
    assert!(ran.stderr.contains("requested=auto"), "{}", ran.stderr);

    // The first failure ends it, with the code of that failure.
    let ran = piped(&SHORT, "/nonsense\nIn the beginning\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    let ran = piped(&SHORT, "/edit\n");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(piped(&SHORT, "").code, 0);
}

#[test]
fn an_answer_is_the_one_that_run_gives() {
    let ran = piped(&SHORT, "In the beginning\nAnd the earth\n/edit And the earth was\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let alone = |prompt: &str| {
        let args = ["run", "-m", TRAINED, "--temperature", "0", "-n12", "--chat", "-p", prompt];
        run(&args).stdout.trim().to_owned()
    };
    let shown: Vec<&str> = ran.stdout.lines().map(str::trim_end).collect();
    assert_eq!(shown[0], alone("In the beginning"));
    // What was reused from earlier positions changes nothing: the same conversation without them.
    let whole = format!("Q: In the beginning\nA: {}\n\nQ: And the earth was\nA:", shown[0]);
    let args = ["run", "-m", TRAINED, "--temperature", "0", "-n12", "-p", &whole, "--stop", "\\nQ:"];
    assert_eq!(shown[2], run(&args).stdout.trim());
}
