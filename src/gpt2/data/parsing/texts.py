"""Text files as documents: one per file, or split at a separator; and the text of HTML files."""

from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import chain
from typing import NamedTuple

from gpt2.data.parsing.limits import LimitedFile
from gpt2.data.parsing.rows import EMPTY, Row, UnreadableError, decoded, non_empty

BLANK_LINES, NO_SEPARATOR = "blank-lines", "none"
BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details"),
        *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2"),
        *("h3", "h4", "h5", "h6", "head", "header", "hr", "html", "legend", "li", "main", "nav"),
        *("ol", "option", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead"),
        *("title", "tr", "ul"),
    )
)
"""Elements that begin and end on a line of their own."""
CELLS = frozenset(("td", "th"))
INVISIBLE = frozenset(("script", "style", "template"))
"""Elements whose content is not shown."""


def text_rows(name: str, file: LimitedFile, separator: str) -> Iterator[Row]:
    """A text file as one row; or, if it contains the separator, one row per document.

    Line ends around the separated documents are removed, and empty documents are skipped.

    Args:
        name: name of the file; the name of a document has a number.
        file: UTF-8.
        separator: a string, `BLANK_LINES` or `NO_SEPARATOR`.
    """
    parts = _parts(file, separator)
    first = next(parts)
    if first.last:
        yield Row(name, "", non_empty(decoded(first.content)))
        return
    number = 0
    for part in chain([first], parts):
        if part.content.strip():
            number += 1
            row = Row(f"{name}:{number}", f"document {number}", None, separator=separator)
            yield _document(row, part)
    if not number:
        raise UnreadableError(EMPTY)


def html_row(name: str, file: LimitedFile) -> Iterator[Row]:
    """The text of an HTML file as one row."""
    yield Row(name, "", non_empty(html_text(decoded(file.rest()))))


def html_text(markup: str) -> str:
    """The text of HTML: one line per block, white space as browsers show it."""
    extractor = _Extractor()
    extractor.feed(markup)
    extractor.close()
    return extractor.text()


class _Part(NamedTuple):
    """The bytes between two separators."""

    start: int
    """Position in the file."""
    content: bytes
    last: bool


def _document(row: Row, part: _Part) -> Row:
    try:
        return row._replace(value=decoded(part.content, part.start).strip("\r\n"))
    except UnreadableError as error:
        return row._replace(problem=str(error))


def _parts(file: LimitedFile, separator: str) -> Iterator[_Part]:
    """The parts of a file between separators; one part if it has none."""
    if separator == NO_SEPARATOR:
        return iter([_Part(0, file.rest(), last=True)])
    if separator == BLANK_LINES:
        return _between_blank_lines(file)
    return _between(file, separator.encode())


def _between(file: LimitedFile, mark: bytes) -> Iterator[_Part]:
    start, held = 0, bytearray()
    while block := file.block():
        searched = max(0, len(held) - len(mark) + 1)
        held += block
        if held.find(mark, searched) >= 0:
            *parts, held = held.split(mark)
            for part in parts:
                yield _Part(start, bytes(part), last=False)
                start += len(part) + len(mark)
        file.check_size(len(held))
    yield _Part(start, bytes(held), last=True)


def _between_blank_lines(file: LimitedFile) -> Iterator[_Part]:
    start = position = size = 0
    lines: list[bytes] = []
    while line := file.line():
        if line.strip():
            start = start if lines else position
            lines.append(line)
            size += len(line)
            file.check_size(size)
        elif lines:
            yield _Part(start, b"".join(lines), last=False)
            lines, size = [], 0
        position += len(line)
    yield _Part(start, b"".join(lines), last=True)


class _Extractor(HTMLParser):
    """Collects lines of text; see `html_text`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._line: list[str] = []
        self._invisible = self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin an element."""
        self.handle_startendtag(tag, attrs)
        self._invisible += tag in INVISIBLE
        self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        if tag in BLOCKS:
            self._end_line()
        self._invisible -= tag in INVISIBLE and self._invisible > 0
        self._preformatted -= tag == "pre" and self._preformatted > 0

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """An element without content, such as ``<br/>``, or the start of any element."""
        if tag in BLOCKS:
            self._end_line()
        elif tag in CELLS:
            self._line.append(" ")

    def handle_data(self, data: str) -> None:
        """Add text to the current line."""
        if self._invisible:
            return
        *lines, last = data.split("\n") if self._preformatted else [data]
        for line in lines:
            self._line.append(line)
            self._end_line(blank=True)
        self._line.append(last)

    def _end_line(self, blank: bool = False) -> None:
        line = "".join(self._line)
        line = line.rstrip() if self._preformatted else " ".join(line.split())
        if line or blank:
            self._lines.append(line)
        self._line = []

    def text(self) -> str:
        """All lines, after the whole file has been fed."""
        self._end_line()
        return "\n".join(self._lines) + "\n"
