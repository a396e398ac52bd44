"""Stage ``download-gpt2-weights``: OpenAI's public weights (tutorial part 5).

A pipeline that wants none does not wait for PyTorch: what needs it is imported in the functions.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import click
from pydantic import Field, model_validator

from gpt2 import files
from gpt2.errors import UserError
from gpt2.params import Params
from gpt2.sources import gpt2_tokenizer, hub
from gpt2.sources.checks import Sha256, Url, check_sha256
from gpt2.sources.hub import CONFIG, RELEASES, WEIGHTS
from gpt2.streams import standard_streams
from gpt2.tokenizer import Tokenizer
from stages.running import EXAMPLES, running

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
    Face checkpoint on this machine."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Of the hub, ``owner/name``; only for size any, the others know theirs."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    """Commit of the repository; null: the pinned one of the size."""
    sha256: Sha256 | None = None
    """Digest of ``model.safetensors``; null: the pinned one of the size. Where none is pinned, with
    a revision or repository of your own, null takes the one that the hub states."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """The directory; a relative one counts from the repository's root. DVC does not watch it."""
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
                from gpt2 import weights

                run.tracker.begin()
                if params.source == "directory":
                    origin = copy(params, directory, run.root)
                else:
                    origin = download(params, directory, run.root / DOWNLOADS)
                tokenizer = Tokenizer.load(directory)
                tokenizer.save(directory)  # for its tokenizer_config.json
                weights.write_generation_config(directory, tokenizer.end_of_text)
                proof = prove(directory, tokenizer, params.size)
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
    if params.sha256:
        sha256, stated_by = params.sha256, "parameters"
    elif release and revision == release.revision:
        sha256, stated_by = release.sha256, "pinned"
    else:
        weights_at = hub.places(repository, revision, WEIGHTS, params.mirrors)
        sha256, stated_by = hub.stated_sha256(weights_at, revision), "hub"
    digests = {WEIGHTS: sha256}
    if release:
        digests |= {name: file.sha256 for name, file in gpt2_tokenizer.FILES.items()}
    hub.fetch(repository, revision, digests, params.mirrors, directory, cache)
    return {
        "source": "hub",
        "repository": repository,
        "revision": revision,
        "sha256": sha256,
        "sha256_stated_by": stated_by,
    }


def copy(params: Gpt2WeightsParams, directory: Path, root: Path) -> dict[str, Any]:
    """Write the files of a checkpoint on this machine into ``directory``; give their origin.

    Raises:
        UserError: one is missing, damaged, or another one than meant.
    """
    source = root / (params.path or "")
    if (source / files.MANIFEST).is_file():
        files.read_manifest(source)
    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise UserError(
                f"gpt2_weights.path: {source / name}: no such file. A Hugging Face checkpoint of a "
                "GPT-2 in safetensors is needed (transformers: model.save_pretrained and "
                "tokenizer.save_pretrained)"
            )
        shutil.copyfile(source / name, directory / name)
    Tokenizer.load(source).save(directory)
    if params.sha256:
        where = f"gpt2_weights.sha256: {source / WEIGHTS}"
        check_sha256(directory / WEIGHTS, params.sha256, where)
    return {
        "source": "directory",
        "sha256": files.sha256(directory / WEIGHTS),
        "sha256_stated_by": "parameters" if params.sha256 else None,
    }


def prove(directory: Path, tokenizer: Tokenizer, size: str) -> dict[str, Any]:
    """Show that we read the checkpoint as it is meant; figures for the metrics.

    Every tensor of the file is used once, and every parameter is set: `weights.load` sees to it.

    Raises:
        UserError: it is not a GPT-2, or not one of this size.
    """
    import torch

    from gpt2 import weights
    from gpt2.device import Runtime
    from gpt2.generation import SamplingParams, generate

    model = weights.load(directory, foreign=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_size(model, parameters, size)
    if tokenizer.n_vocab != model.config.vocab_size:
        raise UserError(
            f"the checkpoint's tokenizer has {tokenizer.n_vocab:,} entries, but its config.json "
            f"says vocab_size {model.config.vocab_size:,}. Give the tokenizer that it was made with"
        )
    prompt = tokenizer.encode(PROMPT)[: model.config.context_length - 1]
    greedy = SamplingParams(max_new_tokens=20, temperature=0.0)
    exact = Runtime(torch.device("cpu"), torch.float32)  # the same on every machine
    [continuation] = generate(model, [prompt], greedy, tokenizer.end_of_text, exact)
    return {
        "bytes": (directory / WEIGHTS).stat().st_size,
        "parameters": parameters,
        "continuation": tokenizer.decode(continuation),
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
    with standard_streams(needed=False):
        main()
