//! The sums of a text from those of its shards: nothing counted twice, nothing missing.
//!
//! In: [`Shard`]s. Out: [`Sums`], or why they are not of one whole text. `cluster eval` adds up what came back,
//! `receipt verify` what a receipt lists. Deliberately absent: measuring, and trust in a sum that somebody else made.

use bitforge_receipt_schema::cluster::{ClusterEval, Shard};
use bitforge_schema::protocol::KernelCount;
use std::collections::BTreeMap;

/// Of a whole text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Of each chunk, in the order of the text.
    pub nll: Vec<f64>,
    pub scored: u64,
    /// Of the perplexity.
    pub standard_error: f64,
    pub kernels: Vec<KernelCount>,
}

/// Adds up shards in any order.
///
/// # Errors
/// A chunk that is in two shards or in none, numbers that no measurement gives.
pub fn add_up(text_chunks: u32, context: u32, shards: &[Shard]) -> Result<Sums, String> {
    let mut ordered: Vec<&Shard> = shards.iter().collect();
    ordered.sort_by_key(|shard| shard.first_chunk);
    // Of a chunk of n tokens, those from n / 2 + 1 on are scored.
    let each = u64::from(context).saturating_sub(u64::from(context) / 2 + 1);
    let (mut nll, mut squares, mut scored) = (Vec::new(), 0.0, 0);
    let mut kernels: BTreeMap<&str, KernelCount> = BTreeMap::new();
    for shard in ordered {
        let (first, next, chunks) = (shard.first_chunk as usize, nll.len(), shard.nll.len());
        if first != next {
            let what = if first < next { "is counted twice" } else { "is missing" };
            return Err(format!("chunk {} {what}: a shard begins at {first}", first.min(next)));
        }
        if chunks == 0 || shard.squares.len() != chunks || shard.scored != each * chunks as u64 {
            return Err(format!(
                "the shard at chunk {first} has {chunks} sums, {} of squares and {} tokens",
                shard.squares.len(),
                shard.scored
            ));
        }
        if let Some(bad) = shard.nll.iter().chain(&shard.squares).find(|sum| !sum.is_finite() || **sum < 0.0)
        {
            return Err(format!("the shard at chunk {first} has the sum {bad}"));
        }
        nll.extend(&shard.nll);
        squares += shard.squares.iter().sum::<f64>();
        scored += shard.scored;
        for count in &shard.kernels {
            let sum = kernels.entry(&count.id).or_insert_with(|| KernelCount {
                id: count.id.clone(),
                calls: 0,
                rows: 0,
                rescored_rows: 0,
                bytes: 0,
                nanoseconds: 0,
            });
            sum.calls = sum.calls.saturating_add(count.calls);
            sum.rows = sum.rows.saturating_add(count.rows);
            sum.rescored_rows = sum.rescored_rows.saturating_add(count.rescored_rows);
            sum.bytes = sum.bytes.saturating_add(count.bytes);
            sum.nanoseconds = sum.nanoseconds.saturating_add(count.nanoseconds);
        }
    }
    if nll.is_empty() || nll.len() != text_chunks as usize {
        return Err(format!("the shards end at chunk {} of {text_chunks}", nll.len()));
    }
    // As `bitnet perplexity` has it: the standard error of the mean, times the derivative of exp.
    let (n, mean) = (scored as f64, nll.iter().sum::<f64>() / scored as f64);
    let variance = (squares / n - mean * mean).max(0.0);
    let standard_error = (variance / (n - 1.0)).sqrt() * mean.exp();
    Ok(Sums { nll, scored, standard_error, kernels: kernels.into_values().collect() })
}

/// Whether what a receipt says of the whole is what its shards add up to.
///
/// # Errors
/// What differs.
pub fn holds(eval: &ClusterEval) -> Result<(), String> {
    let said = &eval.measured;
    let sums = add_up(eval.text_chunks, said.context, &eval.shards)?;
    // JSON may lose the last place of a number, and every sum on the way here has read it once.
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    if sums.nll.len() != said.nll.len() {
        return Err(format!("{} sums are listed, and its shards have {}", said.nll.len(), sums.nll.len()));
    }
    if let Some(chunk) = (0..sums.nll.len()).find(|&chunk| sums.nll[chunk] != said.nll[chunk]) {
        return Err(format!("chunk {chunk} has another sum in its shard"));
    }
    match () {
        () if sums.scored != said.scored => Err(format!("its shards scored {} tokens", sums.scored)),
        () if !close(sums.standard_error, said.standard_error) => {
            Err(format!("its shards give a standard error of {}", sums.standard_error))
        }
        () if sums.kernels != said.kernels => Err("its shards counted other work of the kernels".into()),
        () => Ok(()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn shard(first_chunk: u32, nll: &[f64]) -> Shard {
        let squares = nll.iter().map(|sum| sum * sum).collect();
        let kernel = KernelCount {
            id: "i2_s.i8.avx2".into(),
            calls: 1,
            rows: 10,
            rescored_rows: 0,
            bytes: 5,
            nanoseconds: 7,
        };
        Shard {
            first_chunk,
            // Of chunks of 4 tokens one is scored.
            scored: nll.len() as u64,
            nll: nll.to_vec(),
            squares,
            kernels: vec![kernel],
            node: "n".into(),
            processor: "p".into(),
            lost: Vec::new(),
        }
    }

    #[test]
    fn a_text_is_the_sum_of_its_shards_in_any_order() {
        let sums = add_up(3, 4, &[shard(1, &[2.0, 6.0]), shard(0, &[1.0])]).unwrap();
        assert_eq!((sums.nll.as_slice(), sums.scored), (&[1.0, 2.0, 6.0][..], 3));
        // Deviations 2, 1 and 3 from the mean of 3: variance 14 / 3, over n - 1.
        assert!((sums.standard_error - (14f64 / 3.0 / 2.0).sqrt() * 3f64.exp()).abs() < 1e-9);
        let kernel = &sums.kernels[0];
        assert_eq!((sums.kernels.len(), kernel.calls, kernel.rows, kernel.bytes), (1, 2, 20, 10));
        assert_eq!((kernel.nanoseconds, kernel.rescored_rows), (14, 0));
    }

    #[test]
    fn nothing_counts_twice_and_nothing_is_missing() {
        let refused = |shards: &[Shard]| add_up(3, 4, shards).unwrap_err();
        let whole = [shard(0, &[1.0]), shard(1, &[2.0, 6.0])];
        assert!(refused(&[&whole[..], &whole[..1]].concat()).contains("chunk 0 is counted twice"));
        assert!(
            refused(&[shard(0, &[1.0, 2.0]), shard(1, &[2.0, 6.0])]).contains("chunk 1 is counted twice")
        );
        assert!(refused(&[shard(0, &[1.0]), shard(2, &[6.0])]).contains("chunk 1 is missing"));
        assert!(refused(&whole[1..]).contains("chunk 0 is missing"));
        assert!(refused(&whole[..1]).contains("end at chunk 1 of 3"));
        assert!(refused(&[shard(0, &[1.0, 2.0, 6.0, 1.0])]).contains("end at chunk 4 of 3"));
        assert!(refused(&[]).contains("end at chunk 0 of 3"));
        assert!(add_up(0, 4, &[]).is_err());
    }

    #[test]
    fn numbers_that_no_measurement_gives_are_refused() {
        let refused = |edit: fn(&mut Shard)| {
            let mut shard = shard(0, &[1.0, 2.0]);
            edit(&mut shard);
            add_up(2, 4, &[shard]).unwrap_err()
        };
        assert!(refused(|shard| shard.nll[1] = f64::NAN).contains("has the sum NaN"));
        assert!(refused(|shard| shard.squares[0] = -1.0).contains("has the sum -1"));
        assert!(refused(|shard| shard.scored = 3).contains("and 3 tokens"));
        assert!(refused(|shard| shard.squares.truncate(1)).contains("2 sums, 1 of squares"));
        assert!(refused(|shard| shard.nll.clear()).contains("has 0 sums"));
        assert!(add_up(1, 0, &[shard(0, &[1.0])]).is_err(), "no token of an empty chunk is scored");
    }
}
