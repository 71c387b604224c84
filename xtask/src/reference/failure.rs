//! Why a build failed, in terms of what to do: a table from texts of compilers and build tools to causes.
//!
//! In: the output of a failed step. Out: an exit code, the cause and the remedy; nothing where no row fits.

use bitforge_schema::exit::ExitCode;

pub struct Cause {
    /// One of these texts is in the output.
    texts: &'static [&'static str],
    pub code: ExitCode,
    pub name: &'static str,
    pub remedy: &'static str,
}

/// The first row that fits counts: causes that make others appear come first.
const CAUSES: &[Cause] = &[
    Cause {
        texts: &["No space left on device", "Disk quota exceeded", "No space left on disk"],
        code: ExitCode::Limit,
        name: "the disk is full",
        remedy: "free some with `cargo xtask clean`, or set BITNET_CACHE_DIR to another disk; the build resumes",
    },
    Cause {
        texts: &[
            "Killed signal terminated program",
            "internal compiler error: Killed",
            "virtual memory exhausted",
            "Cannot allocate memory",
            "out of memory allocating",
            "cannot allocate memory",
        ],
        code: ExitCode::Limit,
        name: "the compiler ran out of memory",
        remedy: "run it again with `--jobs 1`; what is compiled already is kept",
    },
    Cause {
        texts: &["bitnet-lut-kernels.h"],
        code: ExitCode::BadInput,
        name: "the tree lacks include/bitnet-lut-kernels.h and has no preset to copy",
        remedy: "make it with the tree's utils/codegen_tl1.py or utils/codegen_tl2.py, or use `--source crate`",
    },
    Cause {
        texts: &[
            "invalid conversion from 'const",
            "invalid conversion from ‘const",
            "cannot initialize a variable of type 'int8_t *'",
            "discards qualifiers",
        ],
        code: ExitCode::BadInput,
        name: "the tree assigns a pointer to const data to a pointer to mutable data, which this compiler refuses",
        remedy: "use `--compiler gcc`, which takes it with the tree's own flags, or add a patch to tools/pins.toml",
    },
    Cause {
        texts: &[
            "Compatibility with CMake < 3.5 has been removed",
            "or higher is required.  You are running version",
        ],
        code: ExitCode::Toolchain,
        name: "this cmake does not fit the tree's cmake_minimum_required",
        remedy: "hide that cmake from PATH; the pinned one is then installed into the cache",
    },
    Cause {
        texts: &[
            "CMAKE_C_COMPILER not set",
            "CMAKE_CXX_COMPILER not set",
            "No CMAKE_C_COMPILER could be found",
            "No CMAKE_CXX_COMPILER could be found",
            "is not a full path and was not found in the PATH",
            "is not a full path to an existing compiler tool",
        ],
        code: ExitCode::Toolchain,
        name: "a C or C++ compiler is missing",
        remedy: "install one (`cargo xtask preflight` says how), or choose another with --compiler",
    },
    Cause {
        texts: &[
            "is not able to compile a simple test program",
            "The C compiler identification is unknown",
            "The CXX compiler identification is unknown",
        ],
        code: ExitCode::Toolchain,
        name: "the compiler cannot compile an empty program",
        remedy: "try it by hand on `int main() { return 0; }`, or choose another with --compiler",
    },
    Cause {
        texts: &["unrecognized command-line option", "unknown argument:", "unsupported option '-march"],
        code: ExitCode::Toolchain,
        name: "the compiler is too old for a flag of the tree",
        remedy: "use a newer one with --compiler, or build for any CPU with `--cpu portable`",
    },
];

/// The cause of a failure with this output.
pub fn recognize(output: &str) -> Option<&'static Cause> {
    CAUSES.iter().find(|cause| cause.texts.iter().any(|text| output.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_real_tools_are_recognized() {
        let name = |text: &str| recognize(text).map(|cause| cause.name);
        for (text, part) in [
            ("a.cpp:9: fatal error: error writing to /t/x.s: No space left on device", "disk"),
            ("c++: fatal error: Killed signal terminated program cc1plus", "memory"),
            ("x.cpp:10:10: fatal error: bitnet-lut-kernels.h: No such file or directory", "lut"),
            ("error: cannot initialize a variable of type 'int8_t *' (aka 'signed char *')", "const"),
            ("  Compatibility with CMake < 3.5 has been removed from CMake.", "minimum"),
            ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", "missing"),
            ("  is not able to compile a simple test program.", "empty program"),
            ("g++: error: unrecognized command-line option '-mavx512vnni'", "too old"),
        ] {
            assert!(name(text).is_some_and(|name| name.contains(part)), "{text}: {:?}", name(text));
        }
        assert_eq!(name("a.cpp:3: error: expected ';'"), None);
    }
}
