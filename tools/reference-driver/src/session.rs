//! A model loaded by the linked reference: safe wrappers over the C face of the shim (`shim.h`).
//!
//! In: a GGUF file. Out: tokens, logits and the tensors of the graph. Deliberately absent: a choice of reference;
//! the binary is linked to one.

use anyhow::{Context, Result, bail};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::NonNull;

#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

type RawTap = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *const f32, i64) -> i32;

unsafe extern "C" {
    fn reference_open(model: *const c_char, threads: i32, mode: i32) -> *mut Raw;
    fn reference_close(session: *mut Raw);
    fn reference_begin(session: *mut Raw, positions: u32) -> i32;
    fn reference_vocabulary(session: *const Raw) -> i32;
    fn reference_layers(session: *const Raw) -> i32;
    fn reference_hidden(session: *const Raw) -> i32;
    fn reference_metadata(session: *const Raw, key: *const c_char, text: *mut c_char, capacity: i32) -> i32;
    fn reference_tensor_type(model: *const c_char, tensor: *const c_char) -> *const c_char;
    fn reference_tokenize(
        session: *const Raw,
        text: *const c_char,
        length: i32,
        tokens: *mut i32,
        capacity: i32,
    ) -> i32;
    fn reference_set_tap(session: *mut Raw, tap: Option<RawTap>, user: *mut c_void);
    fn reference_batch(session: *const Raw) -> i32;
    fn reference_decode(session: *mut Raw, tokens: *mut i32, count: i32, logits: *mut f32) -> i32;
    fn reference_messages() -> *const c_char;
    fn reference_system_info() -> *const c_char;
}

/// How the library computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Weights as they are in the file, flash attention off.
    Plain,
    /// The library's own defaults: repacked weights and flash attention where it has them. No taps.
    Fast,
}

/// Sees the tensors of the graph.
pub trait Observer {
    /// Whether the tensor `name`, made by the operation `op`, is wanted.
    fn wants(&self, name: &str, op: &str) -> bool;
    /// Takes its values, the first dimension fastest.
    fn take(&mut self, name: &str, op: &str, values: &[f32]);
}

pub struct Session {
    raw: NonNull<Raw>,
    /// Logits per position.
    pub vocabulary: usize,
}

impl Session {
    /// Loads `model`; [`Session::begin`] makes room for tokens.
    pub fn open(model: &Path, threads: i32, mode: Mode) -> Result<Self> {
        std::fs::File::open(model).with_context(|| format!("opening {}", model.display()))?;
        let path = c_path(model)?;
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        let raw = unsafe { reference_open(path.as_ptr(), threads, mode as i32) };
        let Some(raw) = NonNull::new(raw) else {
            bail!("{}: the reference cannot load it: {}", model.display(), messages());
        };
        // SAFETY: `raw` is a live session.
        let count = unsafe { reference_vocabulary(raw.as_ptr()) };
        let vocabulary = usize::try_from(count).context("a negative vocabulary size")?;
        Ok(Session { raw, vocabulary })
    }

    pub fn layers(&self) -> u32 {
        // SAFETY: `raw` is a live session.
        unsafe { reference_layers(self.raw.as_ptr()) }.unsigned_abs()
    }

    pub fn hidden(&self) -> u32 {
        // SAFETY: `raw` is a live session.
        unsafe { reference_hidden(self.raw.as_ptr()) }.unsigned_abs()
    }

    /// The value of a metadata key as text.
    pub fn metadata(&self, key: &CStr) -> Option<String> {
        let mut text = [0u8; 256];
        // SAFETY: `text` has room for its length, and the library ends what it writes there with a NUL.
        let length = unsafe {
            reference_metadata(self.raw.as_ptr(), key.as_ptr(), text.as_mut_ptr().cast(), text.len() as i32)
        };
        let value = CStr::from_bytes_until_nul(&text).ok()?;
        (length >= 0).then(|| value.to_string_lossy().into_owned())
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

    /// An empty context with room for `positions` tokens; whether it was newly made.
    pub fn begin(&mut self, positions: u32) -> Result<bool> {
        // SAFETY: the session is borrowed mutably.
        match unsafe { reference_begin(self.raw.as_ptr(), positions) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => bail!("no context of {positions} positions: {}", messages()),
        }
    }

    /// Evaluates one token at the next position, showing its tensors to `observer`; `logits` takes
    /// [`Session::vocabulary`] values.
    pub fn step(
        &mut self,
        token: u32,
        logits: &mut [f32],
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        assert_eq!(logits.len(), self.vocabulary);
        let mut tokens = self.ids(&[token])?;
        let mut observer = observer;
        if let Some(observer) = &mut observer {
            // SAFETY: the observer outlives the decode below, after which it is forgotten.
            unsafe {
                let user = std::ptr::from_mut::<&mut dyn Observer>(observer).cast();
                reference_set_tap(self.raw.as_ptr(), Some(observe), user);
            }
        }
        // SAFETY: one token is there, `logits` has room for the vocabulary, the session is borrowed mutably.
        let status =
            unsafe { reference_decode(self.raw.as_ptr(), tokens.as_mut_ptr(), 1, logits.as_mut_ptr()) };
        // SAFETY: the session is borrowed mutably.
        unsafe { reference_set_tap(self.raw.as_ptr(), None, std::ptr::null_mut()) };
        if status != 0 {
            bail!("evaluating token {token} failed with {status}: {}", messages());
        }
        Ok(())
    }

    /// Evaluates tokens at the next positions in batches; the logits of each batch's last are computed and left.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        let mut ids = self.ids(tokens)?;
        // SAFETY: the session is live and has a context since `begin`.
        let batch = unsafe { reference_batch(self.raw.as_ptr()) }.max(1);
        for ids in ids.chunks_mut(batch as usize) {
            let count = i32::try_from(ids.len()).context("too many tokens")?;
            // SAFETY: `ids` holds `count` tokens, no logits are asked for, the session is borrowed mutably.
            let status =
                unsafe { reference_decode(self.raw.as_ptr(), ids.as_mut_ptr(), count, std::ptr::null_mut()) };
            if status != 0 {
                bail!("evaluating {count} tokens failed with {status}: {}", messages());
            }
        }
        Ok(())
    }

    fn ids(&self, tokens: &[u32]) -> Result<Vec<i32>> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            bail!("token {token} is not below the vocabulary size {}", self.vocabulary);
        }
        Ok(tokens.iter().map(|token| token.cast_signed()).collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: `raw` came from reference_open and is closed once.
        unsafe { reference_close(self.raw.as_ptr()) };
    }
}

/// The type of a tensor in the file, by ggml's name of it.
pub fn tensor_type(model: &Path, tensor: &CStr) -> Option<String> {
    let path = c_path(model).ok()?;
    // SAFETY: both are NUL-terminated strings that outlive the call; the answer is NULL or a static string.
    unsafe {
        let name = reference_tensor_type(path.as_ptr(), tensor.as_ptr());
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The CPU features the reference was compiled for, in its own words.
pub fn system_info() -> String {
    // SAFETY: the library returns a static NUL-terminated string.
    unsafe { CStr::from_ptr(reference_system_info()) }.to_string_lossy().trim().to_string()
}

/// # Safety
/// `user` points to the `&mut dyn Observer` of [`Session::step`]; the names are NUL-terminated; `data` is NULL or
/// points to `count` floats.
unsafe extern "C" fn observe(
    user: *mut c_void,
    name: *const c_char,
    op: *const c_char,
    data: *const f32,
    count: i64,
) -> i32 {
    // SAFETY: promised by the caller.
    let (observer, name, op) =
        unsafe { (&mut *user.cast::<&mut dyn Observer>(), CStr::from_ptr(name), CStr::from_ptr(op)) };
    let (name, op) = (name.to_string_lossy(), op.to_string_lossy());
    if data.is_null() {
        return observer.wants(&name, &op).into();
    }
    // SAFETY: promised by the caller.
    let values = unsafe { std::slice::from_raw_parts(data, count.unsigned_abs() as usize) };
    observer.take(&name, &op, values);
    1
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .with_context(|| format!("{} has a NUL byte", path.display()))
}

fn messages() -> String {
    // SAFETY: the shim returns a NUL-terminated string that lives until its next call.
    let text = unsafe { CStr::from_ptr(reference_messages()) }.to_string_lossy();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it gave no message".into() } else { lines.join("; ") }
}
