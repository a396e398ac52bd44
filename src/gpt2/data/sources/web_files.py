"""Your own data behind an address on the web: one file, of the kinds that local files may be."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from gpt2.core import files
from gpt2.data.fetching import http_client
from gpt2.data.fetching.checks import Sha256, Url
from gpt2.data.fetching.download import download
from gpt2.data.parsing.formats import FormatParams
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.sources.own_data import CorpusFiles, InstructionFiles


class UrlSource(FormatParams):
    """A file on the web."""

    source: Literal["url"]
    url: Url
    """Its path's suffix says what the file holds."""
    mirrors: list[Url] = Field([])
    """The same file elsewhere, tried in this order if the first place does not give it."""
    sha256: Sha256 | None = None
    """Of the file. If it is given and the file has been fetched before, no network is needed."""


class UrlCorpus(UrlSource, CorpusFiles):
    """Documents out of a file on the web."""


class UrlInstructions(UrlSource, InstructionFiles):
    """Instruction records out of a file on the web."""


def read(params: UrlCorpus | UrlInstructions, cache: Path) -> RawData:
    """The rows of the file, which stays in ``cache``.

    Raises:
        UserError: no place gives the file, or it has another sha256.
    """
    path = cache / (params.sha256 or hashlib.sha256(params.url.encode()).hexdigest())
    if params.sha256 is None or not path.is_file() or files.sha256(path) != params.sha256:
        places = [params.url, *params.mirrors]
        cache.mkdir(parents=True, exist_ok=True)
        download(places, path, sha256=params.sha256, cache=cache)
    reader = params.reader()
    name = PurePosixPath(unquote(urlsplit(params.url).path)).name or "download"
    origin = http_client.redacted(params.url)
    raw = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}

    def rows() -> Iterator[Row]:
        with path.open("rb") as file:
            yield from reader.rows(name, file)

    return RawData(origin, rows(), {"raw": {origin: raw}})
