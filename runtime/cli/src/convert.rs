//! `bitnet convert`: a GGUF file from a Hugging Face model directory.

use super::args::{ConvertArgs, WeightScaleArg};
use super::ctx::Ctx;
use super::{rewrite, settings};
use bitnet_runtime::Result;
use bitnet_runtime::convert::{Checkpoint, Computed, Request, ScaleMeaning, plan};

pub fn run(ctx: &mut Ctx, args: &ConvertArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    rewrite::check_out(&args.out, &args.dir, args.rewrite.force)?;
    let request = Request {
        linear: args.outtype,
        embedding: args.rewrite.embedding_type,
        output: args.rewrite.output_type,
        weight_scale: args.weight_scale.map(|meaning| match meaning {
            WeightScaleArg::Multiply => ScaleMeaning::Multiplies,
            WeightScaleArg::Divide => ScaleMeaning::Divides,
        }),
        pre: args.pre.as_deref(),
        name: args.name.as_deref(),
        tl_config: settings::tl_config(args.tl_config.as_deref())?,
    };
    let computed = Computed::new(&checkpoint)?;
    let converted = plan(&checkpoint, &computed, &request, &args.out)?;
    rewrite::write(ctx, &args.rewrite, &converted.plan, &args.dir, &args.out, converted.warnings)
}
