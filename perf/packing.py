"""What packing saves on real articles: waste, and how many sequences fewer, counted by what one sequence held before.

    python perf/packing.py ARCHIVE_OR_FOLDER [--tokenizer FOLDER]

The corpus stage packs the articles into blocks of 2,048 tokens, by concatenation and by best fit; its packing.json says what is
wasted. Beside it stand the sequences that the same text takes unpacked, one a document, one a piece of at most 1,000 words, one
a paragraph (a line of the text), each with BOS and EOS and cut at 2,048 tokens; and what padding batches of 8 of them to their
longest wastes. The paper quotes 88.62 % fewer sequences without saying fewer than what. Written to results/packing.json.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from biomistral.assets import locate
from biomistral.corpus.packing.pieces import split_words
from biomistral.corpus.settings import CorpusSettings
from biomistral.models.load import load_tokenizer
from biomistral.recipe import Input
from biomistral.run import execute

RESULTS = Path(__file__).parent / "results" / "packing.json"
LENGTH, PIECE_WORDS, BATCH, PAPER = 2048, 1000, 8, 0.8862


def packed(source: Path, tokenizer: Path, method: Any, piece_words: int | None, out: Path) -> Path:
    """The corpus, packed; its folder."""
    settings = CorpusSettings(sources=[{"input": Input(source)}], tokenizer=Input(tokenizer), packing=method, heldout=0,
                              sequence_length=LENGTH, piece_words=piece_words, bos="always", tables=False)
    return execute(settings, out).path


def unpacked(lengths: list[int], blocks: int) -> dict[str, Any]:
    """Sequences that texts of these lengths take one by one, how many fewer ``blocks`` are, and what padding them wastes."""
    parts = [min(LENGTH, length - start) for length in lengths for start in range(0, length, LENGTH)]
    random.Random(0).shuffle(parts)
    batches = [parts[start:start + BATCH] for start in range(0, len(parts), BATCH)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    mean = sum(parts) / len(parts)
    return {"sequences": len(parts), "mean_tokens": round(mean, 1), "reduction": round(1 - blocks / len(parts), 4),
            "padding_to_longest_of_8": round(1 - sum(parts) / padded, 4), "padding_to_2048": round(1 - mean / LENGTH, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("articles", type=Path, nargs="?", help="archive or folder of JATS articles (default: the embedded ones)")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer (default: the embedded model's)")
    options = parser.parse_args()
    articles = options.articles or locate("embedded:plos")
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(articles, options.tokenizer, Path(temporary))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def measure(articles: Path, tokenizer: Path | None, folder: Path) -> dict[str, Any]:
    if tokenizer is None:
        from corpus import tokenizer_folder
        tokenizer = tokenizer_folder("embedded:smollm2-135m-instruct", folder)
    result: dict[str, Any] = {}
    for method, words in (("concatenate", PIECE_WORDS), ("best_fit", PIECE_WORDS), ("best_fit", None)):
        name = f"{method}, pieces of {words} words" if words else f"{method}, whole documents"
        corpus = packed(articles, tokenizer, method, words, folder / name)
        train = json.loads((corpus / "packing.json").read_text())["train"]
        total = train["tokens"] + train["waste"]
        result[name] = {"blocks": train["blocks"], "tokens": train["tokens"], "pieces": train["pieces"], "cut": train["cut"],
                          "waste": round(train["waste"] / total, 6)}
    blocks = next(iter(result.values()))["blocks"]
    texts = pq.read_table(corpus / "documents.parquet", columns=["text"])["text"].to_pylist()
    load = load_tokenizer(tokenizer)
    paragraphs = [line for text in texts for line in text.splitlines() if line.strip()]
    units = {"document": texts,
             f"piece of {PIECE_WORDS} words": [part for text in texts for part in split_words(text, PIECE_WORDS)],
             "paragraph or heading": paragraphs,
             "paragraph": [line for line in paragraphs if line.rstrip().endswith((".", ":", ";"))]}
    result["documents"], result["paper"] = len(texts), PAPER
    result["unpacked, one sequence a"] = {
        unit: unpacked([len(ids) + 2 for ids in load(parts, add_special_tokens=False).input_ids], blocks)
        for unit, parts in units.items()}
    return result


if __name__ == "__main__":
    main()
