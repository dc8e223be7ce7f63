"""datatrove: its four MinHash stages, one task each; whole connected components of candidates go."""

import contextlib
import sys
import tempfile

from answer import answer, asked, measured, read_texts
from datatrove.data import Document
from steps import minhash_stages

given = asked()
documents = [Document(text, str(number)) for number, text in enumerate(read_texts(given["corpus"]))]
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
    signatures, between, keep = minhash_stages(folder, given)
    list(signatures.run([Document("a few words to load its tokenizer", "0")]) or ())
    with measured() as cost:
        list(signatures.run(documents) or ())
        between()
        kept = [int(document.id) for document in keep.run(documents)]
answer(kept=kept, **cost)
