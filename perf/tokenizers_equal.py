"""Token ids through gigatoken against the Hugging Face tokenizers: equal on every document of an archive, and how fast.

    python perf/tokenizers_equal.py ARCHIVE.tar.gz MODEL_FOLDER...

The corpus stage takes gigatoken only for vocabularies where hard texts give equal ids, and checks one text in 256; this
script checks all of them. CPU seconds of one thread, second pass of two: gigatoken remembers the words it has met.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np

from biomistral.corpus.articles import jats
from biomistral.corpus.packing import encoder
from biomistral.corpus.packing.pieces import packer_for
from biomistral.corpus.sources.archives import articles_in

RESULTS = Path(__file__).parent / "results" / "tokenizers_equal.json"


def timed(made: encoder.Encoder, texts: list[str]) -> tuple[list[list[int]], float]:
    for _ in range(2):
        started = time.process_time()
        ids, lengths = made.encode(texts)
        seconds = time.process_time() - started
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])], seconds


def main(archive: Path, *folders: Path) -> None:
    items = articles_in(archive, 64 << 20)
    texts = [article.text for _, data, *_ in items if isinstance(data, bytes) for article in jats.parse(data)]
    size = round(sum(len(text.encode()) for text in texts) / 1e6, 1)
    found = {"documents": len(texts), "megabytes_of_text": size, "tokenizers": {}}
    for folder in folders:
        packer = packer_for(folder, None, "auto", "piece")
        encoder.CHECKED_ONE_IN = 1 << 40
        ours, seconds = timed(packer.encoder, texts)
        theirs, reference = timed(encoder.Encoder(packer.encoder.tokenizer), texts)
        tokens = sum(map(len, theirs))
        found["tokenizers"][folder.name] = {
            "by": packer.why.partition(":")[0], "tokens": tokens, "vocabulary": packer.vocab_size,
            "documents_with_other_ids": sum(one != two for one, two in zip(ours, theirs, strict=True)),
            "million_tokens_a_second": {"ours": round(tokens / seconds / 1e6, 2),
                                        "tokenizers": round(tokens / reference / 1e6, 2)},
            "ratio": round(reference / seconds, 1)}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
