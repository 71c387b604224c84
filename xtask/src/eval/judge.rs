//! Whether a measured perplexity is right, by the goldens of the checkout alone.
//!
//! In: the sums that were measured and [`Settings`]. Out: a [`Judged`]. `eval` and gate 7 of receipts ask the same
//! question here. Deliberately absent: measuring.

use super::settings::{Settings, perplexity};
use crate::receipts::store;
use bitforge_receipt_schema::FileFacts;
use bitforge_receipt_schema::eval::Measured;
use serde::Serialize;

/// One measurement beside its goldens.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub perplexity: f64,
    /// PyTorch's, of the same chunks.
    pub torch: Option<f64>,
    /// Ours, as committed.
    pub golden: Option<f64>,
    /// What is not as it must be.
    pub problems: Vec<String>,
    /// Why nothing can be said, where nothing can.
    pub unknown: Option<String>,
}

impl Judged {
    pub fn holds(&self) -> bool {
        self.problems.is_empty() && self.unknown.is_none()
    }
}

pub fn judge(measured: &Measured, settings: &Settings) -> Judged {
    let chunks = measured.nll.len();
    let ours = perplexity(&measured.nll, measured.scored);
    let mut judged =
        Judged { perplexity: ours, torch: None, golden: None, problems: Vec::new(), unknown: None };
    let Some(model) = settings.model(&measured.model.name) else {
        judged.unknown = Some(format!("{} has no golden", measured.model.name));
        return judged;
    };
    for (what, path, facts) in
        [("model", &model.file, &measured.model), ("text", &model.text, &measured.text)]
    {
        if let Some(problem) = another_file(&settings.root.join(path), facts) {
            judged.problems.push(format!("the {what} {problem}"));
        }
    }
    // Of a chunk of n tokens, those from n / 2 + 1 on are scored.
    let each = u64::from(measured.context - measured.context / 2 - 1);
    if measured.scored != each * chunks as u64 {
        judged.problems.push(format!("{} tokens were scored in {chunks} chunks", measured.scored));
    }
    let torch = settings.torch(model).map_err(|error| format!("{error:#}"));
    // The roundings that differ from PyTorch's do so at random: over fewer chunks they cancel less.
    let whole = torch.as_ref().map_or(0, |torch| torch.nll.len());
    let torch_tolerance = settings.tolerance.torch * (whole as f64 / chunks.max(1) as f64).sqrt().max(1.0);
    let golden = settings.ours.get(&measured.model.name).ok_or("it has no committed golden".to_string());
    let torch = torch.and_then(|torch| torch.of_first(chunks, measured.context));
    let golden = golden.and_then(|golden| golden.of_first(chunks, measured.context));
    for (by, wanted, tolerance) in
        [("PyTorch", &torch, torch_tolerance), ("the committed golden", &golden, settings.tolerance.golden)]
    {
        match wanted {
            Ok(wanted) if (ours / wanted - 1.0).abs() <= tolerance => {}
            Ok(wanted) => judged.problems.push(format!(
                "perplexity {ours:.6} is {:+.1e} from {wanted:.6} of {by}, and {tolerance:.0e} is allowed",
                ours / wanted - 1.0
            )),
            Err(why) => judged.problems.push(format!("cannot be compared with {by}: {why}")),
        }
    }
    (judged.torch, judged.golden) = (torch.ok(), golden.ok());
    judged
}

/// Every measurement of a receipt: what holds, else the first problem; `None` where nothing has a golden.
pub fn judge_all(all: &[Measured], settings: &Settings) -> Option<Result<String, String>> {
    let judged: Vec<Judged> = all.iter().map(|measured| judge(measured, settings)).collect();
    let about = |(measured, judged): (&Measured, &Judged)| {
        judged.problems.first().map(|problem| format!("{}: {problem}", measured.model.name))
    };
    if let Some(problem) = all.iter().zip(&judged).find_map(about) {
        return Some(Err(problem));
    }
    let holding = judged.iter().filter(|judged| judged.holds()).count();
    (holding > 0).then(|| {
        Ok(format!("{holding} of {} perplexities are PyTorch's and the committed ones", judged.len()))
    })
}

fn another_file(path: &std::path::Path, facts: &FileFacts) -> Option<String> {
    match store::sha256(path) {
        Ok(digest) if digest == facts.sha256 => None,
        Ok(_) => Some(format!("{} is another file than {}", facts.name, path.display())),
        Err(error) => Some(format!("{} cannot be compared: {error:#}", facts.name)),
    }
}
