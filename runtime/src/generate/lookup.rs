//! Prompt lookup: guessing the next tokens from what followed the latest ones when they occurred before.
//!
//! In: the tokens so far. Out: a part of them. Guesses cost a pass over more rows and nothing else: a row of a batch
//! gives what it gives alone, so the token after a right guess is the one that would have been chosen anyway (A. Saxena,
//! "Prompt Lookup Decoding", 2023). Deliberately absent: a second model.

/// Longest and shortest run of latest tokens that must have occurred before.
const LONGEST: usize = 3;
const SHORTEST: usize = 2;

pub(super) struct Lookup {
    /// Tokens guessed at most; 0 guesses none.
    pub most: usize,
}

impl Lookup {
    /// Up to `room` tokens that may come after `context`, which hold what followed the latest earlier occurrence of the
    /// longest run of its last tokens.
    pub(super) fn guess<'a>(&self, context: &'a [u32], room: usize) -> &'a [u32] {
        let most = self.most.min(room);
        if most == 0 {
            return &[];
        }
        for length in (SHORTEST..=LONGEST).rev().filter(|length| *length < context.len()) {
            let (before, last) = (&context[..context.len() - 1], &context[context.len() - length..]);
            if let Some(at) = before.windows(length).rposition(|window| window == last) {
                let after = &context[at + length..];
                return &after[..after.len().min(most)];
            }
        }
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_followed_the_longest_run_is_guessed() {
        let lookup = Lookup { most: 4 };
        assert_eq!(lookup.guess(&[1, 2, 3, 9, 8, 7, 1, 2, 3], 10), [9, 8, 7, 1]);
        assert_eq!(lookup.guess(&[1, 2, 3, 9, 5, 2, 3, 6, 6, 1, 2, 3], 10), [9, 5, 2, 3], "three before two");
        assert_eq!(
            lookup.guess(&[2, 3, 9, 4, 2, 3, 6, 6, 2, 3], 2),
            [6, 6],
            "the latest, and no more than fit"
        );
        assert_eq!(lookup.guess(&[5, 5, 5], 10), [5], "an occurrence may overlap");
        assert!(lookup.guess(&[1, 2, 3, 4], 10).is_empty(), "nothing occurred before");
        assert!(Lookup { most: 0 }.guess(&[1, 2, 1, 2], 10).is_empty());
        assert!(lookup.guess(&[], 3).is_empty());
    }

    /// Few different tokens, so that runs occur again.
    fn context() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0u32..4, 0..40)
    }

    proptest! {
        #[test]
        fn a_guess_never_exceeds_what_is_asked_for_or_fits(context in context(), most in 0usize..9, room in 0usize..9) {
            let guess = Lookup { most }.guess(&context, room);
            prop_assert!(guess.len() <= most.min(room));
        }

        #[test]
        fn a_guess_is_what_followed_an_earlier_occurrence_of_the_last_tokens(context in context(), most in 1usize..9) {
            let guess = Lookup { most }.guess(&context, 9);
            if let Some(first) = guess.first() {
                let last = &context[context.len() - SHORTEST..];
                let followed = (0..context.len() - SHORTEST)
                    .any(|at| context[at..at + SHORTEST] == *last && context[at + SHORTEST] == *first);
                prop_assert!(followed, "{guess:?} after {context:?}");
                prop_assert!(context.windows(guess.len()).any(|window| window == guess));
            }
        }

        #[test]
        fn nothing_is_guessed_only_where_the_last_tokens_are_new(context in context()) {
            let guess = Lookup { most: 4 }.guess(&context, 4);
            let before = &context[..context.len().saturating_sub(1)];
            let known = context.len() > SHORTEST
                && before.windows(SHORTEST).any(|window| *window == context[context.len() - SHORTEST..]);
            prop_assert_eq!(!guess.is_empty(), known);
        }

        #[test]
        fn what_repeats_is_guessed_to_go_on(period in proptest::sample::subsequence((0u32..50).collect::<Vec<_>>(), 1..6), most in 1usize..6) {
            let endless = period.iter().copied().cycle();
            let context: Vec<u32> = endless.clone().take(4 * period.len() + 4).collect();
            let next: Vec<u32> = endless.skip(context.len()).take(most).collect();
            let guess = Lookup { most }.guess(&context, most);
            prop_assert!(!guess.is_empty());
            prop_assert_eq!(guess, &next[..guess.len()]);
        }
    }
}
