"""Which documents fill the token budget: the paper's order (section 3.1), or a mix of languages; and shares of sources.

Pure functions over the ledger's arrays. The paper takes code articles first, then all other languages, then English.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from biomistral.corpus.choosing.draws import Draws, draws
from biomistral.corpus.choosing.fill import Indices, Limits, Rooms, fill
from biomistral.corpus.cleaning.language import UNKNOWN
from biomistral.corpus.ledger import Ledger
from biomistral.corpus.settings import CorpusSettings

OTHER = "other"
"""In reports: languages that a mix does not name."""
_CHUNK = 1 << 17
Mask: TypeAlias = npt.NDArray[np.bool_]


def order_keys(ledger: Ledger, root_seed: int) -> Draws:
    """A random number a document, a function of the seed and its id alone: sorting by it shuffles the corpus."""
    return draws(_ids(ledger, np.arange(len(ledger), dtype=np.int64)), root_seed, "order")


def choose_heldout(ledger: Ledger, settings: CorpusSettings) -> Mask:
    """Which kept articles stay out of training, each by a number drawn from its id, so that a corpus that grows keeps them out.

    Code articles are never held out: every category is to be learnt. At least one article is, if there are two.
    """
    chosen: Mask = np.zeros(len(ledger), np.bool_)
    kept = ledger.kept()
    articles = kept[~ledger.ours[kept]]
    if settings.heldout == 0 or len(articles) < 2:
        return chosen
    drawn = draws(_ids(ledger, articles), settings.seed, "heldout")
    found = articles[drawn < np.uint64(int(settings.heldout * 2**64))]
    chosen[found if len(found) else articles[[int(np.argmin(drawn))]]] = True
    return chosen


def select(ledger: Ledger, keys: Draws, heldout: Mask, settings: CorpusSettings) -> Indices:
    """The training documents in packing order (by key); what finds no room is refused as ``over_budget``.

    The budget is one of training tokens: held-out documents do not count. A document that does not fit is passed over for
    the next ones, so that a small budget is filled by short articles rather than not at all.
    """
    kept = ledger.kept()
    pool = kept[~heldout[kept]]
    pool = pool[np.argsort(keys[pool], kind="stable")]
    shares = np.array([source.share or 0.0 for source in settings.sources])
    if shares.any():
        taken = _with_shares(ledger, pool, shares, settings)
    else:
        taken = _unshared(ledger, pool, _budget(settings), settings)
    chosen: Mask = np.zeros(len(ledger), np.bool_)
    chosen[taken] = True
    ledger.refuse(pool[~chosen[pool]], "over_budget")
    return pool[chosen[pool]]


def _ids(ledger: Ledger, indices: Indices) -> Iterator[list[str]]:
    for start in range(0, len(indices), _CHUNK):
        yield ledger.ids(indices[start:start + _CHUNK])


def _budget(settings: CorpusSettings) -> float:
    return math.inf if settings.max_tokens is None else settings.max_tokens


# ---- sources with a share -----------------------------------------------------------------------------------------------


def _with_shares(ledger: Ledger, pool: Indices, shares: Rooms, settings: CorpusSettings) -> Indices:
    """Each source with a share gets that share of all training tokens, and the others what is left.

    Where the others have too few documents for the budget, or there is none, the shares are of what there is. Where a source
    with a share runs short, the others take its room, but never more than the budget.
    """
    budget, rest = _budget(settings), 1 - float(shares.sum())
    shared = shares[ledger.source_index[pool]] > 0
    others, mine = pool[~shared], pool[shared]
    if rest > 1e-9:
        found = _unshared(ledger, others, budget * rest, settings)
        budget = min(budget, _tokens(ledger, found) / rest)
    else:  # every source has a share: as much as the shortest allows
        found = others[:0]
        have = np.bincount(ledger.source_index[mine], ledger.tokens[mine], len(shares))
        budget = min(budget, float((np.minimum(have, _caps(settings))[shares > 0] / shares[shares > 0]).min()))
    rooms = np.minimum(np.floor(shares * budget + 1e-6), _caps(settings))
    taken = fill(mine, ledger.tokens, Limits(math.inf, [ledger.source_index.astype(np.int64)], [rooms]))
    got = np.bincount(ledger.source_index[taken], ledger.tokens[taken], len(shares))
    ran_short = got == np.bincount(ledger.source_index[mine], ledger.tokens[mine], len(shares))
    if len(others) and settings.max_tokens is not None and (ran_short & (shares > 0)).any():
        found = _unshared(ledger, others, settings.max_tokens - float(got.sum()), settings)
    return np.concatenate((found, taken))


def _caps(settings: CorpusSettings) -> Rooms:
    """The most tokens of each source."""
    return np.array([source.max_tokens or math.inf for source in settings.sources], np.float64)


def _tokens(ledger: Ledger, indices: Indices) -> int:
    return int(ledger.tokens[indices].sum(dtype=np.int64))


# ---- all other sources --------------------------------------------------------------------------------------------------


def _unshared(ledger: Ledger, pool: Indices, budget: float, settings: CorpusSettings) -> Indices:
    """Documents for a budget, of a pool in order of its keys."""
    limits = Limits(budget, [ledger.source_index.astype(np.int64)], [_caps(settings)])
    if settings.mix:
        return _mixed(ledger, pool, limits, settings.mix)
    return fill(pool[np.argsort(_precedence(ledger)[pool], kind="stable")], ledger.tokens, limits)


def _precedence(ledger: Ledger) -> npt.NDArray[np.int8]:
    """0: code articles, 1: languages other than English, 2: English (or unknown)."""
    english = np.array([name in ("en", UNKNOWN) for name in ledger.languages], np.bool_)[ledger.language_code]
    return np.where(ledger.ours, 0, np.where(english, 2, 1)).astype(np.int8)


def _groups(ledger: Ledger, mix: dict[str, float]) -> npt.NDArray[np.int64]:
    """Which entry of the mix each document counts with; the number after the last: a language it does not name."""
    places = {name: place for place, name in enumerate(mix)}
    return np.array([places.get(name, len(mix)) for name in ledger.languages], np.int64)[ledger.language_code]


def _mixed(ledger: Ledger, pool: Indices, limits: Limits, mix: dict[str, float]) -> Indices:
    """Code articles, then languages by their shares of what is left; what a mix leaves over is for languages it does not name.

    Where a language runs short, the others share its room in proportion, until the budget is full or nothing is left.
    """
    shares = np.array([*mix.values(), max(0.0, 1 - sum(mix.values()))])
    shares[shares < 1e-9] = 0
    groups = _groups(ledger, mix)
    ours = ledger.ours[pool]
    taken = [fill(pool[ours], ledger.tokens, limits)]
    rest = pool[~ours]
    here: Mask = np.ones(len(ledger), np.bool_)
    limits.classes.append(groups)
    limits.rooms.append(np.zeros(len(shares)))
    growing = shares > 0
    while growing.any():
        rooms = limits.rooms[-1]
        rooms[~growing] = 0
        rooms[growing] += (limits.room - rooms.sum()) * shares[growing] / shares[growing].sum() + 1e-6
        taken.append(fill(rest, ledger.tokens, limits))
        here[taken[-1]] = False
        rest = rest[here[rest]]
        may_come = rest[ledger.tokens[rest] <= limits.rooms[0][limits.classes[0][rest]]]
        left = np.bincount(groups[may_come], minlength=len(shares)) > 0
        if left[growing].all():
            break
        growing &= left
    return np.concatenate(taken)


# ---- the account --------------------------------------------------------------------------------------------------------


def achieved(ledger: Ledger, order: Indices, settings: CorpusSettings) -> dict[str, Any]:
    """What the training tokens are made of, beside what was asked for; for the manifest.

    Returns ``{"tokens", "max_tokens", "languages": {name: {"documents", "tokens", "share"}}, "sources": {...}, "mix": {...}}``.
    A source with a share, and each entry of a mix, also has ``asked``. Shares are of all training tokens, those of a mix of
    the tokens it divides: without code articles and sources that have a share of their own.
    """
    shared = np.array([source.share is not None for source in settings.sources])
    divided = order[~ledger.ours[order] & ~shared[ledger.source_index[order]]]
    names = [source.name or str(source.input) for source in settings.sources]
    found: dict[str, Any] = {"tokens": _tokens(ledger, order), "max_tokens": settings.max_tokens,
             "languages": _parts(ledger, order, ledger.language_code, ledger.languages),
             "sources": _parts(ledger, order, ledger.source_index, names)}
    for name, source in zip(names, settings.sources, strict=True):
        if source.share is not None:
            found["sources"][name]["asked"] = source.share
    if settings.mix:
        found["mix"] = _parts(ledger, divided, _groups(ledger, settings.mix), [*settings.mix, OTHER])
        for name, entry in found["mix"].items():
            entry["asked"] = settings.mix.get(name, round(max(0.0, 1 - sum(settings.mix.values())), 9))
    return found


def _parts(ledger: Ledger, order: Indices, classes: npt.NDArray[Any], names: list[str]) -> dict[str, dict[str, Any]]:
    """Documents, tokens and share of tokens by class; classes of one name are one, in order of tokens."""
    documents = np.bincount(classes[order], minlength=len(names))
    tokens = np.bincount(classes[order], ledger.tokens[order], len(names)).astype(np.int64)
    entries: dict[str, dict[str, Any]] = {}
    for place in np.argsort(-tokens, kind="stable").tolist():
        entry = entries.setdefault(names[place], {"documents": 0, "tokens": 0})
        entry["documents"] += int(documents[place])
        entry["tokens"] += int(tokens[place])
        entry["share"] = round(entry["tokens"] / max(1, int(tokens.sum())), 6)
    return entries
