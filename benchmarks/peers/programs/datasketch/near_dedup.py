"""datasketch: MinHash and MinHashLSH over shingles made in Python, as its users do; candidates are not compared."""

from answer import answer, asked, measured, read_texts, shingles
from datasketch import MinHash, MinHashLSH

given = asked()
texts = read_texts(given["corpus"])
kept = []
with measured() as cost:
    bands = (given["bands"], given["rows"])
    index = MinHashLSH(given["threshold"], given["permutations"], params=bands)
    for number, text in enumerate(texts):
        sketch = MinHash(given["permutations"])
        sketch.update_batch([shingle.encode() for shingle in shingles(text, given["ngram"])])
        if not index.query(sketch):
            index.insert(number, sketch)
            kept.append(number)
answer(kept=kept, **cost)
