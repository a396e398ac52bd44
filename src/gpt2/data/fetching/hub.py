"""Files on the Hugging Face hub: OpenAI's GPT-2 (tutorial part 5), or any other repository.

The address of a file is ``{endpoint}/{repository}/resolve/{revision}/{file}``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gpt2.core.errors import UserError
from gpt2.core.model_files import GENERATION_CONFIG
from gpt2.data.fetching import http_client
from gpt2.data.fetching.download import download
from gpt2.data.fetching.http_client import RETRY_POLICY, AbsentError, RetryPolicy
from gpt2.data.tokenizer import files as tokenizer_files
from gpt2.data.tokenizer.files import ADDED, MERGES, NAMES, VOCAB, WHOLE

ENDPOINT = "https://huggingface.co"
VOCABULARY = (VOCAB, MERGES)
TOKENIZER = (WHOLE, tokenizer_files.CONFIG, ADDED, NAMES, GENERATION_CONFIG)
"""Further files that may decide token ids or the end of a text; OpenAI's models need none."""


class Release(NamedTuple):
    """One of the four models that OpenAI released, as it is on the hub."""

    repository: str
    revision: str
    sha256: str
    """Of ``model.safetensors`` at this revision."""
    parameters: int
    n_layer: int
    n_head: int
    n_embd: int


# Pinned. At least two independent public projects record the same revisions and digests.
RELEASES = {
    "124M": Release(
        repository="openai-community/gpt2",
        revision="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        sha256="248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        parameters=124_439_808,
        n_layer=12,
        n_head=12,
        n_embd=768,
    ),
    "355M": Release(
        repository="openai-community/gpt2-medium",
        revision="6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        sha256="fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
        parameters=354_823_168,
        n_layer=24,
        n_head=16,
        n_embd=1024,
    ),
    "774M": Release(
        repository="openai-community/gpt2-large",
        revision="32b71b12589c2f8d625668d2335a01cac3249519",
        sha256="5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
        parameters=774_030_080,
        n_layer=36,
        n_head=20,
        n_embd=1280,
    ),
    "1558M": Release(
        repository="openai-community/gpt2-xl",
        revision="15ea56dee5df4983c59b2538573817e1667135e2",
        sha256="0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
        parameters=1_557_611_200,
        n_layer=48,
        n_head=25,
        n_embd=1600,
    ),
}


def places(repository: str, revision: str, file: str, mirrors: Sequence[str]) -> list[str]:
    """Addresses of a file: on the hub (or the server in ``HF_ENDPOINT``), then on the mirrors."""
    hub = os.environ.get("HF_ENDPOINT") or ENDPOINT
    return [
        f"{place.rstrip('/')}/{repository}/resolve/{revision}/{file}" for place in (hub, *mirrors)
    ]


def stated_sha256(
    addresses: Sequence[str], revision: str, policy: RetryPolicy = RETRY_POLICY
) -> str:
    """The sha256 that the hub itself states for a large file.

    The redirect to the file's storage has it in its headers (``X-Linked-Etag``), together with the
    revision (``X-Repo-Commit``).

    Raises:
        UserError: no address states one, or only for another revision.
    """
    problems, absent = [], True
    for address in addresses:
        try:
            answer = http_client.headers(address, "X-Linked-Etag", policy)
        except UserError as error:
            problems.append(str(error))
            absent = absent and isinstance(error, AbsentError)
            continue
        absent = False
        digest = answer["X-Linked-Etag"].strip('"')
        found = answer.get("X-Repo-Commit", revision)
        if len(digest) == 64 and found == revision:
            return digest
        problems.append(
            f"{http_client.redacted(address)}: states the digest {digest} of revision {found}; "
            f"a sha256 of revision {revision} was expected"
        )
    raise (AbsentError if absent else UserError)("\n  ".join(problems))


def fetch(
    repository: str,
    revision: str,
    files: Sequence[str],
    digests: Mapping[str, str],
    mirrors: Sequence[str],
    directory: Path,
    cache: Path,
    policy: RetryPolicy = RETRY_POLICY,
) -> None:
    """Write files of a repository into ``directory``.

    Args:
        repository: ``owner/name``.
        revision: a commit of it.
        files: their names.
        digests: sha256 of each file for which one is known.
        mirrors: other servers with the hub's layout, used when the hub fails.
        directory: directory of the files.
        cache: directory for unfinished downloads.
        policy: retries and timeout.

    Raises:
        UserError: a file could not be downloaded (`AbsentError`: it does not exist), or it has
            another digest.
    """
    for file in files:
        download(
            places(repository, revision, file, mirrors),
            directory / file,
            sha256=digests.get(file),
            cache=cache,
            policy=policy,
        )
