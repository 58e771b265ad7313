"""The usual chain from articles to tokens, timed step by step: pubmed_parser, datatrove's MinHash, Hugging Face tokenizers.

    python corpus_chain.py ARCHIVE.tar.gz TOKENIZER.json EMPTY_FOLDER

Runs in an environment of its own (perf/corpus.py makes it) and prints one JSON object. Each step is what its package's
README shows: files on the disk, every paragraph of the body, MinHash with datatrove's defaults (English, spaCy's words),
`encode_batch`. It has no licence gate, language, quality filter, decontamination or packing.
"""

import json
import resource
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pubmed_parser
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger
from tokenizers import Tokenizer

BATCH = 64


def cpu_seconds() -> float:
    """User and system time of this process, all its threads, and the children it waited for."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "xml", filter="data")
    files = pubmed_parser.list_xml_path(str(folder / "xml"))
    return {"files": len(files), "xml_bytes": sum(Path(file).stat().st_size for file in files)}


def parse(folder: Path) -> dict[str, Any]:
    """JSON Lines of the articles both functions can read; paragraphs without a citation too, which are off by default."""
    (folder / "articles").mkdir()
    raised: list[str] = []
    text_bytes = written = 0
    with (folder / "articles" / "00000.jsonl").open("w", encoding="utf-8") as stream:
        for file in sorted(pubmed_parser.list_xml_path(str(folder / "xml"))):
            try:
                article = pubmed_parser.parse_pubmed_xml(file)
                paragraphs = pubmed_parser.parse_pubmed_paragraph(file, all_paragraph=True)
            except Exception as error:  # noqa: BLE001 -- whatever it raises, the chain's users skip the file
                raised.append(type(error).__name__)
                continue
            text = "\n\n".join([article["full_title"], article["abstract"], *(each["text"] for each in paragraphs)])
            text_bytes, written = text_bytes + len(text.encode()), written + 1
            metadata = {name: article[name] for name in ("full_title", "journal", "pmc", "doi", "publication_year")}
            row = {"text": text, "id": f"{article['pmc']}", "metadata": metadata}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"documents": written, "raised": {name: raised.count(name) for name in sorted(set(raised))}, "text_bytes": text_bytes}


def _execute(pipeline: list[Any], folder: Path, name: str, tasks: int = 1) -> None:
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / name)).run()


def signatures(folder: Path) -> None:
    _execute([JsonlReader(str(folder / "articles")), MinhashDedupSignature(str(folder / "signatures"))], folder, "signatures")


def buckets(folder: Path) -> None:
    step = MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"))
    _execute([step], folder, "buckets", tasks=MinhashConfig().num_buckets)


def cluster(folder: Path) -> None:
    _execute([MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"))], folder, "cluster")


def remove(folder: Path) -> None:
    _execute([JsonlReader(str(folder / "articles")), MinhashDedupFilter(str(folder / "removed")),
              JsonlWriter(str(folder / "kept"), compression=None)], folder, "filter")


def tokenise(tokenizer_file: Path, folder: Path) -> dict[str, Any]:
    """Token ids of whole documents in one file, 16 or 32 bits wide."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    kind = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    tokens = documents = 0
    with (folder / "tokens.bin").open("wb") as out:
        for file in sorted((folder / "kept").glob("*.jsonl")):
            texts = [json.loads(line)["text"] for line in file.open(encoding="utf-8")]
            for start in range(0, len(texts), BATCH):
                for encoding in tokenizer.encode_batch(texts[start:start + BATCH], add_special_tokens=False):
                    out.write(np.array(encoding.ids, kind).tobytes())
                    tokens, documents = tokens + len(encoding.ids), documents + 1
    return {"kept": documents, "tokens": tokens}


def main() -> None:
    archive, tokenizer_file, folder = map(Path, sys.argv[1:])
    logger.remove()
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    steps: dict[str, Callable[[], dict[str, Any] | None]] = {
        "unpack": lambda: unpack(archive, folder), "parse": lambda: parse(folder),
        "MinHash signatures": lambda: signatures(folder), "MinHash buckets": lambda: buckets(folder),
        "MinHash clusters": lambda: cluster(folder), "MinHash filter": lambda: remove(folder),
        "tokenise": lambda: tokenise(tokenizer_file, folder)}
    for name, step in steps.items():
        before = cpu_seconds()
        found |= step() or {}
        seconds[name] = round(cpu_seconds() - before, 3)
    versions = {name: version(name) for name in ("pubmed_parser", "datatrove", "spacy", "tokenizers", "lxml")}
    sys.stdout.write(json.dumps({"seconds": seconds, "versions": versions, **found}) + "\n")


if __name__ == "__main__":
    main()
