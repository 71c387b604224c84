//! The one function that finds a built reference: llama.cpp or bitnet.cpp, by what its libraries can do.
//!
//! In: the environment as a value and a [`Lane`]. Out: a [`Discovery`], with every candidate looked at and why
//! it was taken or not. preflight prints it, and the reference driver's build script links what it found.
//! Deliberately absent: building anything, and judging a library by its file name.

#![forbid(unsafe_code)]

mod library;
mod places;

use bitforge_schema::env::Env;
pub use library::{Api, Capability, Library};
pub use places::{NAMED_PLACES, VARIABLES, stamp};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders of a llama.cpp or bitnet.cpp tree that hold public headers, relative to its top.
pub const HEADER_FOLDERS: &[&str] = &[
    "include",
    "ggml/include",
    "3rdparty/llama.cpp/include",
    "3rdparty/llama.cpp/ggml/include",
    "3rdparty/llama.cpp",
    "",
];

/// What a reference is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Plain llama.cpp: the llama API, without kernels for ggml type 36.
    Llama,
    /// bitnet.cpp: the llama API, and kernels that run ggml type 36 (I2_S) or a table-driven ternary type.
    Bitnet,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Llama, Lane::Bitnet];

    pub const fn name(self) -> &'static str {
        match self {
            Lane::Llama => "llama",
            Lane::Bitnet => "bitnet",
        }
    }
}

/// A usable reference.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    pub lane: Lane,
    /// The variable or place that led to it.
    pub origin: String,
    /// The library with the llama API first, then those with ggml.
    pub libraries: Vec<Library>,
    /// Folders with llama.h and ggml.h.
    pub include: Vec<PathBuf>,
    pub api: Api,
    pub capabilities: Vec<Capability>,
}

impl Reference {
    /// The folder of the library with the llama API.
    pub fn llama_dir(&self) -> &Path {
        self.libraries.first().and_then(|library| library.path.parent()).unwrap_or(Path::new("."))
    }

    /// The folders of all libraries and of the files that links lead to, each once, the llama API's first.
    pub fn library_dirs(&self) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let paths = self
            .libraries
            .iter()
            .flat_map(|library| [Some(library.path.clone()), library.path.canonicalize().ok()]);
        let dirs = paths.flatten().filter_map(|path| path.parent().map(Path::to_path_buf));
        dirs.filter(|dir| seen.insert(dir.clone())).collect()
    }

    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// One place that was looked at, in the order of precedence.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    pub origin: String,
    pub place: Option<PathBuf>,
    pub taken: bool,
    /// Why it was taken or not.
    pub why: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Discovery {
    pub lane: Lane,
    pub candidates: Vec<Candidate>,
    pub reference: Option<Reference>,
}

impl Discovery {
    /// One line per candidate, for people.
    pub fn render(&self) -> String {
        let mut lines = vec![format!("{} is looked for in this order:", self.lane.name())];
        for candidate in &self.candidates {
            let place =
                candidate.place.as_ref().map(|place| format!(" {}", place.display())).unwrap_or_default();
            let mark = if candidate.taken { "✔" } else { "-" };
            lines.push(format!("  {mark} {}{place}: {}", candidate.origin, candidate.why));
        }
        lines.join("\n")
    }
}

/// Looks through every place of precedence and takes the first that can do what the lane needs.
///
/// The order is the one of docs/reference/discovery.md: variables for libraries, variables for checkouts, the
/// build cache, the folders other tools use, the system. Later places are not opened once one is taken.
pub fn discover(env: &Env, lane: Lane) -> Discovery {
    let mut discovery = Discovery { lane, candidates: Vec::new(), reference: None };
    for place in places::places(env, lane) {
        let mut candidate = Candidate { origin: place.origin, place: None, taken: false, why: String::new() };
        let dirs: Vec<PathBuf> = place.dirs.into_iter().filter(|dir| !dir.as_os_str().is_empty()).collect();
        candidate.place = dirs.first().cloned();
        candidate.why = if discovery.reference.is_some() {
            "not looked at: an earlier place was taken".into()
        } else if dirs.is_empty() {
            place.absent.into()
        } else if let Some(missing) = dirs.iter().find(|dir| !dir.is_dir()) {
            format!("{} is not a folder", missing.display())
        } else {
            match judge(lane, &candidate.origin, &dirs, place.depth) {
                Ok(reference) => {
                    candidate.taken = true;
                    let why = describe(&reference);
                    discovery.reference = Some(reference);
                    why
                }
                Err(why) => why,
            }
        };
        discovery.candidates.push(candidate);
    }
    discovery
}

fn describe(reference: &Reference) -> String {
    let abilities: Vec<&str> = reference.capabilities.iter().map(|capability| capability.name()).collect();
    let dirs: Vec<String> = reference.library_dirs().iter().map(|dir| dir.display().to_string()).collect();
    let abilities =
        if abilities.is_empty() { "no backend that is known".into() } else { abilities.join(" + ") };
    format!("{} API, {abilities}; in {}", reference.api.name(), dirs.join(" and "))
}

/// Whether the libraries below `dirs` serve the lane.
fn judge(lane: Lane, origin: &str, dirs: &[PathBuf], depth: usize) -> Result<Reference, String> {
    let mut files = Vec::new();
    dirs.iter().for_each(|dir| library::find(dir, depth, &mut files));
    if files.is_empty() {
        return Err("holds no libllama or libggml".into());
    }
    let mut unreadable = Vec::new();
    let mut libraries = Vec::new();
    for file in &files {
        match Library::read(file) {
            Ok(library) => libraries.push(library),
            Err(why) => unreadable.push(format!("{}: {why}", file.display())),
        }
    }
    let note = if unreadable.is_empty() { String::new() } else { format!(" ({})", unreadable.join("; ")) };
    let libraries = library::choose(libraries);
    let Some(api) = libraries.iter().find_map(|library| library.api) else {
        return Err(format!("no library there exports the llama API{note}"));
    };
    if !libraries.iter().any(|library| library.has_ggml) {
        return Err(format!("no library there exports ggml_init: libggml is missing{note}"));
    }
    let capabilities = library::capabilities(&libraries);
    let ternary = capabilities.iter().any(|capability| capability.is_bitnet());
    match lane {
        Lane::Bitnet if !ternary => {
            return Err(format!(
                "cannot run ggml type 36: no library there has {}{note}",
                Capability::I2s.evidence().join(" or ")
            ));
        }
        Lane::Llama if ternary => {
            return Err("has bitnet.cpp's kernels: this is bitnet.cpp, for the lane bitnet".into());
        }
        _ => {}
    }
    let include = headers(dirs, &libraries);
    if include.is_empty() {
        return Err("no llama.h near the libraries, so nothing can be compiled against them".into());
    }
    Ok(Reference { lane, origin: origin.into(), libraries, include, api, capabilities })
}

/// Folders with llama.h and ggml.h: below the places, or up to four folders above a library.
fn headers(dirs: &[PathBuf], libraries: &[Library]) -> Vec<PathBuf> {
    let tops = dirs.iter().flat_map(|dir| dir.ancestors().take(5));
    let tops = tops.chain(libraries.iter().flat_map(|library| library.path.ancestors().skip(1).take(5)));
    for top in tops {
        let folders = HEADER_FOLDERS.iter().map(|folder| top.join(folder));
        let folders: Vec<PathBuf> = folders.collect();
        let with = |name: &str| folders.iter().find(|folder| folder.join(name).is_file()).cloned();
        if let (Some(llama), Some(ggml)) = (with("llama.h"), with("ggml.h")) {
            return if llama == ggml { vec![llama] } else { vec![llama, ggml] };
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
