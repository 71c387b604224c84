//! The one registry of environment variables that bitforge reads.
//!
//! `docs/reference/environment.md` is generated from [`VARIABLES`]. A variable that starts with a prefix
//! in [`OWNED_PREFIXES`] but is not registered gets a warning with the nearest registered name.

/// One environment variable.
pub struct Variable {
    pub name: &'static str,
    /// Which binaries read it.
    pub read_by: &'static str,
    /// The grammar of its value.
    pub value: &'static str,
    pub meaning: &'static str,
}

/// Every variable bitforge reads, sorted by name.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "ALL_PROXY",
        read_by: "bitnet",
        value: "a URL",
        meaning: "the proxy for fetching where neither HTTPS_PROXY nor HTTP_PROXY says otherwise (lower case works, too)",
    },
    Variable {
        name: "BITNET_API_KEY",
        read_by: "bitnet",
        value: "a key",
        meaning: "an API key that `bitnet serve` accepts, beside those of --api-key-file",
    },
    Variable {
        name: "BITNET_BINARY",
        read_by: "xtask",
        value: "a file",
        meaning: "the bitnet binary to validate, measure and run instead of building one",
    },
    Variable {
        name: "BITNET_CACHE_DIR",
        read_by: "bitnet, xtask",
        value: "a directory",
        meaning: "where fetched models and built references are kept (default: $XDG_CACHE_HOME/bitforge or ~/.cache/bitforge)",
    },
    Variable {
        name: "BITNET_CPP_DIR",
        read_by: "xtask, reference-driver",
        value: "a directory",
        meaning: "a checkout or build of bitnet.cpp, searched for its libraries and headers",
    },
    Variable {
        name: "BITNET_CROSSVAL_LIBDIR",
        read_by: "xtask, reference-driver",
        value: "a directory",
        meaning: "the first place where the libraries of a C++ reference are looked for",
    },
    Variable {
        name: "BITNET_CUDA_KERNELS",
        read_by: "build.rs of the runtime, xtask",
        value: "a directory",
        meaning: "where `cargo xtask kernels build --cuda` puts the compiled CUDA kernels and a build with --features cuda takes them from (default: target/cuda-kernels)",
    },
    Variable {
        name: "BITNET_FUZZ_TARGET",
        read_by: "tools/fuzz",
        value: "a name that `cargo xtask fuzz list` prints",
        meaning: "what the fuzz binary gives its inputs to",
    },
    Variable {
        name: "BITNET_GPU_FAKE",
        read_by: "bitnet",
        value: "none, or NAME or NAME=COUNT separated by commas (cuda, hip, metal)",
        meaning: "fakes which GPUs are detected, for tests of the selection; nothing faked ever runs, and strict mode refuses it",
    },
    Variable {
        name: "BITNET_KERNELS",
        read_by: "bitnet",
        value: "auto, scalar, avx2, avx-vnni, avx512, amx-int8, neon, dotprod, i8mm",
        meaning: "kernel set to use, as --kernels does; a set this CPU cannot run is an error",
    },
    Variable {
        name: "BITNET_LOG",
        read_by: "bitnet",
        value: "off, error, warn, info, debug, trace",
        meaning: "what is logged to stderr (default: info for `bitnet serve`, warn for the rest)",
    },
    Variable {
        name: "BITNET_NCCL",
        read_by: "bitnet",
        value: "a file",
        meaning: "the NCCL library of --tensor-parallel, such as the one `cargo xtask kernels nccl` installs (default: the libnccl.so.2 that the loader finds)",
    },
    Variable {
        name: "BITNET_OFFLINE",
        read_by: "bitnet, xtask",
        value: "1",
        meaning: "never touch the network: steps that would need it say so and fall back or fail",
    },
    Variable {
        name: "BITNET_STRICT_MODE",
        read_by: "bitnet",
        value: "1 (0 is as unset)",
        meaning: "fail with exit code 7 where something would be substituted with a warning: unknown BITNET_ variables, parts of the tokenizer that the file lacks, a kernel below the forced set",
    },
    Variable {
        name: "BITNET_THREADS",
        read_by: "bitnet",
        value: "1 or more",
        meaning: "number of compute threads, as --threads does (default: the CPUs this process may use)",
    },
    Variable {
        name: "CROSSVAL_RPATH_BITNET",
        read_by: "xtask, reference-driver",
        value: "directories",
        meaning: "where the libraries of bitnet.cpp are, several separated by colons",
    },
    Variable {
        name: "CROSSVAL_RPATH_LLAMA",
        read_by: "xtask, reference-driver",
        value: "directories",
        meaning: "where the libraries of llama.cpp are, several separated by colons",
    },
    Variable {
        name: "HF_ENDPOINT",
        read_by: "bitnet",
        value: "a URL",
        meaning: "the hub that hf: models are fetched from, for mirrors (default: https://huggingface.co)",
    },
    Variable {
        name: "HF_HOME",
        read_by: "bitnet",
        value: "a directory",
        meaning: "where the hub's cache (hub) and the token lie (default: $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface)",
    },
    Variable {
        name: "HF_HUB_CACHE",
        read_by: "bitnet",
        value: "a directory",
        meaning: "the hub's cache, shared with Python's huggingface_hub (default: $HF_HOME/hub)",
    },
    Variable {
        name: "HF_HUB_DOWNLOAD_TIMEOUT",
        read_by: "bitnet",
        value: "seconds",
        meaning: "a connection that gives nothing, or less than 1 KiB/s, for this long is given up and made again (default: 30)",
    },
    Variable { name: "HF_HUB_OFFLINE", read_by: "bitnet", value: "1", meaning: "as BITNET_OFFLINE" },
    Variable {
        name: "HF_TOKEN",
        read_by: "bitnet",
        value: "a token",
        meaning: "sent to HF_ENDPOINT and to no other host; for gated models (default: the file HF_TOKEN_PATH names)",
    },
    Variable {
        name: "HF_TOKEN_PATH",
        read_by: "bitnet",
        value: "a file",
        meaning: "where the token is read from without HF_TOKEN (default: $HF_HOME/token)",
    },
    Variable {
        name: "HTTPS_PROXY",
        read_by: "bitnet",
        value: "a URL",
        meaning: "the proxy for fetching over https (lower case works, too)",
    },
    Variable {
        name: "HTTP_PROXY",
        read_by: "bitnet",
        value: "a URL",
        meaning: "the proxy for fetching over http (lower case works, too)",
    },
    Variable {
        name: "LLAMA_CPP_DIR",
        read_by: "xtask, reference-driver",
        value: "a directory",
        meaning: "a checkout or build of llama.cpp, searched for its libraries and headers",
    },
    Variable {
        name: "NO_PROXY",
        read_by: "bitnet",
        value: "host names",
        meaning: "hosts that are reached without a proxy, separated by commas (lower case works, too)",
    },
];

/// Names that start with one of these belong to bitforge.
pub const OWNED_PREFIXES: &[&str] = &["BITNET_"];

/// The process environment as a value, so that tests never change the real one.
#[derive(Clone, Debug, Default)]
pub struct Env(std::collections::BTreeMap<String, String>);

impl Env {
    /// A snapshot of the process environment; values that are not UTF-8 are taken lossily.
    pub fn from_process() -> Self {
        Env(std::env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .collect())
    }

    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Env(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// The value of `name`, `None` where unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// One warning per variable that looks like ours but is not registered.
    pub fn unknown_variable_warnings(&self) -> Vec<String> {
        self.0
            .keys()
            .filter(|name| OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            .filter(|name| VARIABLES.iter().all(|variable| variable.name != name.as_str()))
            .map(|name| {
                let nearest = nearest(name, VARIABLES.iter().map(|variable| variable.name)).unwrap_or("none");
                format!("environment variable {name} is not known and has no effect; did you mean {nearest}?")
            })
            .collect()
    }
}

const COMPARED: usize = 256;

/// The candidate with the smallest edit distance to `name`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| edit_distance(name, candidate))
}

/// Levenshtein distance in bytes, of the first [`COMPARED`]: names of strangers may be megabytes long.
fn edit_distance(a: &str, b: &str) -> usize {
    let cut = |text: &'_ str| text.as_bytes()[..text.len().min(COMPARED)].to_vec();
    let (a, b) = (cut(a), cut(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_is_sorted_and_owned() {
        assert!(VARIABLES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn unknown_variable_names_the_nearest() {
        let env = Env::from_pairs([("BITNET_THREAD", "4"), ("BITNET_KERNELS", "scalar"), ("PATH", "/bin")]);
        assert_eq!(
            env.unknown_variable_warnings(),
            [
                "environment variable BITNET_THREAD is not known and has no effect; did you mean BITNET_THREADS?"
            ]
        );
    }

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
