"""Downloads or copies a Hugging Face checkpoint of a GPT-2: OpenAI's weights, or another model.

Importing this module does not import PyTorch, which a pipeline without such a model does not need.
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
    """Section ``gpt2_weights``: which model to use, and where it comes from."""

    size: Literal["none", "124M", "355M", "774M", "1558M", "any"]
    """One of the four models that OpenAI released; any: a GPT-2 of any shape; none: no model, the
    pipeline finetunes its own pretrained model."""
    source: Literal["hub", "directory"] = "hub"
    """hub: the Hugging Face hub, or the server in HF_ENDPOINT. directory: a Hugging Face checkpoint
    on this machine, or the output of `gpt2 import`."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Repository on the hub, ``owner/name``; only for size any, the other sizes have their own."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    """Commit of the repository; null: the one that is pinned for the size."""
    sha256: Sha256 | None = None
    """Digest of ``model.safetensors``; null: the one that is pinned for the size. With your own
    revision or repository none is pinned, and null uses the digest that the hub states."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """The directory; a relative path starts at the repository's root."""
    mirrors: list[Url] = Field(default_factory=list)
    """Servers with the hub's layout, tried in this order when the hub fails."""

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
    """Download the checkpoint's files from the hub into ``directory``; return their origin.

    Raises:
        UserError: a file is missing, cannot be downloaded, or does not have its digest.
    """
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
            parts = _shard_names(fetch, directory / INDEX, problem)
            digests, stated_by = {name: stated(name) for name in parts}, "hub"
    # Small files first: a wrong repository fails at once.
    fetch([CONFIG], {})
    if release:
        fetch(VOCABULARY, {name: file.sha256 for name, file in gpt2_tokenizer.FILES.items()})
    else:
        for name in (*VOCABULARY, *TOKENIZER):
            with suppress(AbsentError):
                fetch([name], {})
    _write_tokenizer(directory, directory)
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


def _shard_names(
    fetch: Callable[[Sequence[str], Mapping[str, str]], None], index: Path, problem: AbsentError
) -> list[str]:
    """Names of the files of sharded weights, from their index, which is downloaded first."""
    from gpt2.model import weights

    try:
        fetch([index.name], {})
    except AbsentError:
        raise problem from None
    return sorted(set(weights.shards(index).values()))


def copy(params: Gpt2WeightsParams, directory: Path, root: Path) -> dict[str, Any]:
    """Copy a checkpoint on this machine into ``directory``; return its origin.

    Raises:
        UserError: a file is missing or damaged, or does not have the expected digest.
    """
    from gpt2.model import weights

    source = checkpoint(params, root)
    if (source / files.MANIFEST).is_file():
        files.read_manifest(source)
    shutil.copyfile(source / CONFIG, directory / CONFIG)
    _write_tokenizer(source, directory)
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
        UserError: it has no configuration or no weights.
    """
    source = root / (params.path or "")
    for needed in ((CONFIG,), (WEIGHTS, INDEX)):
        if not any((source / name).is_file() for name in needed):
            raise UserError(
                f"gpt2_weights.path: {source / needed[0]}: no such file. A Hugging Face checkpoint "
                "of a GPT-2 in safetensors is needed (transformers: model.save_pretrained and "
                "tokenizer.save_pretrained). gpt2 import converts checkpoints of nanoGPT and llm.c"
            )
    return source


def _write_tokenizer(source: Path, directory: Path) -> None:
    """Write the tokenizer in ``source`` and its end-of-text token in the format of this package."""
    from gpt2.model import weights
    from gpt2.model.config_file import stated_end

    tokenizer = Tokenizer.load(source, stated_end(source))
    for name in TOKENIZER:
        (directory / name).unlink(missing_ok=True)
    tokenizer.save(directory)
    weights.write_generation_config(directory, tokenizer.end_of_text)
