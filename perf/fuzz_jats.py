"""Throw mutated articles at the JATS reader: it must read or refuse each one, in time and in little memory.

    python perf/fuzz_jats.py [FOLDER | ARCHIVE.tar.gz | FILE.xml ...] [--count N] [--seed N] [--keep DIR] [--out FILE.json]

Each mutant depends on the seed and its number alone. Workers run them one by one under an alarm of 5 s and a limit on their
address space; what raises anything but MalformedError, or kills the worker, is kept. Without inputs, seeds are generated.
Ends with code 1 if one mutant did that.
"""

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import platform
import random
import re
import resource
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "fuzz_jats.json"
SECONDS = 5
HEADROOM = 1 << 30
"""Bytes of address space a worker may take beyond what it starts with."""
LARGEST = 40_000
"""Bytes of a seed; longer articles give their first sections."""
LARGEST_MUTANT = 2_000_000
ALONE = 200
"""Mutants a worker takes at once."""
_TAG = re.compile(rb"<(/?)([A-Za-z][\w:.-]*)([^<>]*)>")
_NAMES = (b"p", b"sec", b"xref", b"table", b"tr", b"td", b"sub-article", b"article", b"title", b"fig", b"label", b"caption",
          b"list-item", b"mml:math", b"math", b"mfrac", b"alternatives", b"tex-math", b"sup", b"def-item", b"front-stub",
          b"body",
          b"abstract", b"disp-formula", b"fn", b"article-id", b"permissions", b"license", b"pub-date", b"year", b"x:p",
          b"mtable")
_CHAINS = ((b"table", b"tr", b"td"), (b"fig", b"caption", b"p"), (b"list", b"list-item", b"p"),
           (b"def-list", b"def-item", b"def"),
           (b"alternatives", b"table"), (b"permissions", b"license"), (b"article", b"body"), (b"sub-article", b"body"),
           (b"sup", b"xref"),
           (b"boxed-text", b"sec", b"title"), (b"math", b"msup"), (b"array", b"tbody", b"tr", b"td"),
           (b"table-wrap", b"caption"))
_PIECES = (b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"&#0;", b"&#xFFFE;", b"&#xE000;", b"&#xE003;",
           b"&x;",
           b"&nbsp;", b"&lt;", b"]]>", b"<![CDATA[", b"<!--", b"-->", b"<?x", b"<", b">", b"&", b"'", b"\xef\xbb\xbf",
           b"\xe2\x80\x8d",
           b"<xref ref-type='bibr'>", b"</xref>", b"(((((", b"[[[[", b"<break/>", b" xml:lang='x'", b"\xcc\x81" * 50,
           b"&amp;" * 200, b"(" * 3000, b"1, " * 2000, b" " * 5000, b"<sup>" * 60, b"e.g. " * 500)
_LAWFUL = (b"&#xE000;", b"&#xE003;", b"&#xE001;[", b"]&#xE003;", b"&lt;", b"&amp;", b"<![CDATA[<p>]]>", b"<!-- c -->",
           b"<?x y?>",
           b"\xe2\x80\x8d", b"\xc2\xad", b"\xcc\x81" * 20, b"\xf3\xa0\x80\x81", b"(((", b"[[", b"1, ", b"e.g. (", b"see [",
           b"<break/>",
           b"<xref ref-type='bibr'>1</xref>", b" [<xref ref-type='bibr'>1</xref>",
           b"<xref ref-type='bibr'>Lee, 2010</xref>)",
           b"<sup><xref ref-type='fn'/></sup>", b"<sup/>", b"<table><tr/><tr><td/></tr></table>", b"<sub-article/>",
           b"<list-item/>",
           b"<response><front-stub/><body/></response>", b"<trans-abstract xml:lang='q'/>", b"<fig><caption/></fig>",
           b"\xe2\x80\xa9",
           b"<mml:math xmlns:mml='m'><mml:msup/><mml:mfrac/></mml:math>", b"<article/>", b"<disp-formula/>",
           b"<def-item/>", b" " * 3000,
           b"\xcc\x81\xcc\xa7" * 2000, b"<alternatives/>", b"<abstract abstract-type='x' xml:lang=''/>",
           b"<pub-date><year>0</year></pub-date>", b"((e.g. ; " * 300)
_BOMB = b"".join([b'<!ENTITY a0 "xxxxxxxxxx">'] + [b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1,
                                                                                                                       12)])
_DOCTYPES = (
    b"<!DOCTYPE article [" + _BOMB + b"]>", b"<!DOCTYPE article [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
    b"<!DOCTYPE article SYSTEM 'http://127.0.0.1:9/x.dtd'>",
    b"<!DOCTYPE article [<!ENTITY % p SYSTEM 'http://127.0.0.1:9/x'> %p;]>",
    b"<!DOCTYPE article [<!ENTITY x '&#60;p>in'><!ATTLIST p id CDATA 'd'>]>", b"<!DOCTYPE article [<!ENTITY x '&x;'>]>",
    b"<!DOCTYPE article [<!ENTITY b '" + b"y" * 50_000 + b"'>]>", b"<!DOCTYPE article [<!ELEMENT p (#PCDATA)>",
    b"<!DOCTYPE article PUBLIC '-//NLM//DTD JATS//EN' 'x.dtd'>")
_ENCODINGS = (b"UTF-16", b"ISO-8859-1", b"UTF-8", b"US-ASCII", b"UTF-32", b"no-such", b"EBCDIC-US", b"Shift_JIS", b"utf-7",
              b"")
Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


def at(chance: random.Random, data: bytes) -> int:
    return chance.randrange(len(data) + 1)


def a_tag(chance: random.Random, data: bytes) -> re.Match[bytes] | None:
    """A tag at or after some place."""
    return _TAG.search(data, at(chance, data)) or _TAG.search(data)


def an_element(chance: random.Random, data: bytes) -> tuple[int, int] | None:
    """Where an element starts and ends; none if its end is not within reach."""
    tag = a_tag(chance, data)
    if tag is None or tag[1]:
        return None
    depth = 0
    for other in re.compile(rb"<(/?)" + re.escape(tag[2]) + rb"(?=[\s/>])[^<>]*?(/?)>").finditer(data, tag.start(),
                                                                                                 tag.start() + 50_000):
        depth += 0 if other[2] else -1 if other[1] else 1
        if depth == 0:
            return tag.start(), other.end()
    return None


# ---- mutations: (chance, data, other seeds) -> data -----------------------------------------------------------------


def flip(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20)) if data else 0):
        changed[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(changed)


def truncate(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    cut = at(chance, data)
    return data[:cut] if chance.randrange(4) else data[cut:]


def splice(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[:at(chance, data)] + other[at(chance, other):]


def graft(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """A whole element of another article, before or around one of this."""
    other = chance.choice(seeds)
    found, here = an_element(chance, other), an_element(chance, data)
    if found is None or here is None:
        return data
    return data[:here[0]] + other[found[0]:found[1]] + data[here[0] if chance.randrange(2) else here[1]:]


def cut(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """An element is gone, or its tags are, or it is there many times."""
    here = an_element(chance, data)
    if here is None:
        return data
    piece = data[here[0]:here[1]]
    inside = _TAG.sub(b"", piece)
    return data[:here[0]] + chance.choice((b"", inside, piece * 2, piece * 20, b"<p>" + piece + b"</p>")) + data[here[1]:]


def text(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Strange but lawful text after a tag."""
    tag = a_tag(chance, data)
    place = tag.end() if tag else 0
    piece = chance.choice(_LAWFUL) * chance.choice((1, 1, 3, 50))
    return data[:place] + piece + data[place:]


def rename_all(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    tag = a_tag(chance, data)
    if tag is None:
        return data
    return re.sub(rb"(</?)" + re.escape(tag[2]) + rb"(?=[\s/>])", rb"\g<1>" + chance.choice(_NAMES), data)


def wrap(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """An element in many others, up to the depth that libxml2 refuses."""
    here = an_element(chance, data)
    if here is None:
        return data
    names = [chance.choice(_NAMES) for _ in range(chance.choice((1, 5, 40, 150, 230)))]
    if chance.randrange(3) == 0:
        names = list(chance.choice(_CHAINS)) * chance.choice((3, 12, 50))
    opened, closed = b"".join(b"<%s>" % name for name in names), b"".join(b"</%s>" % name for name in reversed(names))
    return data[:here[0]] + opened + data[here[0]:here[1]] + closed + data[here[1]:]


def insert(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    place = at(chance, data)
    return data[:place] + chance.choice(_PIECES) + data[place:]


def remove_tag(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    tag = a_tag(chance, data)
    return data[:tag.start()] + data[tag.end():] if tag else data


def double_tag(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    tag = a_tag(chance, data)
    return data[:tag.start()] + tag[0] * chance.choice((2, 3, 100)) + data[tag.end():] if tag else data


def rename(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    tag = a_tag(chance, data)
    return data[:tag.start(2)] + chance.choice(_NAMES) + data[tag.end(2):] if tag else data


def repeat(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    start = at(chance, data)
    piece = data[start:start + chance.choice((3, 30, 300))]
    return data[:start] + piece * chance.choice((2, 10, 100)) + data[start:]


def nest(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Deep markup before a tag, sometimes never closed."""
    tag, name, depth = a_tag(chance, data), chance.choice(_NAMES), chance.choice((20, 100, 240, 300, 2000))
    if tag is None:
        return data
    return (data[:tag.start()] + b"<%s>" % name * depth + b"x" + (b"</%s>" % name * depth if chance.randrange(4) else b"")
            + data[tag.start():])


def attributes(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    tag = a_tag(chance, data)
    if tag is None or tag[1]:
        return data
    many = chance.choice((b" x='%s'" % (b"y" * 100_000), b"".join(b" a%d='b'" % number for number in range(500)),
                          b" ref-type='bibr' ref-type='bibr'", b" xml:lang='%s'" % (b"z" * 300),
                          b" xmlns='%s'" % (b"u" * 100),
                          b" id='&x;'", b" xmlns:q='http://q' q:lang='en'", b" article-type='&nbsp;'"))
    return data[:tag.end(2)] + many + data[tag.end(2):]


def doctype(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    body = re.sub(rb"<!DOCTYPE[^>\[]*(\[[^\]]*\])?>", b"", data, count=1)
    start = body.find(b"?>") + 2 if body.startswith(b"<?xml") else 0
    tag = _TAG.search(body, at(chance, body))
    used = tag.start() if tag else len(body)
    return body[:start] + chance.choice(_DOCTYPES) + body[start:used] + chance.choice((b"", b"&x;", b"&a11;",
                                                                                       b"&b;" * 100)) + body[
        used:]


def encode(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Another declaration than the bytes are in, or the other way round, or a mark of byte order."""
    declared = b"<?xml version='1.0' encoding='%s'?>" % chance.choice(_ENCODINGS)
    body = re.sub(rb"^<\?xml[^>]*\?>", b"", data)
    text = body.decode("utf-8", "replace")
    body = chance.choice((body, text.encode("utf-16"), text.encode("utf-16-be"), text.encode("latin-1", "xmlcharrefreplace"),
                          text.encode("utf-32"), text.encode("utf-8-sig")))
    return chance.choice((declared + body, body, b"\xff\xfe" + declared + body, b"\xfe\xff" + body))


LAWFUL: tuple[Mutation, ...] = (graft, graft, cut, cut, text, text, rename_all, rename_all, wrap, attributes)
"""After these an article is mostly still XML, so that the reader itself is tried and not only the parser."""
BROKEN: tuple[Mutation, ...] = (flip, truncate, splice, insert, remove_tag, double_tag, rename, repeat, nest, doctype,
                                encode)


def mutant(seeds: list[bytes], seed: int, number: int) -> bytes:
    """Mutant ``number``: one of the seeds after one to six mutations; two of three mutants stay XML where they can."""
    chance = random.Random(f"{seed} {number}")
    data = chance.choice(seeds)
    kinds = chance.choice((LAWFUL, LAWFUL, (*LAWFUL, *BROKEN)))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = chance.choice(kinds)(chance, data, seeds)[:LARGEST_MUTANT]
    return data


def mutants(seeds: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    return (mutant(seeds, seed, number) for number in range(count))


# ---- seeds ----------------------------------------------------------------------------------------------------------


def trimmed(data: bytes) -> bytes:
    """An article of at most about 40 kB that is still well-formed: elements that come later are left out."""
    from lxml import etree

    try:
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError:
        return data[:LARGEST]
    for part in ("ref", "contrib", "kwd", "tr", "sec", "fig", "table-wrap", "p", "sub-article"):
        found = [each for each in root.iter(f"{{*}}{part}") if each.getparent() is not None]
        while len(found) > 2 and len(etree.tostring(root)) > LARGEST:
            for each in found[len(found) // 2:]:
                if each.getparent() is not None:
                    each.getparent().remove(each)
            found = found[:len(found) // 2]
    return etree.tostring(root.getroottree(), xml_declaration=True, encoding="UTF-8")


def read_seeds(places: list[Path]) -> list[bytes]:
    if not places:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from jats_generator import make

        return [make(random.Random(number)).xml for number in range(100)]
    found: list[bytes] = []
    for place in places:
        if place.is_dir():
            found += [path.read_bytes() for path in sorted(place.rglob("*")) if path.suffix in (".xml", ".nxml")]
        elif tarfile.is_tarfile(place):
            with tarfile.open(place) as archive:
                found += [stream.read() for member in archive if (stream := archive.extractfile(member))]
        else:
            found.append(place.read_bytes())
    return [trimmed(data) for data in found]


# ---- workers --------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """Not an Exception: nothing in the reader may catch it."""


def _alarm(number: int, frame: object) -> None:
    raise TooSlow


def attempt(data: bytes) -> str:
    """``parsed``, ``refused: reason``, or what went wrong."""
    from biomistral.corpus.articles.jats import MalformedError, parse

    before = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        for article in parse(data):
            article.text.encode()
        return "parsed"
    except MalformedError as error:
        return f"refused: {error.reason}"
    except TooSlow:
        return "slow"
    except Exception as error:  # noqa: BLE001 (any other exception is the finding)
        return f"crash: {type(error).__name__}: {error}"[:200].replace("\n", " ")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work(pipe: multiprocessing.connection.Connection, seeds: list[bytes], seed: int, numbers: range) -> None:
    """Try mutants; say before each which it is, so that one that kills the process is known."""
    import biomistral.corpus.articles.jats  # noqa: F401 (before the limit is set)

    used = 4096 * int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))
    for number in numbers:
        data = mutant(seeds, seed, number)
        pipe.send((number, "started", 0.0, len(data), 0))
        started = time.perf_counter()
        outcome = attempt(data)
        seconds = time.perf_counter() - started
        pipe.send((number, outcome, seconds, len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    pipe.send((-1, "done", 0.0, 0, 0))


def run(seeds: list[bytes], seed: int, numbers: range) -> Iterator[tuple[int, str, float, int, int]]:
    """Outcomes of these mutants from one worker after another; a worker that dies costs the mutant it was at."""
    context = multiprocessing.get_context("fork")
    while numbers:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, seeds, seed, numbers[:ALONE]), daemon=True)
        process.start()
        theirs.close()
        current, outcome = numbers[0], "started"
        with contextlib.suppress(EOFError):
            while ours.poll(SECONDS * 4):
                row = ours.recv()
                if row[1] == "done":
                    outcome = "done"
                    break
                current, outcome = row[0], row[1]
                if outcome != "started":
                    yield row
        if outcome == "started":  # not even the alarm reached it, or the process is gone
            process.kill()
            process.join()
            yield current, f"killed: {process.exitcode}", float(SECONDS * 4), 0, 0
        process.join()
        numbers = numbers[ALONE:] if outcome == "done" else range(current + 1, numbers.stop)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the mutants that went wrong")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    seeds = read_seeds(options.places)
    started = time.perf_counter()
    outcomes: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    slowest, size, memory = (0.0, -1), 0, 0
    for number, outcome, seconds, length, peak in run(seeds, options.seed, range(options.count)):
        outcomes[re.sub(r":.*", "", outcome) if not outcome.startswith("refused") else outcome] += 1
        slowest, size, memory = max(slowest, (seconds, number)), size + length, max(memory, peak)
        if not outcome.startswith(("parsed", "refused")):
            wrong.append({"number": number, "outcome": outcome})
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{number}.xml").write_bytes(mutant(seeds, options.seed, number))
    summary = {
        "inputs": [place.name for place in options.places] or ["generated"], "seeds": len(seeds), "mutants": options.count,
        "seed": options.seed, "mean_bytes": size // max(1, options.count), "outcomes": dict(outcomes.most_common()),
        "wrong": len(wrong), "first_wrong": wrong[:20], "slowest_seconds": round(slowest[0], 3),
        "slowest_number": slowest[1],
        "peak_memory_mb": memory >> 10, "seconds": round(time.perf_counter() - started, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}"}
    options.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
