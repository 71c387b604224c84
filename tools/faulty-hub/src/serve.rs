//! One connection: requests in, answers and planted faults out.

use super::{Fault, Faults, On, Stop};
use crate::content::sha256;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files below this are small: the hub has them itself and names them as git does.
const LARGE: usize = 1 << 16;
const PIECE: usize = 1 << 18;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Logged {
    pub method: String,
    pub path: String,
    /// First and last byte.
    pub range: Option<(u64, u64)>,
    pub authorization: Option<String>,
    /// Whether it came to the storage's port.
    pub at_storage: bool,
}

struct File {
    content: Vec<u8>,
    tag: String,
    large: bool,
}

pub struct State {
    storage: String,
    files: Mutex<BTreeMap<(String, String), Arc<File>>>,
    pub faults: Faults,
    turn: Mutex<()>,
    pub log: Mutex<Vec<Logged>>,
    pub sent: AtomicU64,
    pub stop: Stop,
}

impl State {
    pub fn new(storage: String) -> Self {
        State {
            storage,
            files: Mutex::default(),
            faults: Mutex::default(),
            turn: Mutex::default(),
            log: Mutex::default(),
            sent: AtomicU64::new(0),
            stop: Stop::new(false),
        }
    }

    pub fn add(&self, repo: &str, file: &str, content: Vec<u8>) {
        let large = content.len() >= LARGE;
        let tag = if large { sha256(&content) } else { git_id(&content) };
        let file_of = File { content, tag, large };
        self.files.lock().expect("no thread panicked").insert((repo.into(), file.into()), Arc::new(file_of));
    }

    fn file(&self, repo: &str, file: &str) -> Option<Arc<File>> {
        self.files.lock().expect("no thread panicked").get(&(repo.to_owned(), file.to_owned())).cloned()
    }

    fn take_fault(&self, on: On) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("no thread panicked");
        let (_, times, fault) = faults.iter_mut().find(|(kind, times, _)| *kind == on && *times > 0)?;
        *times -= 1;
        Some(fault.clone())
    }

    /// The next fault and the file that a request for its bytes gets. One request after the other: where a file is replaced
    /// no other sees the fault taken and the old file.
    fn next_data(&self, repo: &str, name: &str) -> Option<(Option<Fault>, Arc<File>)> {
        let _turn = self.turn.lock().expect("no thread panicked");
        let old = self.file(repo, name)?;
        let fault = self.take_fault(On::Data);
        if fault != Some(Fault::Replace) {
            return Some((fault, old));
        }
        self.add(repo, name, old.content.iter().rev().copied().collect());
        Some((fault, self.file(repo, name)?))
    }
}

/// What git, and so the hub, names a small file by.
fn git_id(content: &[u8]) -> String {
    let hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

pub fn connection(stream: TcpStream, state: &State) {
    let at_storage = stream.local_addr().is_ok_and(|address| state.storage.ends_with(&address.to_string()));
    // A test waits for the client, never for a client that is gone.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        if state.stop.load(Ordering::Relaxed) || answer(&request, &mut stream, state, at_storage).is_none() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().filter(|len| *len > 0)?;
        Some(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers })
}

/// Answers one request; `None` where the connection is to end.
fn answer(request: &Request, stream: &mut TcpStream, state: &State, at_storage: bool) -> Option<()> {
    let range = request.headers.get("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    state.log.lock().expect("no thread panicked").push(Logged {
        method: request.method.clone(),
        path: request.path.clone(),
        range,
        authorization: request.headers.get("authorization").cloned(),
        at_storage,
    });
    if request.method == "CONNECT" {
        // As a proxy would, but every host is this one.
        return write!(stream, "HTTP/1.1 200 Connected\r\n\r\n").ok();
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "models", owner, name, "revision", _] => list(stream, state, &format!("{owner}/{name}")),
        ["plain", file] => data(request, stream, state, ("plain", file), range),
        ["storage", owner, name, file @ ..] => {
            let (repo, file) = (format!("{owner}/{name}"), file.join("/"));
            data(request, stream, state, (&repo, &file), range)
        }
        [owner, name, "resolve", _, file @ ..] => {
            resolve(request, stream, state, &format!("{owner}/{name}"), &file.join("/"), range)
        }
        _ => status(stream, 404, &[]),
    }
}

fn list(stream: &mut TcpStream, state: &State, repo: &str) -> Option<()> {
    let files = state.files.lock().expect("no thread panicked");
    let siblings: Vec<_> = files
        .keys()
        .filter(|(of, _)| of == repo)
        .map(|(_, file)| serde_json::json!({ "rfilename": file }))
        .collect();
    drop(files);
    let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
    match state.take_fault(On::List) {
        Some(Fault::Body(body)) => whole(stream, &body),
        Some(fault) => simple_fault(stream, &fault, "/"),
        None if siblings.is_empty() => status(stream, 401, &[("X-Error-Code", "RepoNotFound".into())]),
        None => whole(stream, &body),
    }
}

fn whole(stream: &mut TcpStream, body: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()
}

fn resolve(
    request: &Request,
    stream: &mut TcpStream,
    state: &State,
    repo: &str,
    file: &str,
    range: Option<(u64, u64)>,
) -> Option<()> {
    let on = if request.method == "HEAD" { On::Head } else { On::Get };
    let fault = state.take_fault(on);
    let Some(found) = state.file(repo, file) else {
        let code = if state.files.lock().expect("no thread panicked").keys().any(|(of, _)| of == repo) {
            (404, "EntryNotFound")
        } else {
            (401, "RepoNotFound")
        };
        return status(stream, code.0, &[("X-Error-Code", code.1.into())]);
    };
    let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
    if found.large {
        headers.push(("X-Linked-Etag", format!("\"{}\"", found.tag)));
        headers.push(("X-Linked-Size", found.content.len().to_string()));
        headers.push(("Location", format!("{}/storage/{repo}/{file}?signature=1", state.storage)));
    } else {
        headers.push(("ETag", format!("\"{}\"", found.tag)));
    }
    match fault {
        Some(Fault::Headers(others)) => {
            headers.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
            headers.extend(others);
        }
        Some(fault) => return simple_fault(stream, &fault, &request.path),
        None => {}
    }
    if found.large {
        return status(stream, 302, &headers);
    }
    if request.method == "HEAD" {
        headers.push(("Content-Length", found.content.len().to_string()));
        return head(stream, 200, &headers);
    }
    data(request, stream, state, (repo, file), range)
}

/// Faults that need no file.
fn simple_fault(stream: &mut TcpStream, fault: &Fault, path: &str) -> Option<()> {
    match fault {
        Fault::Status(code, headers) => status(stream, *code, headers),
        Fault::Loop => status(stream, 302, &[("Location", path.to_owned())]),
        Fault::Redirect(to) => status(stream, 302, &[("Location", to.clone())]),
        Fault::DropInHeaders => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Le").ok()?;
            None
        }
        Fault::Hang => {
            hang(stream);
            None
        }
        _ => None,
    }
}

/// Holds on until the client goes away.
fn hang(stream: &mut TcpStream) {
    let mut byte = [0];
    // A client that gives up closes the connection, which ends the read.
    let _ = std::io::Read::read(stream, &mut byte);
}

/// The bytes of a file, whole or a range.
fn data(
    request: &Request,
    stream: &mut TcpStream,
    state: &State,
    (repo, name): (&str, &str),
    range: Option<(u64, u64)>,
) -> Option<()> {
    let Some((fault, file)) = state.next_data(repo, name) else { return status(stream, 404, &[]) };
    let total = file.content.len() as u64;
    let mut tag = format!("\"{}\"", file.tag);
    let same = request.headers.get("if-range").is_none_or(|wanted| *wanted == tag);
    let range = range.filter(|_| same && fault != Some(Fault::NoRanges));
    if let Some((first, _)) = range
        && first >= total
    {
        return status(stream, 416, &[("Content-Range", format!("bytes */{total}"))]);
    }
    let (first, last) =
        range.map_or((0, total.saturating_sub(1)), |(first, last)| (first, last.min(total - 1)));
    let mut body = file.content.get(first as usize..=last as usize).unwrap_or_default();
    let mut shown = (first, last);
    let spoilt;
    match &fault {
        Some(Fault::Corrupt) => {
            let mut copy = body.to_vec();
            if let Some(byte) = copy.first_mut() {
                *byte ^= 1;
            }
            spoilt = copy;
            body = &spoilt;
        }
        Some(Fault::Short(len)) => {
            body = &body[..body.len().min(*len)];
            shown.1 = first + (body.len() as u64).saturating_sub(1);
        }
        Some(Fault::WrongRange) => shown = (first + 1, last + 1),
        Some(Fault::OtherTag) => tag = "\"another\"".into(),
        Some(Fault::Replace) => return status(stream, 503, &[]),
        Some(Fault::DropBeforeHeaders | Fault::DropInHeaders | Fault::Hang | Fault::Loop) => {
            return simple_fault(stream, fault.as_ref().expect("see the pattern"), &request.path);
        }
        Some(other @ (Fault::Status(..) | Fault::Redirect(_))) => {
            return simple_fault(stream, other, &request.path);
        }
        _ => {}
    }
    let mut headers = vec![("ETag", tag), ("Content-Length", body.len().to_string())];
    if range.is_some() {
        headers.push(("Content-Range", format!("bytes {}-{}/{total}", shown.0, shown.1)));
    }
    head(stream, if range.is_some() { 206 } else { 200 }, &headers)?;
    if request.method == "HEAD" {
        return Some(());
    }
    match fault {
        Some(Fault::DropAfter(len)) => {
            send(stream, state, &body[..body.len().min(len)])?;
            None
        }
        Some(Fault::Drip) => {
            for byte in body.chunks(1) {
                send(stream, state, byte)?;
                std::thread::sleep(Duration::from_millis(20));
            }
            None
        }
        _ => send(stream, state, body),
    }
}

fn send(stream: &mut TcpStream, state: &State, body: &[u8]) -> Option<()> {
    for piece in body.chunks(PIECE) {
        let len = piece.len() as u64;
        // Counted before it goes, so that whoever has it finds it counted.
        state.sent.fetch_add(len, Ordering::Relaxed);
        if stream.write_all(piece).is_err() {
            state.sent.fetch_sub(len, Ordering::Relaxed);
            return None;
        }
    }
    Some(())
}

fn status(stream: &mut TcpStream, code: u16, headers: &[(&'static str, String)]) -> Option<()> {
    let mut headers = headers.to_vec();
    headers.push(("Content-Length", "0".into()));
    head(stream, code, &headers)
}

fn head(stream: &mut TcpStream, code: u16, headers: &[(&'static str, String)]) -> Option<()> {
    let mut text = format!("HTTP/1.1 {code} Answer\r\n");
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    stream.write_all((text + "\r\n").as_bytes()).ok()
}
