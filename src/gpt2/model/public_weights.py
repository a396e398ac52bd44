"""OpenAI's public weights, or another checkpoint of a GPT-2: from the hub or from a directory.

A pipeline that wants none does not wait for PyTorch: what needs it is imported in the functions.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.model_files import CONFIG, INDEX, WEIGHTS
from gpt2.core.params import Params
from gpt2.data.fetching import gpt2_tokenizer, hub
from gpt2.data.fetching.checks import Sha256, Url, check_sha256
from gpt2.data.fetching.http_client import AbsentError
from gpt2.data.fetching.hub import RELEASES, TOKENIZER, VOCABULARY
from gpt2.data.tokenizer.bpe import Tokenizer


class Gpt2WeightsParams(Params):
    """Which model is fetched, and from where."""

    size: Literal["none", "124M", "355M", "774M", "1558M", "any"]
    """One of the four models that OpenAI released; any: a GPT-2 of any shape; none: no model, this
    pipeline finetunes the one that it pretrained."""
    source: Literal["hub", "directory"] = "hub"
    """hub: the Hugging Face hub, or the server that HF_ENDPOINT names instead. directory: a Hugging
    Face checkpoint on this machine, or what `gpt2 import` wrote."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Of the hub, ``owner/name``; only for size any, the others know theirs."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    """Commit of the repository; null: the pinned one of the size."""
    sha256: Sha256 | None = None
    """Digest of ``model.safetensors``; null: the pinned one of the size. Where none is pinned, with
    a revision or repository of your own, null takes the one that the hub states."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """The directory; a relative one counts from the repository's root."""
    mirrors: list[Url] = Field(default_factory=list)
    """Servers with the hub's layout, asked in this order when the hub does not deliver."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        needed: set[str] = set()
        allowed: set[str] = set()
        match self.size, self.source:
            case "none", _:
                pass
            case _, "directory":
                needed, allowed = {"path"}, {"sha256"}
            case "any", "hub":
                needed, allowed = {"repository", "revision"}, {"sha256"}
            case _:
                allowed = {"revision", "sha256"}
        keys = ("repository", "revision", "sha256", "path")
        given = {key for key in keys if getattr(self, key) is not None}
        problems = [f"{key} is missing" for key in sorted(needed - given)]
        problems += [f"{key} must be null" for key in sorted(given - needed - allowed)]
        if problems:
            raise ValueError(f"size {self.size} from {self.source}: {', '.join(problems)}")
        return self


def download(params: Gpt2WeightsParams, directory: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint's files into ``directory``, from the hub; give facts on their origin."""
    release = RELEASES.get(params.size)
    repository = params.repository or (release.repository if release else "")
    revision = params.revision or (release.revision if release else "")

    def fetch(names: Sequence[str], digests: Mapping[str, str]) -> None:
        hub.fetch(repository, revision, names, digests, params.mirrors, directory, cache)

    def stated(name: str) -> str:
        return hub.stated_sha256(hub.places(repository, revision, name, params.mirrors), revision)

    parts = [WEIGHTS]
    if params.sha256:
        digests, stated_by = {WEIGHTS: params.sha256}, "parameters"
    elif release and revision == release.revision:
        digests, stated_by = {WEIGHTS: release.sha256}, "pinned"
    else:
        try:
            digests, stated_by = {WEIGHTS: stated(WEIGHTS)}, "hub"
        except AbsentError as problem:
            parts = _parts(fetch, directory / INDEX, problem)
            digests, stated_by = {name: stated(name) for name in parts}, "hub"
    # The small ones first, so that a wrong repository shows at once.
    fetch([CONFIG], {})
    if release:
        fetch(VOCABULARY, {name: file.sha256 for name, file in gpt2_tokenizer.FILES.items()})
    else:
        for name in (*VOCABULARY, *TOKENIZER):
            with suppress(AbsentError):
                fetch([name], {})
    take_tokenizer(directory, directory)
    fetch(parts, digests)
    if parts != [WEIGHTS]:
        from gpt2.model import weights

        weights.copy_whole(directory, directory)
        for name in (INDEX, *parts):
            (directory / name).unlink()
    return {
        "source": "hub",
        "repository": repository,
        "revision": revision,
        "sha256": digests.get(WEIGHTS) or files.sha256(directory / WEIGHTS),
        "sha256_stated_by": stated_by,
    }


def _parts(
    fetch: Callable[[Sequence[str], Mapping[str, str]], None], index: Path, problem: AbsentError
) -> list[str]:
    """The files that the weights are in, by an index of them, which is fetched."""
    from gpt2.model import weights

    try:
        fetch([index.name], {})
    except AbsentError:
        raise problem from None
    return sorted(set(weights.shards(index).values()))


def copy(params: Gpt2WeightsParams, directory: Path, root: Path) -> dict[str, Any]:
    """Write the files of a checkpoint on this machine into ``directory``; give their origin.

    Raises:
        UserError: one is missing, damaged, or another one than meant.
    """
    from gpt2.model import weights

    source = checkpoint(params, root)
    if (source / files.MANIFEST).is_file():
        files.read_manifest(source)
    shutil.copyfile(source / CONFIG, directory / CONFIG)
    take_tokenizer(source, directory)
    weights.copy_whole(source, directory)
    if params.sha256:
        where = f"gpt2_weights.sha256: {source / WEIGHTS}"
        check_sha256(directory / WEIGHTS, params.sha256, where)
    return {
        "source": "directory",
        "sha256": files.sha256(directory / WEIGHTS),
        "sha256_stated_by": "parameters" if params.sha256 else None,
    }


def checkpoint(params: Gpt2WeightsParams, root: Path) -> Path:
    """The directory of a checkpoint on this machine.

    Raises:
        UserError: it lacks a file that any has.
    """
    source = root / (params.path or "")
    for needed in ((CONFIG,), (WEIGHTS, INDEX)):
        if not any((source / name).is_file() for name in needed):
            raise UserError(
                f"gpt2_weights.path: {source / needed[0]}: no such file. A Hugging Face checkpoint "
                "of a GPT-2 in safetensors is needed (transformers: model.save_pretrained and "
                "tokenizer.save_pretrained). gpt2 import makes one of a nanoGPT's or llm.c's"
            )
    return source


def take_tokenizer(source: Path, directory: Path) -> None:
    """Write the tokenizer in ``source``, and what says where a text ends, as we keep them."""
    from gpt2.model import weights
    from gpt2.model.config_file import stated_end

    tokenizer = Tokenizer.load(source, stated_end(source))
    for name in TOKENIZER:
        (directory / name).unlink(missing_ok=True)
    tokenizer.save(directory)
    weights.write_generation_config(directory, tokenizer.end_of_text)
