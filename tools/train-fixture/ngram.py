"""The measure to beat: an interpolated Kneser-Ney 5-gram model with modified discounts over the same tokens.

In: the folder that corpus.py filled. Out: the perplexity per token of the validation and the test split, over every
token and over those that a chunked measurement scores, for orders 2 to 6. Source: Chen and Goodman, "An Empirical Study
of Smoothing Techniques for Language Modeling" (1999), section 3; discounts estimated from counts of counts. Deliberately
absent: pruning; every n-gram counts. Usage: ngram.py CORPUS
"""

import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

CONTEXT = 512


def model(train, order, vocabulary):
    """The probability of the last token of a tuple of at most `order`, given those before it."""
    counts = [None] * (order + 1)
    counts[order] = Counter(zip(*(train[i:] for i in range(order))))
    for n in range(order - 1, 0, -1):  # lower orders count the distinct words that come before
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])
    discount, total, kinds = [None] * (order + 1), [None] * (order + 1), [None] * (order + 1)
    for n in range(1, order + 1):
        of = Counter(counts[n].values())
        y = of[1] / (of[1] + 2 * of[2])
        discount[n] = [0.0] + [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]
        total[n], kinds[n] = defaultdict(int), defaultdict(lambda: [0, 0, 0])
        for gram, count in counts[n].items():
            total[n][gram[:-1]] += count
            kinds[n][gram[:-1]][min(count, 3) - 1] += 1

    def probability(gram):
        lower = 1 / vocabulary
        for n in range(1, len(gram) + 1):
            part = gram[len(gram) - n :]
            context = part[:-1]
            whole = total[n].get(context)
            if not whole:
                break
            count = counts[n].get(part, 0)
            spare = sum(d * k for d, k in zip(discount[n][1:], kinds[n][context]))
            lower = (count - discount[n][min(count, 3)] + spare * lower) / whole
        return lower

    return probability


def losses(train, held_out, order, vocabulary):
    """Negative log likelihood of every token of `held_out` but the first."""
    probability = model(train, order, vocabulary)
    return [-math.log(probability(tuple(held_out[max(0, i + 1 - order) : i + 1]))) for i in range(1, len(held_out))]


def main():
    import numpy as np

    folder = Path(sys.argv[1])
    vocabulary = json.loads((folder / "corpus.json").read_text())["vocabulary"]
    ids = {part: np.load(folder / f"{part}.npy").tolist() for part in ("train", "valid", "test")}
    for order in range(2, 7):
        for part in ("valid", "test"):
            nll = losses(ids["train"], ids[part], order, vocabulary)
            whole = len(ids[part]) // CONTEXT * CONTEXT
            scored = [x for i, x in enumerate(nll, 1) if i < whole and i % CONTEXT > CONTEXT // 2]
            shown = [round(math.exp(sum(x) / len(x)), 3) for x in (nll, scored)]
            print(f"order {order} {part}: every token {shown[0]}, tokens scored in chunks of {CONTEXT} {shown[1]}")


if __name__ == "__main__":
    main()
