//! A hub of models on loopback, for tests: a real HTTP server with real files and planted faults.
//!
//! In: files and [`Fault`]s. Out: the subset of the Hugging Face hub's protocol that a download uses, on two ports: the
//! hub itself (`/OWNER/NAME/resolve/REVISION/FILE`, `/api/models/..`) and the storage that it redirects to, which is
//! another origin. `/plain/FILE` on the hub's port is an ordinary web server; `CONNECT` makes it a proxy to itself,
//! whatever the host. Everything asked for is in [`Hub::log`]. Deliberately absent: anything that a client of the real
//! hub would not notice, and any limit on speed.

mod ceiling;
pub mod content;
pub mod drill;
mod serve;

pub use serve::Logged;

use serve::State;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// `HEAD` of a file at the hub.
    Head,
    /// `GET` of a file at the hub, before the redirect.
    Get,
    /// `GET` of the bytes, at the storage or of a plain file.
    Data,
    /// The list of files of a repository.
    List,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before an answer.
    DropBeforeHeaders,
    /// The connection ends in the middle of the headers.
    DropInHeaders,
    /// The connection ends after so many bytes of the body.
    DropAfter(usize),
    /// Fewer bytes than asked for, with headers that agree.
    Short(usize),
    /// `Content-Range` of another place.
    WrongRange,
    /// The bytes of every answer are spoilt in one place.
    Corrupt,
    /// As if the file had been replaced: other bytes, another tag, for good.
    Replace,
    /// Another tag in this answer alone.
    OtherTag,
    /// The range is ignored and the whole sent.
    NoRanges,
    Status(u16, Vec<(&'static str, String)>),
    /// A redirect to itself.
    Loop,
    Redirect(String),
    /// Nothing, for as long as the client holds on.
    Hang,
    /// The headers, then a byte now and then.
    Drip,
    /// Headers in place of those that belong there.
    Headers(Vec<(&'static str, String)>),
    /// Another body, for lists.
    Body(String),
}

/// A running hub; stops when dropped.
pub struct Hub {
    state: Arc<State>,
    addresses: [SocketAddr; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    /// Listens on two free ports of loopback.
    pub fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"));
        let addresses = [0, 1].map(|i| listeners[i].local_addr().expect("it is bound"));
        let state = Arc::new(State::new(format!("http://{}", addresses[1])));
        let listen = |listener: TcpListener| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || accept(&listener, &state))
        };
        let threads = listeners.into_iter().map(listen).collect();
        Hub { state, addresses, threads }
    }

    /// What HF_ENDPOINT is set to.
    pub fn url(&self) -> String {
        format!("http://{}", self.addresses[0])
    }

    /// The other origin.
    pub fn storage(&self) -> String {
        format!("http://{}", self.addresses[1])
    }

    /// Adds a file to `repo`; large ones lie in the storage, as with LFS.
    pub fn add(&self, repo: &str, file: &str, content: Vec<u8>) {
        self.state.add(repo, file, content);
    }

    /// The commit that every revision of every repository means.
    pub fn commit(&self) -> &'static str {
        serve::COMMIT
    }

    /// The next `times` requests of this kind go wrong.
    pub fn fault(&self, on: On, times: usize, fault: Fault) {
        self.state.faults.lock().expect("no thread panicked").push((on, times, fault));
    }

    pub fn clear_faults(&self) {
        self.state.faults.lock().expect("no thread panicked").clear();
    }

    /// Every request so far.
    pub fn log(&self) -> Vec<Logged> {
        self.state.log.lock().expect("no thread panicked").clone()
    }

    /// Bytes of bodies given to the system so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for address in self.addresses {
            // Wakes the thread that waits for a connection.
            drop(TcpStream::connect(address));
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("the listener does not panic");
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(stream) = stream {
            let state = Arc::clone(state);
            // Ends with its connection; clients that hold on are given up when the hub stops.
            std::thread::spawn(move || serve::connection(stream, &state));
        }
    }
}

type Faults = Mutex<Vec<(On, usize, Fault)>>;
type Stop = AtomicBool;
