//! `bitnet quantize`: a GGUF file with other weight types.

use super::args::QuantizeArgs;
use super::ctx::Ctx;
use super::{catalog, rewrite, settings};
use bitnet_runtime::Result;
use bitnet_runtime::gguf::{Gguf, Mapping};
use bitnet_runtime::quantize::{Options, plan};

pub fn run(ctx: &mut Ctx, args: &QuantizeArgs) -> Result<()> {
    let path = catalog::resolve(&ctx.env, &args.input)?;
    let gguf = Gguf::open(&path, Mapping::Mmap)?;
    rewrite::check_out(&args.out, &path, args.rewrite.force)?;
    let options = Options {
        linear: args.r#type,
        embedding: args.rewrite.embedding_type,
        output: args.rewrite.output_type,
        allow_requantize: args.allow_requantize,
        weights: settings::weights(&args.weights)?,
    };
    let plan = plan(&gguf, &options, &args.out)?;
    rewrite::write(ctx, &args.rewrite, &plan, &path, &args.out, Vec::new())
}
