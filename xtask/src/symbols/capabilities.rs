//! What a library is able to do, concluded from exact symbol names.
//!
//! In: a `Library` with sorted exports. Out: the capabilities it has, each with the symbols that prove it.
//! A name counts only if it is exported (or, for the conditions on imports, undefined) under exactly that
//! spelling; text in data, file names and look-alikes prove nothing. Sources of the names: `llama.h`,
//! `ggml*.h` and `ggml/src` of llama.cpp (2024 to 2026), and `ggml-bitnet.h`, `ggml-bitnet-mad.cpp`,
//! `ggml-bitnet-lut.cpp` and `utils/codegen_tl*.py` of bitnet.cpp.

use super::model::{Library, text};

/// One thing a library may be able to do.
pub(crate) struct Capability {
    pub(crate) name: &'static str,
    /// Exports that prove it; all of them are needed.
    pub(crate) all: &'static [&'static str],
    /// Exports that add to the evidence where they are.
    pub(crate) also: &'static [&'static str],
    /// One of these has to be undefined, if any are given.
    pub(crate) imports_one_of: &'static [&'static str],
    /// None of these may be undefined.
    pub(crate) imports_none_of: &'static [&'static str],
    /// Machines it exists for; empty for all.
    pub(crate) machines: &'static [&'static str],
    /// The library and the build flag that bring it.
    pub(crate) brings: &'static str,
}

const NONE: Capability = Capability {
    name: "",
    all: &[],
    also: &[],
    imports_one_of: &[],
    imports_none_of: &[],
    machines: &[],
    brings: "",
};

/// Exports of both lookup-table kernels of bitnet.cpp; which of the two is a matter of the machine, as
/// each is written in the intrinsics of one.
const LUT: &[&str] = &[
    "ggml_bitnet_can_mul_mat",
    "ggml_bitnet_init",
    "ggml_bitnet_mul_mat_get_wsize",
    "ggml_bitnet_transform_tensor",
    "ggml_preprocessor",
    "ggml_qgemm_lut",
];

/// The calls by which HIP and MUSA builds of the CUDA backend give themselves away.
const NOT_CUDA: &[&str] = &["hipGetDeviceCount", "musaGetDeviceCount"];
const CUDA: &[&str] = &["ggml_backend_cuda_init", "ggml_backend_cuda_reg", "ggml_backend_is_cuda"];

/// Every capability that can be found and asked for.
pub(crate) const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "llama",
        all: &["llama_backend_init", "llama_decode", "llama_get_logits_ith", "llama_tokenize"],
        brings: "libllama of llama.cpp or bitnet.cpp",
        ..NONE
    },
    Capability {
        name: "llama-api-old",
        all: &[
            "llama_free_model",
            "llama_load_model_from_file",
            "llama_n_vocab",
            "llama_new_context_with_model",
        ],
        brings: "libllama of bitnet.cpp, or of llama.cpp (there as deprecated functions)",
        ..NONE
    },
    Capability {
        name: "llama-api-new",
        all: &[
            "llama_init_from_model",
            "llama_model_free",
            "llama_model_get_vocab",
            "llama_model_load_from_file",
            "llama_vocab_n_tokens",
        ],
        brings: "libllama of llama.cpp of January 2025 or later",
        ..NONE
    },
    Capability {
        name: "llama-kv-cache-api",
        all: &["llama_kv_cache_clear", "llama_kv_cache_seq_rm"],
        brings: "libllama of bitnet.cpp, or of llama.cpp up to early 2025",
        ..NONE
    },
    Capability {
        name: "llama-kv-self-api",
        all: &["llama_kv_self_clear", "llama_kv_self_seq_rm"],
        brings: "libllama of llama.cpp of spring 2025",
        ..NONE
    },
    Capability {
        name: "llama-memory-api",
        all: &["llama_get_memory", "llama_memory_clear", "llama_memory_seq_rm"],
        brings: "libllama of llama.cpp of summer 2025 or later",
        ..NONE
    },
    Capability {
        name: "llama-sampler-api",
        all: &["llama_sampler_chain_add", "llama_sampler_chain_init", "llama_sampler_sample"],
        brings: "libllama of llama.cpp or bitnet.cpp of September 2024 or later",
        ..NONE
    },
    Capability {
        name: "ggml",
        all: &["ggml_init", "ggml_mul_mat", "ggml_new_tensor", "ggml_row_size"],
        brings: "libggml-base of llama.cpp, or libggml of bitnet.cpp",
        ..NONE
    },
    Capability {
        name: "gguf",
        all: &["gguf_get_n_tensors", "gguf_init_from_file"],
        brings: "libggml-base of llama.cpp, or libggml of bitnet.cpp",
        ..NONE
    },
    Capability {
        name: "tq",
        all: &["quantize_tq1_0", "quantize_tq2_0"],
        brings: "libggml-base of llama.cpp, or libggml of bitnet.cpp, of September 2024 or later",
        ..NONE
    },
    Capability {
        name: "i2s",
        all: &["ggml_vec_dot_i2_i8_s"],
        also: &["ggml_gemm_i2_i8_s", "ggml_gemv_i2_i8_s", "quantize_i2_s", "quantize_row_i8_s"],
        brings: "libggml of bitnet.cpp, any variant (libggml-cpu since 2026); llama.cpp has no I2_S",
        ..NONE
    },
    Capability {
        name: "tl1",
        all: LUT,
        machines: &["aarch64", "arm64e", "arm"],
        brings: "libggml of bitnet.cpp built for ARM with -DBITNET_ARM_TL1=ON",
        ..NONE
    },
    Capability {
        name: "tl2",
        all: LUT,
        machines: &["x86_64"],
        brings: "libggml of bitnet.cpp built for x86-64 with -DBITNET_X86_TL2=ON",
        ..NONE
    },
    Capability {
        name: "cpu",
        all: &["ggml_backend_cpu_init", "ggml_backend_cpu_reg", "ggml_backend_cpu_set_n_threads"],
        brings: "libggml-cpu of llama.cpp (-DGGML_CPU=ON, the default), or libggml of bitnet.cpp",
        ..NONE
    },
    Capability {
        name: "cpu-repack",
        all: &["_Z35ggml_backend_cpu_repack_buffer_typev"],
        brings: "libggml-cpu of llama.cpp built with -DGGML_CPU_REPACK=ON, the default",
        ..NONE
    },
    Capability {
        name: "cpu-amx",
        all: &["_Z28ggml_backend_amx_buffer_typev"],
        brings: "libggml-cpu of llama.cpp built with -DGGML_AMX_TILE=ON -DGGML_AMX_INT8=ON",
        ..NONE
    },
    Capability {
        name: "cpu-hbm",
        all: &["_Z32ggml_backend_cpu_hbm_buffer_typev"],
        brings: "libggml-cpu of llama.cpp built with -DGGML_CPU_HBM=ON",
        ..NONE
    },
    Capability {
        name: "cpu-kleidiai",
        all: &["_Z37ggml_backend_cpu_kleidiai_buffer_typev"],
        brings: "libggml-cpu of llama.cpp built for ARM with -DGGML_CPU_KLEIDIAI=ON",
        ..NONE
    },
    Capability {
        name: "cpu-llamafile",
        all: &["llamafile_sgemm"],
        brings: "libggml-cpu of llama.cpp, or libggml of bitnet.cpp, built with -DGGML_LLAMAFILE=ON",
        ..NONE
    },
    Capability {
        name: "openmp",
        imports_one_of: &["GOMP_parallel", "__kmpc_fork_call"],
        brings: "libggml-cpu of llama.cpp, or libggml of bitnet.cpp, built with -DGGML_OPENMP=ON",
        ..NONE
    },
    Capability {
        name: "backend-plugin",
        all: &["ggml_backend_init"],
        also: &["ggml_backend_score"],
        brings: "a libggml-<backend> of llama.cpp built with -DGGML_BACKEND_DL=ON",
        ..NONE
    },
    Capability {
        name: "cuda",
        all: CUDA,
        imports_none_of: NOT_CUDA,
        brings: "libggml-cuda of llama.cpp built with -DGGML_CUDA=ON",
        ..NONE
    },
    Capability {
        name: "hip",
        all: CUDA,
        imports_one_of: &["hipGetDeviceCount"],
        brings: "libggml-hip of llama.cpp built with -DGGML_HIP=ON",
        ..NONE
    },
    Capability {
        name: "musa",
        all: CUDA,
        imports_one_of: &["musaGetDeviceCount"],
        brings: "libggml-musa of llama.cpp built with -DGGML_MUSA=ON",
        ..NONE
    },
    Capability {
        name: "metal",
        all: &["ggml_backend_is_metal", "ggml_backend_metal_init", "ggml_backend_metal_reg"],
        brings: "libggml-metal of llama.cpp built with -DGGML_METAL=ON",
        ..NONE
    },
    Capability {
        name: "vulkan",
        all: &["ggml_backend_is_vk", "ggml_backend_vk_init", "ggml_backend_vk_reg"],
        brings: "libggml-vulkan of llama.cpp built with -DGGML_VULKAN=ON",
        ..NONE
    },
    Capability {
        name: "sycl",
        all: &["ggml_backend_is_sycl", "ggml_backend_sycl_init", "ggml_backend_sycl_reg"],
        brings: "libggml-sycl of llama.cpp built with -DGGML_SYCL=ON",
        ..NONE
    },
    Capability {
        name: "opencl",
        all: &["ggml_backend_is_opencl", "ggml_backend_opencl_init", "ggml_backend_opencl_reg"],
        brings: "libggml-opencl of llama.cpp built with -DGGML_OPENCL=ON",
        ..NONE
    },
    Capability {
        name: "cann",
        all: &["ggml_backend_cann_init", "ggml_backend_cann_reg", "ggml_backend_is_cann"],
        brings: "libggml-cann of llama.cpp built with -DGGML_CANN=ON",
        ..NONE
    },
    Capability {
        name: "blas",
        all: &["ggml_backend_blas_init", "ggml_backend_blas_reg", "ggml_backend_is_blas"],
        brings: "libggml-blas of llama.cpp built with -DGGML_BLAS=ON",
        ..NONE
    },
    Capability {
        name: "rpc",
        all: &["ggml_backend_is_rpc", "ggml_backend_rpc_init", "ggml_backend_rpc_reg"],
        brings: "libggml-rpc of llama.cpp built with -DGGML_RPC=ON",
        ..NONE
    },
    Capability {
        name: "kompute",
        all: &["ggml_backend_is_kompute", "ggml_backend_kompute_init"],
        brings: "libggml of bitnet.cpp, or llama.cpp of 2024, built with -DGGML_KOMPUTE=ON",
        ..NONE
    },
];

/// The names that `--expect` takes.
pub(crate) fn names() -> Vec<&'static str> {
    CAPABILITIES.iter().map(|capability| capability.name).collect()
}

/// The capability called `name`.
pub(crate) fn by_name(name: &str) -> Option<&'static Capability> {
    CAPABILITIES.iter().find(|capability| capability.name == name)
}

/// A capability that a library has, and the symbols that prove it.
pub(crate) struct Found {
    pub(crate) name: &'static str,
    /// As the library spells them.
    pub(crate) evidence: Vec<String>,
}

/// What `library` is able to do, in the order of [`CAPABILITIES`].
pub(crate) fn find(library: &Library<'_>) -> Vec<Found> {
    CAPABILITIES
        .iter()
        .filter_map(|capability| Some(Found { name: capability.name, evidence: prove(capability, library)? }))
        .collect()
}

/// The evidence that `library` has `capability`, `None` where it does not.
pub(crate) fn prove(capability: &Capability, library: &Library<'_>) -> Option<Vec<String>> {
    if !capability.machines.is_empty() && !capability.machines.contains(&library.machine.as_str()) {
        return None;
    }
    let export = |name: &&str| library.find_export(name).map(|symbol| text(&symbol.name).into_owned());
    let import = |name: &&str| library.find_import(name).map(|symbol| text(&symbol.name).into_owned());
    let mut evidence = capability.all.iter().map(export).collect::<Option<Vec<_>>>()?;
    if capability.imports_none_of.iter().any(|name| import(name).is_some()) {
        return None;
    }
    let imports: Vec<String> = capability.imports_one_of.iter().filter_map(import).collect();
    if imports.is_empty() && !capability.imports_one_of.is_empty() {
        return None;
    }
    evidence.extend(capability.also.iter().filter_map(export).chain(imports));
    Some(evidence)
}

/// Old and new spellings of one function of the llama API.
pub(crate) const LLAMA_PAIRS: &[(&str, &str)] = &[
    ("llama_load_model_from_file", "llama_model_load_from_file"),
    ("llama_free_model", "llama_model_free"),
    ("llama_new_context_with_model", "llama_init_from_model"),
    ("llama_n_vocab", "llama_vocab_n_tokens"),
    ("llama_n_embd", "llama_model_n_embd"),
    ("llama_token_bos", "llama_vocab_bos"),
    ("llama_kv_cache_clear", "llama_memory_clear"),
    ("llama_lora_adapter_init", "llama_adapter_lora_init"),
];

/// Which spellings `library` exports of a pair: "old", "new", "both" or "none".
pub(crate) fn pair(library: &Library<'_>, (old, new): (&str, &str)) -> &'static str {
    match (library.find_export(old).is_some(), library.find_export(new).is_some()) {
        (true, true) => "both",
        (true, false) => "old",
        (false, true) => "new",
        (false, false) => "none",
    }
}

/// The generation of the llama API that callers of `found` should be written for.
pub(crate) fn llama_generation(found: &[Found]) -> Option<&'static str> {
    let has = |name| found.iter().any(|found| found.name == name);
    match () {
        () if has("llama-api-new") => Some("new"),
        () if has("llama-api-old") => Some("old"),
        () => None,
    }
}

/// The CPU that a backend plugin was compiled for. Symbols cannot tell, the soname `libggml-cpu-NAME` that
/// llama.cpp's build gives its variants can; the file must be a CPU backend plugin by its symbols too.
pub(crate) fn cpu_variant(library: &Library<'_>, found: &[Found]) -> Option<String> {
    let has = |name| found.iter().any(|found| found.name == name);
    let name = library.name.as_deref()?.rsplit(['/', '\\']).next()?;
    let variant = name.strip_prefix("lib").unwrap_or(name).strip_prefix("ggml-cpu-")?;
    let variant = variant.split(['.']).next()?;
    (has("backend-plugin") && has("cpu") && !variant.is_empty()).then(|| variant.to_owned())
}
