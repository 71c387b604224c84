//! How a batch of rows is laid out for a device: runs of one sequence, rows that decode, and how attention is cut.
//!
//! In: the sequence and position of every row. Out: numbers for launches. Deliberately absent: memory, launches.

/// Rows `first..first + count` that are evaluated by one kind of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Consecutive positions of one sequence, enough of them to share their keys in tiles.
    Prefill { first: usize, count: usize },
    /// Rows that each look at their own positions.
    Decode { first: usize, count: usize },
}

/// So many consecutive rows of one sequence make a tile worth while.
const TILE_ROWS: usize = 16;

/// Cuts rows, given as (sequence, position), into segments.
pub fn segments<S: PartialEq>(rows: &[(S, usize)]) -> Vec<Segment> {
    let mut found: Vec<Segment> = Vec::new();
    let mut first = 0;
    while first < rows.len() {
        let follows = |i: &usize| rows[*i].0 == rows[first].0 && rows[*i].1 == rows[first].1 + (i - first);
        let count = (first..rows.len()).take_while(follows).count();
        match found.last_mut() {
            _ if count >= TILE_ROWS => found.push(Segment::Prefill { first, count }),
            Some(Segment::Decode { count: known, .. }) => *known += count,
            _ => found.push(Segment::Decode { first, count }),
        }
        first += count;
    }
    found
}

/// Runs that attention over `positions` positions is cut into, for `units` independent pieces of work on a device with
/// `multiprocessors`: (runs, positions of one run).
pub fn runs(positions: usize, units: usize, multiprocessors: usize, most: usize) -> (usize, usize) {
    const SHORTEST: usize = 128;
    let wanted = (2 * multiprocessors).div_ceil(units.max(1));
    let runs = wanted.min(positions.div_ceil(SHORTEST)).clamp(1, most.max(1));
    (runs, positions.div_ceil(runs))
}

/// The next power of two, 256 at least: graphs of launches are kept by it.
pub fn bucket(positions: usize) -> usize {
    positions.next_power_of_two().max(256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prompts_get_tiles_and_the_rest_goes_together() {
        let mut rows: Vec<(u32, usize)> = vec![(1, 9), (2, 5)];
        rows.extend((0..20).map(|i| (3, 40 + i)));
        rows.extend([(4, 1), (4, 2)]);
        let expected = [
            Segment::Decode { first: 0, count: 2 },
            Segment::Prefill { first: 2, count: 20 },
            Segment::Decode { first: 22, count: 2 },
        ];
        assert_eq!(segments(&rows), expected);
        assert_eq!(segments::<u32>(&[]), []);
    }

    proptest! {
        #[test]
        fn segments_cover_every_row_once(rows in proptest::collection::vec((0u8..3, 0usize..3, 1usize..40), 0..12)) {
            let rows: Vec<(u8, usize)> =
                rows.into_iter().flat_map(|(s, p, n)| (0..n).map(move |i| (s, p + i))).collect();
            let mut next = 0;
            for segment in segments(&rows) {
                let (Segment::Prefill { first, count } | Segment::Decode { first, count }) = segment;
                prop_assert_eq!(first, next);
                prop_assert!(count > 0);
                next += count;
                if let Segment::Prefill { .. } = segment {
                    prop_assert!((1..count).all(|i| rows[first + i] == (rows[first].0, rows[first].1 + i)));
                }
            }
            prop_assert_eq!(next, rows.len());
        }

        #[test]
        fn runs_cover_all_positions(positions in 1usize..20_000, units in 1usize..400, most in 1usize..64) {
            let (runs, run) = runs(positions, units, 132, most);
            prop_assert!(runs >= 1 && runs <= most && runs * run >= positions && (runs - 1) * run < positions);
            prop_assert!(bucket(positions) >= positions);
        }
    }
}
