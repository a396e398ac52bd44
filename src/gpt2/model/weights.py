"""Model directories: saves and loads a model and its tokenizer as a Hugging Face GPT-2 checkpoint.

OpenAI's public weights have the same format.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.model_files import INDEX, WEIGHTS
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import CONFIG, MERGES, VOCAB
from gpt2.model.config import GPT2Config
from gpt2.model.config_file import read_config, stated_end
from gpt2.model.gpt2 import GPT2
from gpt2.model.openai_tensors import HEAD, from_openai, to_openai

PADDED_TO = 8
"""A vocabulary may be padded to a multiple of this for speed: 50,257 to 50,304, for example."""


def save(
    model: GPT2,
    directory: Path,
    tokenizer_directory: Path,
    end_of_text: int,
    training: Mapping[str, Any],
) -> None:
    """Write ``model`` and its tokenizer as a model directory.

    ``training``: how the model was trained, the content of ``training.json``.
    """
    config = model.config
    with files.new_directory(directory) as new:
        # With an untied output layer, `transformers` expects the prefix on all other names.
        prefix = "" if config.tie_word_embeddings else "transformer."
        state = {
            name if name == HEAD else f"{prefix}{name}": t.detach().cpu().contiguous()
            for name, t in to_openai(model.state_dict()).items()
        }
        save_file(state, new / WEIGHTS, metadata={"format": "pt"})
        ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
        hugging_face = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new" if config.gelu == "tanh" else "gelu",
            "vocab_size": config.vocab_size,
            "n_positions": config.context_length,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": config.tie_word_embeddings,
            **ends,
        }
        if config.n_inner is not None:
            hugging_face["n_inner"] = config.n_inner
        files.write_json(new / "config.json", hugging_face)
        write_generation_config(new, end_of_text)
        for name in (VOCAB, MERGES, CONFIG):
            shutil.copyfile(tokenizer_directory / name, new / name)
        files.write_json(new / "training.json", dict(training))


def write_generation_config(directory: Path, end_of_text: int) -> None:
    """Write the end-of-text token where ``transformers`` reads it."""
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    files.write_json(directory / "generation_config.json", {"_from_model_config": True, **ends})


def load(directory: Path, dropout: float = 0.0, foreign: bool = False) -> GPT2:
    """The model of a model directory, in float32.

    Args:
        directory: a Hugging Face GPT-2 checkpoint.
        dropout: probability of dropping an activation in training.
        foreign: whether other programs may have written it, so that it needs no manifest.

    Raises:
        UserError: the directory is damaged, or the checkpoint is not a GPT-2.
    """
    if not foreign or (directory / files.MANIFEST).is_file():
        manifest = files.read_manifest(directory)
        if manifest.get("size") == "none":
            raise UserError(
                f"{directory}: no model was downloaded there. Set gpt2_weights.size, or start from "
                "another model: finetune.base_model"
            )
    config = read_config(directory / "config.json", dropout)
    tensors = read_tensors(directory)
    try:
        named = from_openai(tensors, config.tie_word_embeddings)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    return assembled(named, config, f"{directory}: not the GPT-2 of its config.json")


def assembled(tensors: Mapping[str, Tensor], config: GPT2Config, problem: str) -> GPT2:
    """The model with these tensors, named and oriented as in `GPT2`, in float32.

    Raises:
        UserError: they are not exactly its parameters; ``problem`` is the heading of the list.
    """
    _check_size(problem, tensors, config)
    with torch.device("meta"), _NoInitialisation():
        model = GPT2(config)
    _check_names_and_shapes(problem, tensors, model.state_dict())
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return model


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the shards that its index lists.

    Raises:
        UserError: a file is missing or damaged, or the index and the files contradict each other.
    """
    if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file():
        return _read_safetensors(directory / WEIGHTS)
    files_of = shards(directory / INDEX)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files_of.values())):
        found = _read_safetensors(directory / name)
        expected = {tensor for tensor, file in files_of.items() if file == name}
        if found.keys() != expected:
            wrong = ", ".join(sorted(found.keys() ^ expected)[:5])
            raise UserError(
                f"{directory / name}: its tensors are not those that {INDEX} lists: {wrong}"
            )
        tensors |= found
    return tensors


def shards(index: Path) -> dict[str, str]:
    """The file of each tensor, a name in the directory of ``index``.

    Raises:
        UserError: the index is damaged, or names files in other directories.
    """
    values = files.read_json(index)
    place = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(place, dict) or not place:
        raise UserError(f"{index}: no table 'weight_map' of tensors and their files")
    for tensor, name in place.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UserError(
                f"{index}: weight_map.{tensor}: not a safetensors file beside it: {name!r}"
            )
    return place


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Weights are read from safetensors only") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def copy_whole(source: Path, directory: Path) -> None:
    """Write the weights in ``source`` into ``directory`` as one file. A single file is copied.

    Raises:
        UserError: as `read_tensors`.
    """
    if (source / WEIGHTS).is_file():
        shutil.copyfile(source / WEIGHTS, directory / WEIGHTS)
    else:
        save_file(read_tensors(source), directory / WEIGHTS, metadata={"format": "pt"})


def load_tokenizer(directory: Path, model: GPT2) -> Tokenizer:
    """The tokenizer of the model directory that ``model`` was loaded from.

    Raises:
        UserError: its files are damaged, or it is not the one that the model was trained with.
    """
    tokenizer = Tokenizer.load(directory, stated_end(directory))
    if tokenizer.n_vocab > model.config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.n_vocab:,} tokens, the model only "
            f"{model.config.vocab_size:,}. Use the tokenizer that the model was trained with"
        )
    path = directory / "training.json"
    training = files.read_json(path) if path.is_file() else None
    trained_with = training.get("tokenizer") if isinstance(training, dict) else None
    if trained_with not in (None, tokenizer.fingerprint):
        raise UserError(
            f"{directory}: its tokenizer ({tokenizer.fingerprint[:12]}) is not the one that the "
            f"model was trained with ({str(trained_with)[:12]}). Use that one's files"
        )
    return tokenizer


def count_parameters(model: GPT2) -> int:
    """Number of parameters; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_vocabulary(tokenizer: Tokenizer, model: GPT2, where: str) -> None:
    """Check that tokenizer and model have the same vocabulary, except for padding of the model's.

    Raises:
        UserError: the number of entries differs.
    """
    found, wanted = tokenizer.n_vocab, model.config.vocab_size
    if found != wanted and (found > wanted or wanted % PADDED_TO):
        raise UserError(
            f"{where}: the model has {wanted:,} tokens, its tokenizer {found:,}. Use the tokenizer "
            f"that the model was trained with (a model may have more tokens only if its vocabulary "
            f"is padded to a multiple of {PADDED_TO})"
        )


class _NoInitialisation(TorchFunctionMode):
    """Skips the initialisation of parameters. On the meta device, random numbers would make PyTorch
    import its compiler, which takes a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **kwargs)


def _check_size(problem: str, tensors: Mapping[str, Tensor], config: GPT2Config) -> None:
    """Refuse a config that is larger than the weights, before a model of that size is created.

    Raises:
        UserError: vocabulary, context or channels differ, or the config has more layers.
    """
    C = config.n_embd
    problems = []
    for name, shape in {"wte": (config.vocab_size, C), "wpe": (config.context_length, C)}.items():
        tensor = tensors.get(f"{name}.weight")
        if tensor is None:
            problems.append(f"{name}.weight: missing")
        elif tensor.shape != shape:
            problems.append(f"{name}.weight: shape {tuple(tensor.shape)}, expected {shape}")
    layers = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    if layers < config.n_layer:
        problems.append(f"h: {layers} layers, expected {config.n_layer}")
    if problems:
        raise UserError(f"{problem}\n  " + "\n  ".join(problems))


def _check_names_and_shapes(
    problem: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    problems = [f"{name}: missing" for name in sorted(set(wanted) - set(found))]
    problems += [f"{name}: unexpected" for name in sorted(set(found) - set(wanted))]
    problems += [
        f"{name}: shape {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(set(found) & set(wanted))
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        raise UserError(f"{problem}\n  " + "\n  ".join(problems))
