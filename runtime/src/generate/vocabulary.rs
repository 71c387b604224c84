//! The tokenizer of a GGUF file: its `tokenizer.ggml.*` keys as a [`TokenizerSpec`].

use crate::Result;
use crate::gguf::Gguf;
use crate::tokenizer::{Tokenizer, TokenizerSpec};

/// Builds the tokenizer that `gguf` describes, with warnings for the user.
///
/// # Errors
/// Keys that are missing or of another type, more tokens than the embedding has rows, and those of
/// [`Tokenizer::new`].
pub fn load_tokenizer(gguf: &Gguf) -> Result<(Tokenizer, Vec<String>)> {
    let text = |key: &str| Ok::<_, crate::Error>(gguf.opt_str(key)?.map(str::to_owned));
    let id = |name: &str| gguf.opt_u32(&format!("tokenizer.ggml.{name}_token_id"));
    let flag = |name: &str| gguf.opt_bool(&format!("tokenizer.ggml.{name}"));
    let vocab_size = format!("{}.vocab_size", gguf.opt_str("general.architecture")?.unwrap_or_default());
    let embedding_rows = gguf.tensors().iter().find(|info| info.name == "token_embd.weight");
    let embedding_rows = embedding_rows.and_then(|info| u32::try_from(*info.dims.get(1)?).ok());
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    if let Some(rows) = embedding_rows
        && (rows as usize) < tokens.len()
    {
        let reason = format!("has {rows} rows, but tokenizer.ggml.tokens lists {} tokens", tokens.len());
        return Err(gguf.bad_tensor("token_embd.weight", reason));
    }
    let spec = TokenizerSpec {
        model: gguf.str("tokenizer.ggml.model")?.to_owned(),
        pre: text("tokenizer.ggml.pre")?,
        tokens: tokens.iter().map(<[u8]>::to_vec).collect(),
        token_types: gguf.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
        scores: gguf.opt_f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        merges: match gguf.opt_strings("tokenizer.ggml.merges")? {
            Some(merges) => merges.iter_lossy().map(|merge| merge.into_owned()).collect(),
            None => Vec::new(),
        },
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        unknown: id("unknown")?,
        padding: id("padding")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        vocab_size: gguf.opt_u32(&vocab_size)?.or(embedding_rows),
        chat_template: text("tokenizer.chat_template")?,
    };
    Tokenizer::new(spec, gguf.path())
}
