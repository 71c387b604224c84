//! `bitnet tokenize`: text in, token ids out, as `bitnet run` would see them.

use super::args::{Format, TokenizeArgs};
use super::ctx::Ctx;
use super::format::{Align, plain};
use super::json::{Token, TokenizeOutput};
use super::{catalog, prompt};
use bitnet_runtime::Result;
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::gguf::Gguf;

pub fn run(ctx: &mut Ctx, args: &TokenizeArgs) -> Result<()> {
    let source = prompt::source(&args.prompt)?;
    let gguf = Gguf::open(catalog::resolve(&ctx.env, &args.model.model)?, args.model.mapping())?;
    let (tokenizer, warnings) = load_tokenizer(&gguf)?;
    ctx.fall_back(&warnings)?;
    let prompt = prompt::encode(source, &args.chat, &tokenizer, gguf.path())?;
    let token =
        |id: &u32| Token { id: *id, text: String::from_utf8_lossy(tokenizer.token_bytes(*id)).into() };
    let tokens: Vec<Token> = prompt.tokens.iter().map(token).collect();
    match ctx.format {
        Format::Json => ctx.print_json(&TokenizeOutput {
            model: gguf.path().display().to_string(),
            family: tokenizer.family(),
            chat: prompt.template,
            ids: prompt.tokens,
            tokens,
            warnings,
        }),
        Format::Human => {
            let rows: Vec<_> =
                tokens.iter().map(|t| vec![t.id.to_string(), format!("{:?}", t.text)]).collect();
            ctx.print(&plain(&[Align::Right, Align::Left], &rows))
        }
    }
}
