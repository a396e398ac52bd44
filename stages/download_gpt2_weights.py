"""Stage ``download-gpt2-weights``: OpenAI's public weights (tutorial part 5).

A pipeline that wants none does not wait for PyTorch: what needs it is imported in the functions.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import click
from pydantic import Field, model_validator

from gpt2 import files
from gpt2.errors import UserError
from gpt2.params import Params
from gpt2.sources import gpt2_tokenizer, hub
from gpt2.sources.checks import Sha256, Url, check_sha256
from gpt2.sources.hub import CONFIG, INDEX, RELEASES, TOKENIZER, VOCABULARY, WEIGHTS
from gpt2.sources.urls import AbsentError
from gpt2.tokenizer import Tokenizer
from stages.running import EXAMPLES, as_program, running

if TYPE_CHECKING:
    from gpt2.model import GPT2

DOWNLOADS = Path(".cache", "downloads")
"""Below the repository's root: unfinished downloads."""
PROMPT = "Hello, I'm a language model,"


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


@click.command(epilog=EXAMPLES.format("download-gpt2-weights"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--model-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, model_dir: Path) -> None:
    """Fetch OpenAI's GPT-2 weights, or note that none are wanted."""
    with running("download-gpt2-weights", params_path, sections=["gpt2_weights"]) as run:
        params = run.load(Gpt2WeightsParams, "gpt2_weights")
        metrics: dict[str, Any] = {"size": params.size}
        with files.new_directory(model_dir, {"size": params.size}) as directory:
            if params.size != "none":
                run.tracker.begin()
                if params.source == "directory":
                    origin = copy(params, directory, run.root)
                else:
                    origin = download(params, directory, run.root / DOWNLOADS)
                proof = prove(directory, params.size)
                facts = {"stage": "download-gpt2-weights", "size": params.size, **origin}
                files.write_json(directory / "training.json", facts)
                run.tracker.text(PROMPT + proof["continuation"] + "\n", "continuation.txt")
                metrics |= {**origin, **proof}
        run.metrics(metrics)


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
        from gpt2 import weights

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
    from gpt2 import weights

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
    from gpt2 import weights

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
    from gpt2 import weights
    from gpt2.config_file import stated_end

    tokenizer = Tokenizer.load(source, stated_end(source))
    for name in TOKENIZER:
        (directory / name).unlink(missing_ok=True)
    tokenizer.save(directory)
    weights.write_generation_config(directory, tokenizer.end_of_text)


def prove(directory: Path, size: str) -> dict[str, Any]:
    """Show that we read the checkpoint as it is meant; figures for the metrics.

    Every tensor of the file is used once, and every parameter is set: `weights.load` sees to it.

    Raises:
        UserError: it is not a GPT-2, or not one of this size.
    """
    from gpt2 import weights
    from gpt2.text_model import exact_continuation

    model = weights.load(directory, foreign=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_size(model, parameters, size)
    tokenizer = weights.load_tokenizer(directory, model)
    weights.check_vocabulary(tokenizer, model, "gpt2_weights")
    return {
        "bytes": (directory / WEIGHTS).stat().st_size,
        "parameters": parameters,
        "continuation": exact_continuation(model, tokenizer, PROMPT),
    }


def check_size(model: "GPT2", parameters: int, size: str) -> None:
    """Raise `UserError` unless ``model`` is OpenAI's of this ``size``."""
    release = RELEASES.get(size)
    if release is None:
        return
    found = {**model.config.model_dump(), "parameters": parameters}
    problems = [
        f"{key} is {found[key]:,}, not {getattr(release, key):,}"
        for key in ("n_layer", "n_head", "n_embd", "parameters")
        if found[key] != getattr(release, key)
    ]
    if problems:
        raise UserError(
            f"gpt2_weights.size: the checkpoint is not GPT-2 {size}: {', '.join(problems)}. "
            "Name its size, or write any"
        )


if __name__ == "__main__":
    as_program(main)
