"""``source: url``: a file on the web, in the same formats as local files."""

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
from gpt2.data.sources.row_params import CorpusFiles, InstructionFiles


class UrlSource(FormatParams):
    """A file on the web."""

    source: Literal["url"]
    url: Url
    """The suffix of its path decides the format."""
    mirrors: list[Url] = Field([])
    """Other addresses of the same file, tried in this order if the first one fails."""
    sha256: Sha256 | None = None
    """Digest of the file. With it, a file that was downloaded before needs no network."""


class UrlCorpus(UrlSource, CorpusFiles):
    """Documents in a file on the web."""


class UrlInstructions(UrlSource, InstructionFiles):
    """Instruction records in a file on the web."""


def load_rows(params: UrlCorpus | UrlInstructions, cache: Path) -> RawData:
    """The rows of the file, which stays in ``cache``.

    Raises:
        UserError: no address gives the file, or it has another sha256.
    """
    path = cache / (params.sha256 or hashlib.sha256(params.url.encode()).hexdigest())
    if params.sha256 is None or not path.is_file() or files.sha256(path) != params.sha256:
        cache.mkdir(parents=True, exist_ok=True)
        download([params.url, *params.mirrors], path, sha256=params.sha256, cache=cache)
    reader = params.reader()
    name = PurePosixPath(unquote(urlsplit(params.url).path)).name or "download"
    origin = http_client.redacted(params.url)
    raw = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}

    def rows() -> Iterator[Row]:
        with path.open("rb") as file:
            yield from reader.rows(name, file)

    return RawData(origin, rows(), {"raw": {origin: raw}})
