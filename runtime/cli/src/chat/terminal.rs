//! What a terminal needs besides an editor: its settings back however the process ends, and text that is only text.

use std::sync::OnceLock;

/// `char` that is shown for a control character.
const REPLACEMENT: char = '\u{fffd}';

/// `text` without what a terminal would obey: a model's words move no cursor and set no title.
pub fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { REPLACEMENT } else { c };
    text.chars().map(shown).collect()
}

/// Whether stdin is a terminal that edits lines itself, so that no editor has it.
pub fn is_cooked() -> bool {
    settings().is_some_and(|settings| settings.c_lflag & libc::ICANON != 0)
}

fn settings() -> Option<libc::termios> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `tcgetattr` writes a whole termios where it returns 0, and it is read only then.
    unsafe {
        (libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) == 0).then(|| settings.assume_init())
    }
}

static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// Puts the settings that stdin has now back when the process exits: a signal may end it while a line is edited.
pub fn restore_at_exit() {
    let Some(settings) = settings() else { return };
    if BEFORE.set(settings).is_ok() {
        // SAFETY: `restore` is a function without captures; it only reads a static and calls `tcsetattr`.
        unsafe { libc::atexit(restore) };
    }
}

extern "C" fn restore() {
    if let Some(settings) = BEFORE.get() {
        // SAFETY: the settings are whole; on a stdin that is closed by now the call fails and changes nothing.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, settings) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_not_obeyed() {
        assert_eq!(harmless("a\x1b]0;title\x07b\r\n\tc"), "a\u{fffd}]0;title\u{fffd}b\u{fffd}\n\tc");
        assert_eq!(harmless("日本 é 🦉\u{9b}31m"), "日本 é 🦉\u{fffd}31m");
    }
}
