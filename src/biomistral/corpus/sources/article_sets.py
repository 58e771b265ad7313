"""Files of many articles (Europe PMC's dumps, article sets): one article at a time, whatever the size of the file.

The bytes are scanned, not parsed: 1 GB of XML never stands in memory, and one bad article does not end the others.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from biomistral.corpus.sources.streams import DamagedError

_NAME = rb"[A-Za-z_][\w.-]*"
_OUTSIDE = re.compile(rb"<(?:!--|!\[CDATA\[|\?|(?:" + _NAME + rb":)?article[\s/>])")
_TAG = re.compile(rb"<([^\s/>!?]++)(?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+>")
_NAMESPACE = re.compile(rb"\s(xmlns(?::" + _NAME + rb")?)\s*=\s*(\"[^\"]*\"|'[^']*')")
_ENCODING = re.compile(rb"<\?xml\s[^>]*?encoding\s*=\s*[\"']([\w.-]+)")
_ENDS = {b"<!--": b"-->", b"<![C": b"]]>", b"<?": b"?>"}
_LONGEST_NAME, _LONGEST_TAG = 80, 1 << 20


def outermost(head: bytes) -> re.Match[bytes] | None:
    """The start tag of the outermost element, if ``head`` holds it whole; its name is group 1."""
    at = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    while True:
        while head[at:at + 1].isspace():
            at += 1
        if head.startswith((b"<?", b"<!--"), at):
            end = b"?>" if head[at + 1:at + 2] == b"?" else b"-->"
            found = head.find(end, at + 2)
        elif head.startswith(b"<!DOCTYPE", at):
            end, found = b">", _doctype_end(head, at)
        else:
            return _TAG.match(head, at)
        if found < 0:
            return None
        at = found + len(end)


def _doctype_end(head: bytes, at: int) -> int:
    """The ``>`` of a document type; one that declares something ends after its ``]``."""
    plain, subset = head.find(b">", at), head.find(b"[", at)
    return head.find(b">", head.find(b"]", subset)) if 0 <= subset < plain and b"]" in head[subset:] else plain


def is_article_set(head: bytes) -> bool:
    """Whether a file that begins so holds many articles: ``<articles>``, ``<pmc-articleset>``, or an OAI-PMH answer."""
    root = outermost(head)
    return root is not None and root[1].rpartition(b":")[2] in (b"articles", b"pmc-articleset", b"OAI-PMH")


@lru_cache
def _token_inside(name: bytes) -> re.Pattern[bytes]:
    """In an article whose element has that name: what may end it or begin the next, or hide either."""
    return re.compile(rb"<(?:!--|!\[CDATA\[|\?|/?" + re.escape(name) + rb"[\s/>])")


class ArticleSplitter:
    """Cuts the bytes of an article set into its ``article`` elements; comments, CDATA and instructions hold no tags.

    Each comes out as a document of its own, with the encoding and the namespaces that the outermost element declares.
    One that is never closed ends where the next begins. For one of more than ``limit`` bytes ``None`` comes out, and
    no more of it than that was ever kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer, self._at = bytearray(), 0
        """What is kept, from the start of the current article, and where in it the scan goes on."""
        self._until = b""
        """What ends the comment, CDATA section or instruction that the scan is in."""
        self._inside: re.Pattern[bytes] | None = None
        """In an article: `_token_inside` of its name."""
        self._too_large = False
        self._prologue, self._namespaces = b"", dict[bytes, bytes]()

    def split(self, head: bytes, parts: Iterator[bytes]) -> Iterator[bytes | None]:
        """The articles of ``head``, which holds the outermost start tag, and of the ``parts`` after it.

        Raises:
            DamagedError: where the data are damaged, or end inside an article.
        """
        root = outermost(head)
        assert root is not None
        encoding = _ENCODING.search(head, 0, root.start())
        if encoding and encoding[1].lower() not in (b"utf-8", b"us-ascii"):
            self._prologue = b'<?xml version="1.0" encoding="' + encoding[1] + b'"?>'
        self._namespaces = dict(_NAMESPACE.findall(root[0]))
        yield from self._scan(head[root.end():])
        for part in parts:
            yield from self._scan(part)
        if self._inside or self._until:
            raise DamagedError("truncated", "the file ends inside an article")

    def _scan(self, part: bytes) -> Iterator[bytes | None]:
        self._buffer += part
        while tag := self._next_tag():
            start, end, name = tag
            if not name:
                yield self._cut(end)
                self._inside = None
                continue
            if self._inside:
                yield self._cut(start)
            else:
                self._drop(start)
            self._at, self._inside = end - start, _token_inside(name)
            if self._buffer[self._at - 2] == ord("/"):
                yield self._cut(self._at)
                self._inside = None
        if len(self._buffer) - self._at > _LONGEST_TAG:
            raise DamagedError("damaged", "a tag of more than 1 MB")
        self._too_large |= self._inside is not None and self._at > self._limit
        if not self._inside or self._too_large:
            self._drop(self._at)

    def _next_tag(self) -> tuple[int, int, bytes] | None:
        """Start, end and name (none: an end tag) of the next tag of an article that stands in the buffer whole."""
        if not self._pass_to_token():
            return None
        start = self._at
        if self._buffer[start + 1] == ord("/"):
            end = self._buffer.find(b">", start) + 1
            return (start, end, b"") if end else None
        match = _TAG.match(self._buffer, start)
        return (start, match.end(), match[1]) if match else None

    def _pass_to_token(self) -> bool:
        """Move to the next tag that begins or ends an article; False if the buffer holds no more."""
        while True:
            if self._until:
                found = self._buffer.find(self._until, self._at)
                if found < 0:
                    self._at = max(self._at, len(self._buffer) - len(self._until) + 1)
                    return False
                self._at, self._until = found + len(self._until), b""
            match = (self._inside or _OUTSIDE).search(self._buffer, self._at)
            if match is None:  # what follows the last "<" may be a token cut in two
                last = self._buffer.rfind(b"<", max(self._at, len(self._buffer) - _LONGEST_NAME))
                self._at = last if last >= 0 else len(self._buffer)
                return False
            self._at, token = match.start(), match[0]
            self._until = _ENDS.get(token[:2], _ENDS.get(token[:4], b""))
            if not self._until:
                return True
            self._at = match.end()

    def _drop(self, until: int) -> None:
        del self._buffer[:until]
        self._at = max(0, self._at - until)

    def _cut(self, until: int) -> bytes | None:
        """Take the current article, which ends there, out of the buffer."""
        data = None if self._too_large or until > self._limit else bytes(self._buffer[:until])
        self._too_large = False
        self._drop(until)
        return None if data is None else self._whole(data)

    def _whole(self, data: bytes) -> bytes:
        """An article with what it inherits written into its own start tag."""
        tag = _TAG.match(data)
        assert tag is not None
        own = {name for name, _ in _NAMESPACE.findall(tag[0])}
        inherited = b"".join(b" " + name + b"=" + value for name, value in self._namespaces.items() if name not in own)
        return self._prologue + data[:tag.end(1)] + inherited + data[tag.end(1):]
