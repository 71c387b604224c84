//! A model loaded by the linked reference: safe wrappers over the C face of the shim (`shim.h`).
//!
//! In: a GGUF file. Out: tokens and logits. Deliberately absent: a choice of reference; the binary is linked to
//! one.

use anyhow::{Context, Result, bail};
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::NonNull;

#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn reference_open(model: *const c_char, n_ctx: u32) -> *mut Raw;
    fn reference_close(session: *mut Raw);
    fn reference_vocabulary(session: *const Raw) -> i32;
    fn reference_tokenize(
        session: *const Raw,
        text: *const c_char,
        length: i32,
        tokens: *mut i32,
        capacity: i32,
    ) -> i32;
    fn reference_decode(session: *mut Raw, token: i32, logits: *mut f32) -> i32;
    fn reference_messages() -> *const c_char;
    fn reference_system_info() -> *const c_char;
}

pub struct Session {
    raw: NonNull<Raw>,
    /// Logits per position.
    pub vocabulary: usize,
}

impl Session {
    /// Loads `model` and makes room for `positions` tokens.
    pub fn open(model: &Path, positions: u32) -> Result<Self> {
        std::fs::File::open(model).with_context(|| format!("opening {}", model.display()))?;
        let path = CString::new(model.as_os_str().as_encoded_bytes())
            .with_context(|| format!("{} has a NUL byte", model.display()))?;
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        let raw = unsafe { reference_open(path.as_ptr(), positions) };
        let Some(raw) = NonNull::new(raw) else {
            bail!("{}: the reference cannot load it: {}", model.display(), messages());
        };
        // SAFETY: `raw` is a live session.
        let count = unsafe { reference_vocabulary(raw.as_ptr()) };
        let vocabulary = usize::try_from(count).context("a negative vocabulary size")?;
        Ok(Session { raw, vocabulary })
    }

    /// Token ids; special tokens in the text are parsed, BOS is added where the model asks for it.
    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>> {
        let length = i32::try_from(text.len()).context("the text is longer than 2 GiB")?;
        let mut tokens = vec![0; text.len() + 8];
        loop {
            let capacity = i32::try_from(tokens.len()).context("too many tokens")?;
            // SAFETY: the text is `length` bytes long and `tokens` has room for `capacity` ids.
            let count = unsafe {
                let text = text.as_ptr().cast();
                reference_tokenize(self.raw.as_ptr(), text, length, tokens.as_mut_ptr(), capacity)
            };
            if let Ok(count) = usize::try_from(count) {
                tokens.truncate(count);
                return Ok(tokens);
            }
            let needed = count.unsigned_abs() as usize;
            if needed <= tokens.len() {
                bail!("tokenizing failed with {count}: {}", messages());
            }
            tokens.resize(needed, 0);
        }
    }

    /// Evaluates one token at the next position; returns [`Session::vocabulary`] logits.
    pub fn decode(&mut self, token: i32) -> Result<Vec<f32>> {
        if usize::try_from(token).map_or(true, |id| id >= self.vocabulary) {
            bail!("token {token} is not below the vocabulary size {}", self.vocabulary);
        }
        let mut logits = vec![0.0; self.vocabulary];
        // SAFETY: `logits` has room for the vocabulary, and the session is borrowed mutably.
        let status = unsafe { reference_decode(self.raw.as_ptr(), token, logits.as_mut_ptr()) };
        if status != 0 {
            bail!("evaluating token {token} failed with {status}: {}", messages());
        }
        Ok(logits)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: `raw` came from reference_open and is closed once.
        unsafe { reference_close(self.raw.as_ptr()) };
    }
}

fn messages() -> String {
    // SAFETY: the shim returns a NUL-terminated string that lives until its next call.
    let text = unsafe { CStr::from_ptr(reference_messages()) }.to_string_lossy();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it gave no message".into() } else { lines.join("; ") }
}

/// The CPU features the reference was compiled for, in its own words.
pub fn system_info() -> String {
    // SAFETY: the library returns a static NUL-terminated string.
    unsafe { CStr::from_ptr(reference_system_info()) }.to_string_lossy().trim().to_string()
}
