"""Rensa: its deduplicator in batches, over shingles made in Python; candidates are compared by their signatures."""

from answer import answer, asked, measured, read_texts, shingles
from rensa import RMinHashDeduplicator

BATCH = 1000
given = asked()
texts = read_texts(given["corpus"])
kept = []
with measured() as cost:
    # How many bands, it chooses itself: its signatures must be cut evenly.
    index = RMinHashDeduplicator(given["threshold"], given["permutations"], True)
    for first in range(0, len(texts), BATCH):
        batch = enumerate(texts[first : first + BATCH], first)
        new = index.add_pairs([(str(number), list(shingles(text, given["ngram"]))) for number, text in batch])
        kept += [number for number, is_new in enumerate(new, first) if is_new]
answer(kept=kept, **cost)
