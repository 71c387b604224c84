//! `bitnet perplexity`: how well a model predicts a text, measured as llama.cpp's `llama-perplexity` does.
//!
//! In: a text. Out: exp of the mean negative log likelihood of the scored tokens, with its standard error; with
//! `--json` also the sums of every chunk, the same whichever other chunks are scored. A chunk is evaluated in one go, logits are made for its second half only.
//! Deliberately absent: a sliding window (llama.cpp's `--ppl-stride`), and any judgement (see `cargo xtask eval`).

use super::args::{Chunks, Format, PerplexityArgs};
use super::ctx::Ctx;
use super::json::PerplexityOutput;
use super::progress::Progress;
use super::{prompt, settings, summary};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::tokenizer::{Bos, SpecialTokens};
use bitnet_runtime::{Error, Result};
use std::ops::Range;
use std::time::Instant;

/// Shorter chunks score next to nothing.
const MIN_CONTEXT: usize = 8;

pub fn run(ctx: &mut Ctx, args: &PerplexityArgs) -> Result<()> {
    let (context, wanted) = (args.ctx_size, args.chunks.clone().unwrap_or(Chunks::First(usize::MAX)));
    let is_empty = match &wanted {
        Chunks::First(count) => *count == 0,
        Chunks::Range(range) => range.is_empty(),
    };
    if context < MIN_CONTEXT || is_empty {
        let remedy = format!("give --ctx-size at least {MIN_CONTEXT}, and --chunks at least one");
        return Err(Error::usage("there is nothing to score", remedy));
    }
    let text = prompt::file_text(&args.file)?;
    let (tokenizer, mut engine) = settings::load(ctx, &args.engine, Some(context), |gguf| {
        let (tokenizer, warnings) = load_tokenizer(gguf)?;
        ctx.fall_back(&warnings)?;
        Ok(tokenizer)
    })?;
    ctx.note(engine.selection());
    let trained = engine.model().config.context_length;
    if context > trained {
        ctx.note(format_args!(
            "warning: chunks of {context} tokens, and the model was trained for {trained}"
        ));
    }
    let tokens = tokenizer.encode(&text, SpecialTokens::AsText, Bos::AsFileAsks)?;
    let text_chunks = tokens.len() / context;
    if text_chunks == 0 {
        return Err(Error::usage(
            format!("the text has {} tokens, and a chunk is {context}", tokens.len()),
            "give a longer text or a smaller --ctx-size",
        ));
    }
    let range = part(wanted, text_chunks)?;
    let chunks = range.len();

    let mut progress = Progress::start("scoring");
    let (mut sum, mut nll, mut squares) = (Sum::default(), Vec::new(), Vec::new());
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let started = Instant::now();
    for chunk in tokens.chunks_exact(context).skip(range.start).take(chunks) {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let of_chunk = score(&mut engine, &chunk)?;
        nll.push(of_chunk.nll);
        squares.push(of_chunk.squares);
        sum.join(&of_chunk);
        progress.update(nll.len(), format!("{chunks} chunks, perplexity {:.4}", sum.perplexity()));
    }
    drop(progress);

    let seconds = started.elapsed().as_secs_f64();
    let output = PerplexityOutput {
        model: summary::model(engine.gguf()),
        engine: summary::engine(&engine),
        tokens: tokens.len(),
        ctx_size: context,
        chunks,
        first_chunk: range.start,
        text_chunks,
        scored: sum.count,
        perplexity: sum.perplexity(),
        standard_error: sum.standard_error(),
        nll,
        squares,
        tokens_per_second: (chunks * context) as f64 / seconds,
        kernels: engine.kernel_counts(),
    };
    ctx.note(format_args!("{} tokens of {chunks} chunks scored in {seconds:.1} s", output.scored));
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&format!(
            "Final estimate: PPL = {:.4} +/- {:.5}\n",
            output.perplexity, output.standard_error
        )),
    }
}

/// The chunks to score of a text that has `all`.
fn part(wanted: Chunks, all: usize) -> Result<Range<usize>> {
    match wanted {
        Chunks::First(count) => Ok(0..count.min(all)),
        Chunks::Range(range) if range.end <= all => Ok(range),
        Chunks::Range(range) => Err(Error::usage(
            format!("the text has {all} chunks, and --chunks ends at {}", range.end),
            format!("give --chunks up to {all}"),
        )),
    }
}

/// The negative log likelihoods of the second half of `chunk`: its tokens from `len / 2 + 1` on, each given all before it.
fn score(engine: &mut Engine, chunk: &[u32]) -> Result<Sum> {
    let mut sum = Sum::default();
    let (first, last) = (chunk.len() / 2, chunk.len() - 1);
    engine.reset();
    engine.prefill(&chunk[..first])?;
    engine.logits_all(&chunk[first..last], &mut |row, logits| {
        sum.add(nll(logits, chunk[first + row + 1]));
        Ok(())
    })?;
    Ok(sum)
}

/// Negative log likelihood of `token` in nats, under the softmax of `logits`.
fn nll(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

/// Of negative log likelihoods.
#[derive(Default)]
struct Sum {
    nll: f64,
    squares: f64,
    count: usize,
}

impl Sum {
    fn add(&mut self, nll: f64) {
        self.nll += nll;
        self.squares += nll * nll;
        self.count += 1;
    }

    fn join(&mut self, other: &Sum) {
        self.nll += other.nll;
        self.squares += other.squares;
        self.count += other.count;
    }

    fn perplexity(&self) -> f64 {
        (self.nll / self.count as f64).exp()
    }

    /// Standard error of the mean log likelihood, times the perplexity (the derivative of exp).
    fn standard_error(&self) -> f64 {
        let (n, mean) = (self.count as f64, self.nll / self.count as f64);
        let variance = (self.squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0)).sqrt() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_is_that_of_the_softmax() {
        let logits = [1f32, 2.0, 4.0];
        let whole = 1f64.exp() + 2f64.exp() + 4f64.exp();
        for (token, logit) in logits.iter().enumerate() {
            let expected = -(f64::from(*logit).exp() / whole).ln();
            assert!((nll(&logits, token as u32) - expected).abs() < 1e-12);
        }
        // No overflow where exp of a logit has none.
        assert!((nll(&[1000.0, 1000.0], 0) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(nll(&[f32::NEG_INFINITY, 0.0], 0), f64::INFINITY);
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean_times_the_perplexity() {
        let mut sum = Sum::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|nll| sum.add(nll));
        assert!((sum.perplexity() - 3f64.exp()).abs() < 1e-12);
        // Deviations 2, 1, 0, 3: variance 14 / 4, over n - 1 = 3.
        assert!((sum.standard_error() - (3.5f64 / 3.0).sqrt() * 3f64.exp()).abs() < 1e-12);
        let mut same = Sum::default();
        [0.1, 0.1, 0.1].into_iter().for_each(|nll| same.add(nll));
        assert!(same.standard_error() < 1e-6);
    }
}
