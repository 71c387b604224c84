//! Discovery over planted libraries, which the C compiler makes from a few empty functions.

use super::*;
use std::fs;
use std::process::Command;

struct Machine(tempfile::TempDir);

const LLAMA: &[&str] = &["llama_model_load_from_file", "llama_init_from_model"];
const OLD_LLAMA: &[&str] = &["llama_load_model_from_file", "llama_new_context_with_model"];
const GGML: &[&str] = &["ggml_init", "ggml_backend_cpu_init"];
const I2S: &[&str] = &["ggml_init", "ggml_backend_cpu_init", "ggml_vec_dot_i2_i8_s"];

impl Machine {
    fn new() -> Self {
        Machine(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A shared library, or an archive, that defines these functions.
    fn library(&self, name: &str, functions: &[&str]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let source = self.path("source.c");
        // A string is no symbol.
        let text: String = functions.iter().map(|name| format!("void {name}(void) {{}}\n")).collect();
        fs::write(&source, text + "const char word[] = \"ggml_backend_cuda_init\";\n").unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
        };
        if name.ends_with(".a") {
            let object = self.path("source.o");
            run("cc", &["-c".as_ref(), source.as_ref(), "-o".as_ref(), object.as_ref()]);
            run("ar", &["rcs".as_ref(), path.as_ref(), object.as_ref()]);
        } else {
            run("cc", &["-shared".as_ref(), "-fPIC".as_ref(), source.as_ref(), "-o".as_ref(), path.as_ref()]);
        }
    }

    fn headers(&self, dir: &str) {
        for file in ["include/llama.h", "ggml/include/ggml.h"] {
            let path = self.path(dir).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    /// Discovery with these variables, relative to the machine, and a home of its own.
    fn discover(&self, lane: Lane, variables: &[(&str, &str)]) -> Discovery {
        let mut pairs = vec![("HOME".to_string(), self.path("home").display().to_string())];
        for (name, value) in variables {
            let dirs: Vec<String> =
                value.split(':').map(|dir| self.path(dir).display().to_string()).collect();
            pairs.push((name.to_string(), dirs.join(":")));
        }
        discover(&Env::from_pairs(pairs), lane)
    }

    /// Why the candidate with this origin was taken or not.
    fn why(discovery: &Discovery, origin: &str) -> String {
        discovery.candidates.iter().find(|candidate| candidate.origin == origin).unwrap().why.clone()
    }
}

#[test]
fn a_lane_is_what_the_symbols_say() {
    let machine = Machine::new();
    machine.headers("a checkout");
    machine.library("a checkout/build/src/libllama.so", OLD_LLAMA);
    machine.library("a checkout/build/ggml/src/libggml.so", I2S);
    let bitnet = machine.discover(Lane::Bitnet, &[("BITNET_CPP_DIR", "a checkout")]);
    let reference = bitnet.reference.unwrap();
    assert_eq!((reference.api, reference.origin.as_str()), (Api::Old, "BITNET_CPP_DIR"));
    assert_eq!(reference.capabilities, [Capability::Cpu, Capability::I2s]);
    assert_eq!(reference.library_dirs().len(), 2);
    assert_eq!(reference.include.len(), 2);
    // The same folder is no plain llama.cpp.
    let llama = machine.discover(Lane::Llama, &[("LLAMA_CPP_DIR", "a checkout")]);
    assert!(Machine::why(&llama, "LLAMA_CPP_DIR").contains("this is bitnet.cpp"));
}

#[test]
fn versioned_names_split_folders_and_archives_are_found() {
    let machine = Machine::new();
    machine.headers("x");
    machine.library("x/one/libllama.so.0.6.0", LLAMA);
    machine.library("x/two/libggml-base.so.0.9", &GGML[..1]);
    machine.library("x/two/libggml-cpu.so.0.9", &GGML[1..]);
    std::os::unix::fs::symlink("libllama.so.0.6.0", machine.path("x/one/libllama.so.0")).unwrap();
    let found = machine.discover(Lane::Llama, &[("CROSSVAL_RPATH_LLAMA", "x/one:x/two")]);
    let reference = found.reference.expect("split folders");
    assert_eq!(reference.libraries.len(), 3);
    assert_eq!(reference.capabilities, [Capability::Cpu]);
    machine.headers("static");
    machine.library("static/lib/libllama.a", LLAMA);
    machine.library("static/lib/libggml.a", GGML);
    let found = machine.discover(Lane::Llama, &[("LLAMA_CPP_DIR", "static")]);
    assert!(found.reference.expect("archives").libraries.iter().all(|library| library.is_archive));
}

#[test]
fn precedence_and_every_reason_are_told() {
    let machine = Machine::new();
    for dir in ["first", "second", "home/.cache/llama_cpp"] {
        machine.headers(dir);
        machine.library(&format!("{dir}/lib/libllama.so"), LLAMA);
        machine.library(&format!("{dir}/lib/libggml.so"), GGML);
    }
    let both = [("BITNET_CROSSVAL_LIBDIR", "first/lib"), ("LLAMA_CPP_DIR", "second")];
    let found = machine.discover(Lane::Llama, &both);
    assert_eq!(found.reference.as_ref().unwrap().origin, "BITNET_CROSSVAL_LIBDIR");
    assert!(Machine::why(&found, "LLAMA_CPP_DIR").contains("an earlier place was taken"));
    assert_eq!(machine.discover(Lane::Llama, &both[1..]).reference.unwrap().origin, "LLAMA_CPP_DIR");
    assert_eq!(machine.discover(Lane::Llama, &[]).reference.unwrap().origin, "~/.cache/llama_cpp");
    let bitnet = machine.discover(Lane::Bitnet, &both);
    assert!(Machine::why(&bitnet, "BITNET_CROSSVAL_LIBDIR").contains("cannot run ggml type 36"));
    assert_eq!(Machine::why(&bitnet, "BITNET_CPP_DIR"), "not set");
}

#[test]
fn what_is_missing_or_broken_is_said() {
    let machine = Machine::new();
    let why =
        |dir: &str| Machine::why(&machine.discover(Lane::Llama, &[("LLAMA_CPP_DIR", dir)]), "LLAMA_CPP_DIR");
    assert!(why("nowhere").contains("is not a folder"));
    fs::create_dir(machine.path("empty")).unwrap();
    assert!(why("empty").contains("holds no libllama"));
    machine.library("half/libllama.so", LLAMA);
    assert!(why("half").contains("libggml is missing"));
    machine.library("half/libggml.so", GGML);
    assert!(why("half").contains("no llama.h"));
    fs::create_dir(machine.path("broken")).unwrap();
    fs::write(machine.path("broken/libllama.so"), "\u{7f}ELF and nothing else").unwrap();
    assert!(why("broken").contains("broken/libllama.so: "), "{}", why("broken"));
}
