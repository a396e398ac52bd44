"""Files from the web, checked against their sha256."""

import logging
from pathlib import Path

import requests

from gpt2.errors import UserError
from gpt2.sources.checks import check_sha256

SECONDS_OF_SILENCE = 30
BLOCK = 2**20

logger = logging.getLogger(__name__)


def download(url: str, sha256: str, destination: Path) -> None:
    """Write the file at ``url`` to ``destination``.

    Raises:
        UserError: the server cannot be reached or refuses, the connection breaks, or the digest
            is another one; ``destination`` does not exist then.
    """
    logger.info("downloading %s", url)
    try:
        with requests.get(url, stream=True, timeout=SECONDS_OF_SILENCE) as response:
            response.raise_for_status()
            with destination.open("wb") as file:
                for block in response.iter_content(BLOCK):
                    file.write(block)
    except requests.RequestException as error:
        destination.unlink(missing_ok=True)
        raise UserError(f"{url}: could not be downloaded ({error}). Check the network") from error
    check_sha256(destination, sha256, url)
