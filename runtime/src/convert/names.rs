//! Names of tensors: Hugging Face's on one side, llama.cpp's on the other.
//!
//! In: a name of a checkpoint. Out: its name in a GGUF file. Source: the mapping of llama.cpp's gguf-py. Some
//! releases call the norms inside the blocks `inner_attn_ln` and `ffn_layernorm`, others `attn_sub_norm` and
//! `ffn_sub_norm`. Deliberately absent: other families' names; they are an error, not left out.

/// (in a layer of the checkpoint, in a block of the GGUF file).
const LAYER: [(&str, &str); 15] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.attn_sub_norm", "attn_sub_norm"),
    ("self_attn.inner_attn_ln", "attn_sub_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.ffn_sub_norm", "ffn_sub_norm"),
    ("mlp.ffn_layernorm", "ffn_sub_norm"),
    ("mlp.down_proj", "ffn_down"),
];

/// What a name of a checkpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The tensor of this name in the GGUF file.
    Tensor(String),
    /// The scale that belongs to the weight of this name in the checkpoint.
    WeightScale(String),
    /// Something computed from the configuration (`rotary_emb.inv_freq`).
    Derived,
    Unknown,
}

pub fn meaning(name: &str) -> Meaning {
    let tensor = |name: &str| Meaning::Tensor(name.to_owned());
    if let Some(weight) = name.strip_suffix("_scale").filter(|weight| weight.ends_with(".weight")) {
        return Meaning::WeightScale(weight.to_owned());
    }
    // Models for embeddings are stored without the class around them.
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name {
        "embed_tokens.weight" => return tensor("token_embd.weight"),
        "norm.weight" => return tensor("output_norm.weight"),
        "lm_head.weight" => return tensor("output.weight"),
        _ => {}
    }
    if name.ends_with(".rotary_emb.inv_freq") {
        return Meaning::Derived;
    }
    let layer = || {
        let (index, part) = name.strip_prefix("layers.")?.split_once('.')?;
        let index: u32 = index.parse().ok().filter(|number: &u32| number.to_string() == index)?;
        let part = part.strip_suffix(".weight")?;
        let (_, ours) = LAYER.iter().find(|(theirs, _)| *theirs == part)?;
        Some(Meaning::Tensor(format!("blk.{index}.{ours}.weight")))
    };
    layer().unwrap_or(Meaning::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_the_inner_norms_mean_the_same() {
        let tensor = |name: &str| meaning(name);
        let inner = Meaning::Tensor("blk.3.attn_sub_norm.weight".into());
        assert_eq!(tensor("model.layers.3.self_attn.inner_attn_ln.weight"), inner);
        assert_eq!(tensor("model.layers.3.self_attn.attn_sub_norm.weight"), inner);
        assert_eq!(
            meaning("model.layers.0.mlp.up_proj.weight_scale"),
            Meaning::WeightScale("model.layers.0.mlp.up_proj.weight".into())
        );
        let bare = meaning("layers.3.self_attn.q_norm.weight");
        assert_eq!(bare, Meaning::Tensor("blk.3.attn_q_norm.weight".into()));
        assert_eq!(bare, meaning("model.layers.3.self_attn.q_norm.weight"));
        for unknown in ["model.layers.03.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "x", ""]
        {
            assert_eq!(meaning(unknown), Meaning::Unknown, "{unknown}");
        }
    }
}
