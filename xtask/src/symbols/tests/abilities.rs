//! Capabilities: what proves one, what does not, and what a user is told who expected more.

use super::super::capabilities::{self, CAPABILITIES};
use super::{read, report, sample};
use bitforge_schema::exit::ExitCode;

fn found(name: &str) -> Vec<&'static str> {
    let data = std::fs::read(sample(name)).unwrap();
    let libraries = read(name, &data).unwrap();
    capabilities::find(&libraries[0]).into_iter().map(|found| found.name).collect()
}

#[test]
fn each_reference_library_is_recognised() {
    assert_eq!(
        found("libbitnet-i2s.so"),
        ["llama", "llama-api-old", "llama-kv-cache-api", "llama-sampler-api", "ggml", "gguf", "i2s", "cpu"]
    );
    assert_eq!(found("libbitnet-lut.so"), ["ggml", "gguf", "i2s", "tl2", "cpu"]);
    assert_eq!(found("libbitnet-lut-aarch64.so"), ["ggml", "gguf", "i2s", "tl1", "cpu"]);
    assert_eq!(found("libggml-cpu-haswell.so"), ["ggml", "gguf", "cpu", "backend-plugin"]);
    let new = found("libllama-new.so");
    assert!(
        new.contains(&"llama-api-new") && new.contains(&"llama-api-old") && new.contains(&"llama-memory-api")
    );
}

#[test]
fn words_and_look_alikes_prove_nothing() {
    let data = std::fs::read(sample("libcuda-words.so")).unwrap();
    let contains = |word: &str| data.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(
        contains("ggml_backend_cuda_init") && contains("ggml_vec_dot_i2_i8_s") && contains("llama_decode")
    );
    assert_eq!(found("libcuda-words.so"), [""; 0]);
}

#[test]
fn hip_builds_of_the_cuda_backend_are_not_cuda() {
    assert_eq!(found("libggml-cuda.so"), ["cuda"]);
    assert_eq!(found("libggml-hip.so"), ["hip"]);
}

#[test]
fn the_cpu_variant_comes_from_the_soname_of_a_plugin_only() {
    let variant = |name: &str| {
        let data = std::fs::read(sample(name)).unwrap();
        let libraries = read(name, &data).unwrap();
        capabilities::cpu_variant(&libraries[0], &capabilities::find(&libraries[0]))
    };
    assert_eq!(variant("libggml-cpu-haswell.so").as_deref(), Some("haswell"));
    assert_eq!(variant("libbitnet-lut.so"), None);
}

#[test]
fn expectations_are_met_by_the_libraries_together() {
    let (code, _, errors) =
        report(&["bin/libllama-new.so", "bin/libbitnet-lut.so", "--expect", "llama,i2s,tl2"]);
    assert_eq!((code, errors.as_str()), (ExitCode::Ok, ""));
}

#[test]
fn a_missing_capability_names_each_symbol_and_its_source() {
    let (code, _, errors) = report(&["bin/libllama-new.so", "--expect", "llama,i2s,cuda"]);
    assert_eq!(code, ExitCode::CheckFailed);
    insta::assert_snapshot!(errors, @r"
    error: expected i2s, which no given library has
      missing ggml_vec_dot_i2_i8_s: brought by libggml of bitnet.cpp, any variant (libggml-cpu since 2026); llama.cpp has no I2_S
    error: expected cuda, which no given library has
      missing ggml_backend_cuda_init: brought by libggml-cuda of llama.cpp built with -DGGML_CUDA=ON
      missing ggml_backend_cuda_reg: brought by libggml-cuda of llama.cpp built with -DGGML_CUDA=ON
      missing ggml_backend_is_cuda: brought by libggml-cuda of llama.cpp built with -DGGML_CUDA=ON
    ");
}

#[test]
fn symbols_that_do_not_suffice_are_explained() {
    let explain = |library: &str, name: &str| {
        let (code, _, errors) = report(&[library, "--expect", name]);
        assert_eq!(code, ExitCode::CheckFailed);
        errors
    };
    assert!(explain("bin/libbitnet-lut.so", "tl1").contains("tl1 exists for aarch64 or arm64e or arm"));
    assert!(explain("bin/libggml-hip.so", "cuda").contains("the library uses hipGetDeviceCount"));
    assert!(explain("bin/libggml-cuda.so", "hip").contains("missing a use of hipGetDeviceCount"));
}

#[test]
fn build_scripts_get_every_cfg_checked_and_the_true_ones_set() {
    let (_, out, _) = report(&["bin/libbitnet-i2s.so", "--format", "cfg"]);
    let checked =
        out.lines().filter(|line| line.starts_with("cargo::rustc-check-cfg=cfg(reference_")).count();
    assert_eq!(checked, CAPABILITIES.len() - 2 + 1 + 1, "old and new API are one cfg; bitnet sums up three");
    let set: Vec<&str> =
        out.lines().filter_map(|line| line.strip_prefix("cargo::rustc-cfg=reference_")).collect();
    assert_eq!(
        set,
        [
            "bitnet",
            "cpu",
            "ggml",
            "gguf",
            "i2s",
            "llama",
            "llama_kv_cache_api",
            "llama_sampler_api",
            "llama_api=\"old\""
        ]
    );
}

#[test]
fn every_capability_can_be_proved_and_says_what_brings_it() {
    for capability in CAPABILITIES {
        assert!(!capability.all.is_empty() || !capability.imports_one_of.is_empty(), "{}", capability.name);
        assert!(!capability.brings.is_empty(), "{}", capability.name);
    }
}
