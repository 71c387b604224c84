//! What the C++ references would say of a model file: llama.cpp and bitnet.cpp, of the pinned crates (tools/pins.toml).
//!
//! In: a file's header. Out: whether each loads it, and why not, or in what it differs. The lists are read out of the
//! references' sources; a test compares them where the crates are on this machine. Deliberately absent: running them
//! (`cargo xtask crossval`).

use super::digest::sha256;
use crate::gguf::Gguf;
use crate::tensor::{TensorType, foreign_type_name};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub reference: &'static str,
    /// Crate and version.
    pub version: &'static str,
    pub loads: bool,
    /// Why not, or what to know.
    pub notes: Vec<String>,
}

struct Reference {
    name: &'static str,
    version: &'static str,
    architectures: &'static str,
    /// Ids at or above this do not exist.
    types: u32,
    /// Ids that once existed or belong to the other.
    without: &'static [u32],
    /// Names of `tokenizer.ggml.pre`.
    pre: &'static str,
}

const LLAMA: Reference = Reference {
    name: "llama.cpp",
    version: "llama-cpp-sys-2 0.1.161",
    architectures: "clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert \
        nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe \
        qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe clef qwen4exp phi2 phi3 phimoe plamo \
        plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant \
        gemma-embedding starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo \
        olmo2 olmoe muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 \
        glm4moe glm-dsa bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe \
        rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid graniteswitch granite_swa chameleon \
        wavtokenizer-dec plm bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5 \
        ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker \
        llada llada-moe seed_oss grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1 \
        pangu-embedded mistral3 eagle3 dflash mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder \
        kimi-linear kimi-k3 glm5-next talkie mellum nanbeige qwen3tts pockettts",
    types: 43,
    without: &[4, 5, 31, 32, 33, 36, 37, 38],
    pre: "",
};

const BITNET: Reference = Reference {
    name: "bitnet.cpp",
    version: "bitnet-cpp-sys 0.0.5",
    architectures: "llama falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert nomic-bert jina-bert-v2 \
        bloom stablelm qwen qwen2 qwen2moe phi2 phi3 plamo codeshell orion internlm2 minicpm minicpm3 gemma gemma2 \
        starcoder2 mamba xverse command-r dbrx olmo olmoe openelm arctic deepseek2 chatglm bitnet t5 t5encoder jais \
        nemotron exaone rwkv6 granite granitemoe chameleon",
    types: 40,
    without: &[4, 5],
    pre: "default llama3 llama-v3 llama-bpe deepseek-llm deepseek-coder falcon falcon3 mpt starcoder gpt-2 phi-2 \
        jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code refact command-r qwen2 stablelm2 olmo dbrx \
        smaug-bpe poro-chat chatglm-bpe viking jais tekken smollm codeshell bloom gpt3-finnish exaone chameleon",
};

/// What each reference would say of `gguf`.
pub fn verdicts(gguf: &Gguf) -> Vec<Verdict> {
    [&LLAMA, &BITNET].into_iter().map(|reference| reference.judge(gguf)).collect()
}

impl Reference {
    fn judge(&self, gguf: &Gguf) -> Verdict {
        let text = |key: &str| gguf.opt_str(key).ok().flatten();
        let architecture = text("general.architecture").unwrap_or("none");
        let mut refusals = Vec::new();
        let mut notes = Vec::new();
        if !self.architectures.split_whitespace().any(|known| known == architecture) {
            refusals.push(format!("it does not know the architecture {architecture}"));
        }
        let mut types: BTreeMap<u32, usize> = BTreeMap::new();
        gguf.tensors().iter().for_each(|info| *types.entry(info.type_id).or_default() += 1);
        for (id, count) in types {
            let name = TensorType::from_id(id).map(|ty| ty.name()).or(foreign_type_name(id));
            let name = name.unwrap_or("an unknown type");
            if id >= self.types || self.without.contains(&id) {
                refusals.push(format!("it has no tensor type {id} ({name}), which {count} tensors have"));
            } else if self.name == BITNET.name && matches!(id, 38 | 39) {
                notes.push(format!(
                    "it reads {name} only in a build whose kernels were generated for these shapes"
                ));
            }
        }
        let pre = text("tokenizer.ggml.pre");
        if text("tokenizer.ggml.model") == Some("gpt2") {
            match pre {
                None => notes.push("it takes the default pre-tokenizer, since the file names none".into()),
                Some(pre)
                    if !self.pre.is_empty() && !self.pre.split_whitespace().any(|known| known == pre) =>
                {
                    refusals.push(format!("it does not know the pre-tokenizer {pre}"));
                }
                Some(_) => {}
            }
        }
        let activation = text(&format!("{architecture}.hidden_activation"));
        if architecture == "bitnet" && activation.is_some_and(|activation| activation.starts_with("relu")) {
            notes.push("it applies SiLU where the file asks for squared ReLU: other results".into());
        }
        let ternary = |info: &crate::gguf::TensorInfo| matches!(info.type_id, 34 | 35);
        if self.name == LLAMA.name && gguf.tensors().iter().any(ternary) {
            notes.push(
                "it quantizes activations per block of 256: compare with --activation-quant block256".into(),
            );
        }
        let loads = refusals.is_empty();
        refusals.append(&mut notes);
        Verdict { reference: self.name, version: self.version, loads, notes: refusals }
    }
}

/// Of a chat template's text.
pub fn template_digest(template: &str) -> String {
    sha256(template.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Mapping;
    use std::path::{Path, PathBuf};

    fn judged(name: &str) -> Vec<Verdict> {
        let path = format!("{}/../fixtures/gguf/ok/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        verdicts(&Gguf::open(path, Mapping::Read).unwrap())
    }

    #[test]
    fn the_two_references_take_different_files() {
        let loads = |name: &str| judged(name).iter().map(|verdict| verdict.loads).collect::<Vec<_>>();
        assert_eq!(loads("llama-q4_0"), [true, true]);
        assert_eq!(loads("bitnet-tq2_0"), [true, true]);
        assert_eq!(loads("bitnet-i2_s"), [false, true]);
        assert_eq!(loads("bitnet-b158-i2_s"), [false, false]);
        assert!(judged("bitnet-i2_s")[0].notes[0].starts_with("it has no tensor type 36 (I2_S)"));
        assert!(
            judged("bitnet-b158-i2_s")[1].notes[0].contains("does not know the architecture bitnet-b1.58")
        );
    }

    #[test]
    fn the_versions_are_those_that_are_built() {
        let pins = include_str!("../../../tools/pins.toml");
        for reference in [LLAMA, BITNET] {
            let (name, version) = reference.version.split_once(' ').unwrap();
            let pinned = format!("crate = \"{name}\"\nversion = \"{version}\"");
            assert!(pins.contains(&pinned), "{pinned}: read the lists again out of the new sources");
        }
    }

    /// Where the crates are, the lists are those of their sources.
    #[test]
    fn the_lists_are_those_of_the_sources() {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
        let sources = home.map(|home| home.join("registry/src"));
        let registries = sources.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let registries: Vec<PathBuf> = registries.map(|entry| entry.path()).collect();
        for (reference, file) in
            [(&LLAMA, "llama.cpp/src/llama-arch.cpp"), (&BITNET, "bitnet/3rdparty/llama.cpp/src/llama.cpp")]
        {
            let krate = reference.version.replace(' ', "-");
            let path =
                registries.iter().map(|registry| registry.join(&krate).join(file)).find(|path| path.exists());
            let Some(path) = path else {
                eprintln!(
                    "SKIPPED: the sources of {krate} are not on this machine; `cargo xtask reference build` gets them"
                );
                continue;
            };
            let text = std::fs::read_to_string(path).unwrap();
            let table = text.split("LLM_ARCH_NAMES = {").nth(1).unwrap().split("};").next().unwrap();
            let names: Vec<&str> =
                table.split('"').skip(1).step_by(2).filter(|name| *name != "(unknown)").collect();
            assert_eq!(names, reference.architectures.split_whitespace().collect::<Vec<_>>(), "{krate}");
            if !reference.pre.is_empty() {
                let uses = text.split("tokenizer_pre ==").skip(1).filter_map(|rest| rest.split('"').nth(1));
                assert_eq!(uses.collect::<Vec<_>>(), reference.pre.split_whitespace().collect::<Vec<_>>());
            }
        }
    }
}
