//! One library file: which of the symbols that matter it defines.
//!
//! In: a shared library or a static archive. Out: API generation and capabilities, by exact symbol names.

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Generation of the llama API, by the name of the function that loads a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `llama_load_model_from_file`, `llama_new_context_with_model`.
    Old,
    /// `llama_model_load_from_file`, `llama_init_from_model`, `llama_vocab`.
    New,
}

impl Api {
    pub const fn name(self) -> &'static str {
        match self {
            Api::Old => "old",
            Api::New => "new",
        }
    }
}

/// What a reference can do beyond the llama API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    Cpu,
    I2s,
    Tl1,
    Tl2,
    Cuda,
}

impl Capability {
    pub const ALL: [Capability; 5] =
        [Capability::Cpu, Capability::I2s, Capability::Tl1, Capability::Tl2, Capability::Cuda];

    pub const fn name(self) -> &'static str {
        match self {
            Capability::Cpu => "cpu",
            Capability::I2s => "i2s",
            Capability::Tl1 => "tl1",
            Capability::Tl2 => "tl2",
            Capability::Cuda => "cuda",
        }
    }

    /// Any one of these symbols, defined, is the evidence.
    pub const fn evidence(self) -> &'static [&'static str] {
        match self {
            Capability::Cpu => &["ggml_backend_cpu_init"],
            Capability::I2s => &["ggml_vec_dot_i2_i8_s"],
            // The table-driven kernels export the same names on both machines; TL1 is Arm's, TL2 is x86's.
            Capability::Tl1 | Capability::Tl2 => &["ggml_qgemm_lut"],
            Capability::Cuda => &["ggml_backend_cuda_init"],
        }
    }

    pub const fn is_bitnet(self) -> bool {
        matches!(self, Capability::I2s | Capability::Tl1 | Capability::Tl2)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// Absolute, as it was found: the loader looks for its other names in the same folder.
    pub path: PathBuf,
    /// Static archives are linked in whole groups; shared libraries by their folder.
    pub is_archive: bool,
    pub api: Option<Api>,
    pub has_ggml: bool,
    pub capabilities: Vec<Capability>,
}

impl Library {
    /// Reads the defined global symbols. Errors are for people.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let is_archive = bytes.starts_with(b"!<arch>\n");
        let mut defined = BTreeSet::new();
        let mut aarch64 = false;
        if is_archive {
            let archive = ArchiveFile::parse(&*bytes).map_err(|error| error.to_string())?;
            for member in archive.members() {
                let data =
                    member.and_then(|member| member.data(&*bytes)).map_err(|error| error.to_string())?;
                if let Ok(file) = object::File::parse(data) {
                    aarch64 |= file.architecture() == object::Architecture::Aarch64;
                    collect(file.symbols(), &mut defined);
                }
            }
        } else {
            let file = object::File::parse(&*bytes).map_err(|error| error.to_string())?;
            aarch64 = file.architecture() == object::Architecture::Aarch64;
            collect(file.dynamic_symbols(), &mut defined);
        }
        let has = |name: &str| defined.contains(name);
        let api = if has("llama_model_load_from_file") && has("llama_init_from_model") {
            Some(Api::New)
        } else if has("llama_load_model_from_file") && has("llama_new_context_with_model") {
            Some(Api::Old)
        } else {
            None
        };
        let capabilities = Capability::ALL
            .into_iter()
            .filter(|capability| match capability {
                Capability::Tl1 => aarch64,
                Capability::Tl2 => !aarch64,
                _ => true,
            })
            .filter(|capability| capability.evidence().iter().any(|name| has(name)))
            .collect();
        let has_ggml = has("ggml_init");
        Ok(Library { path: path.into(), is_archive, api, has_ggml, capabilities })
    }
}

fn collect<'data>(symbols: impl Iterator<Item = impl ObjectSymbol<'data>>, defined: &mut BTreeSet<String>) {
    for symbol in symbols.filter(|symbol| symbol.is_definition() && symbol.is_global()) {
        if let Ok(name) = symbol.name() {
            // Mach-O puts an underscore before C names.
            let plain =
                name.strip_prefix('_').filter(|rest| rest.starts_with("llama_") || rest.starts_with("ggml_"));
            defined.insert(plain.unwrap_or(name).to_string());
        }
    }
}

/// Files below `dir` that may be parts of a reference: libllama and every libggml, versioned names included,
/// each file once.
pub fn find(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_prefix("lib").unwrap_or("");
        let part = stem.starts_with("llama.") || stem.starts_with("ggml.") || stem.starts_with("ggml-");
        let library = name.ends_with(".a")
            || name.ends_with(".dylib")
            || name.ends_with(".so")
            || name
                .split_once(".so.")
                .is_some_and(|(_, v)| v.chars().all(|c| c.is_ascii_digit() || c == '.'));
        if path.is_dir() {
            if depth > 0 && !path.is_symlink() && name != ".git" {
                find(&path, depth - 1, files);
            }
        } else if part && library {
            // A broken link is not a library, and a second name of the same file is not a second library.
            let known = |real: &PathBuf| {
                files.iter().any(|file| file.canonicalize().is_ok_and(|known| known == *real))
            };
            if path.canonicalize().is_ok_and(|real| !known(&real)) {
                files.push(std::path::absolute(&path).unwrap_or(path));
            }
        }
    }
}

/// One library with the llama API and those with ggml that go with it: shared ones where llama is shared,
/// archives where it is an archive, and of several copies of a file the nearest to llama's.
pub fn choose(libraries: Vec<Library>) -> Vec<Library> {
    let Some(llama) = libraries.iter().find(|library| library.api.is_some()).cloned() else {
        return libraries;
    };
    let mut chosen = vec![llama.clone()];
    let same_kind = libraries.into_iter().filter(|library| {
        library.path != llama.path && library.api.is_none() && library.is_archive == llama.is_archive
    });
    let mut rest: Vec<Library> = same_kind.collect();
    let near =
        |path: &Path| path.components().zip(llama.path.components()).take_while(|(a, b)| a == b).count();
    rest.sort_by_key(|library| std::cmp::Reverse(near(&library.path)));
    for library in rest {
        let name = |library: &Library| base_name(&library.path);
        if chosen.iter().all(|other| name(other) != name(&library)) {
            chosen.push(library);
        }
    }
    chosen
}

/// `ggml-cpu` of `libggml-cpu.so.0.9.4`.
fn base_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_prefix("lib").unwrap_or(&name);
    stem.split('.').next().unwrap_or(stem).to_string()
}

/// The capabilities of libraries together, each once, sorted.
pub fn capabilities(libraries: &[Library]) -> Vec<Capability> {
    let all: BTreeSet<Capability> =
        libraries.iter().flat_map(|library| library.capabilities.iter().copied()).collect();
    all.into_iter().collect()
}
