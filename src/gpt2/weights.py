"""A model directory is a Hugging Face GPT-2 checkpoint, which OpenAI's public weights are as well.

Ours and theirs have the same names; only the blocks' matrices stand the other way round, since
OpenAI's Conv1D keeps ``(in, out)`` where PyTorch's Linear keeps ``(out, in)``.
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

from gpt2 import files
from gpt2.errors import UserError
from gpt2.model import GPT2, GPT2Config
from gpt2.params import parse
from gpt2.tokenizer import CONFIG, MERGES, VOCAB, Tokenizer

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MASKED = -9e3
"""Old checkpoints hold the number that hides later tokens: -1e4 (-9984 in bfloat16), or less."""


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors in OpenAI's orientation; it is its own inverse."""
    return {name: t.t() if _is_conv1d(name, t) else t for name, t in state.items()}


def _is_conv1d(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def from_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a checkpoint file as ours, each used once.

    Takes the spellings of different ages: a ``transformer.`` prefix, the constant causal masks
    (``attn.bias``, ``attn.masked_bias``), and a separate ``lm_head.weight`` that equals ``wte``.

    Raises:
        UserError: lists the tensors that are there twice, are of another type than float32,
            bfloat16 or float16, or should be a mask or the tied output layer and are not.
    """
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    problems = [
        f"{name}: there with and without the prefix 'transformer.'"
        for name in sorted(named)
        if {name, f"transformer.{name}"} <= tensors.keys()
    ]
    head = named.pop("lm_head.weight", None)
    if head is not None and not _equal(head, named.get("wte.weight")):
        problems.append("lm_head.weight: differs from wte.weight, but GPT-2 ties them")
    positions = named.get("wpe.weight")
    places = len(positions) if positions is not None and positions.dim() else 0
    for name in [name for name in named if _is_mask_of_a_block(name, named)]:
        if not _is_constant(name, named.pop(name), places):
            problems.append(f"{name}: is not the constant causal mask of {places} places")
    problems += [
        f"{name}: type {tensor.dtype}, expected one of {', '.join(map(str, FLOATS))}"
        for name, tensor in sorted(named.items())
        if tensor.dtype not in FLOATS
    ]
    if problems:
        raise UserError("not the weights of a GPT-2\n  " + "\n  ".join(problems))
    return to_openai(named)


def _is_mask_of_a_block(name: str, named: Mapping[str, Tensor]) -> bool:
    block = re.fullmatch(r"(h\.\d+\.attn)\.(masked_)?bias", name)
    return block is not None and f"{block[1]}.c_attn.weight" in named


def _is_constant(name: str, mask: Tensor, places: int) -> bool:
    """Whether it is ones up to the diagonal, ``(1, 1, T, T)``, or the number that hides a score."""
    if mask.is_complex():
        return False
    if name.endswith("masked_bias"):
        return mask.dim() == 0 and bool(mask <= MASKED)
    if mask.shape != (1, 1, places, places):
        return False  # before a mask is made that may be far larger than the file
    return _equal(mask.float(), torch.ones(places, places).tril()[None, None])


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


def save(
    model: GPT2,
    directory: Path,
    tokenizer_directory: Path,
    end_of_text: int,
    training: Mapping[str, Any],
) -> None:
    """Write ``model`` and its tokenizer as a model directory; ``training``: where it came from."""
    config = model.config
    with files.new_directory(directory) as new:
        state = {
            name: t.detach().cpu().contiguous() for name, t in to_openai(model.state_dict()).items()
        }
        save_file(state, new / "model.safetensors", metadata={"format": "pt"})
        ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
        hugging_face = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
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
            "tie_word_embeddings": True,
            **ends,
        }
        files.write_json(new / "config.json", hugging_face)
        write_generation_config(new, end_of_text)
        for name in (VOCAB, MERGES, CONFIG):
            shutil.copyfile(tokenizer_directory / name, new / name)
        files.write_json(new / "training.json", dict(training))


def write_generation_config(directory: Path, end_of_text: int) -> None:
    """Tell ``transformers`` where a text ends."""
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    files.write_json(directory / "generation_config.json", {"_from_model_config": True, **ends})


def load(directory: Path, dropout: float = 0.0, foreign: bool = False) -> GPT2:
    """The model of a model directory, in float32.

    Args:
        directory: a Hugging Face GPT-2 checkpoint.
        dropout: probability of dropping an activation, should it be trained.
        foreign: whether others may have written it, so that it needs no manifest of ours.

    Raises:
        UserError: the directory is damaged, or the checkpoint is not that of a GPT-2.
    """
    if not foreign or (directory / files.MANIFEST).is_file():
        manifest = files.read_manifest(directory)
        if manifest.get("size") == "none":
            raise UserError(
                f"{directory}: no model was downloaded there. Set gpt2_weights.size, or start from "
                "another model: finetune.base_model"
            )
    config = read_config(directory / "config.json", dropout)
    path = directory / "model.safetensors"
    try:
        tensors = from_openai(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Weights are read from safetensors only") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _check_size(path, tensors, config)
    with torch.device("meta"), _NoInitialisation():
        model = GPT2(config)
    _check_names_and_shapes(path, tensors, model.state_dict())
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return model


def load_tokenizer(directory: Path, model: GPT2) -> Tokenizer:
    """The tokenizer of the model directory that ``model`` was loaded from.

    Raises:
        UserError: its files are damaged, or it is not the one that the model was trained with.
    """
    tokenizer = Tokenizer.load(directory)
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


class _NoInitialisation(TorchFunctionMode):
    """Leaves parameters as they are. Random numbers for tensors without storage would make PyTorch
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


def read_config(path: Path, dropout: float = 0.0) -> GPT2Config:
    """The shape in a Hugging Face ``config.json``.

    Raises:
        UserError: a key is missing, or the model is a variation that GPT-2 itself is not.
    """
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with the model's shape")
    expected = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_by_inverse_layer_idx": False,
    }
    for key, value in expected.items():
        if values.get(key, value) != value:
            raise UserError(f"{path}: {key} is {values[key]!r}, GPT-2's is {value!r}")
    renamed = {"context_length": "n_positions"}
    keys = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
    shape = {key: values[renamed.get(key, key)] for key in keys if renamed.get(key, key) in values}
    return parse(GPT2Config, {**shape, "dropout": dropout}, str(path))


def _check_size(path: Path, tensors: Mapping[str, Tensor], config: GPT2Config) -> None:
    """Refuse a config that is larger than the file before a model is made of it.

    Raises:
        UserError: another vocabulary, context or number of channels, or more layers.
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
        raise UserError(f"{path}: not the GPT-2 of its config.json\n  " + "\n  ".join(problems))


def _check_names_and_shapes(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    problems = [f"{name}: missing" for name in sorted(set(wanted) - set(found))]
    problems += [f"{name}: unexpected" for name in sorted(set(found) - set(wanted))]
    problems += [
        f"{name}: shape {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(set(found) & set(wanted))
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        raise UserError(f"{path}: not the GPT-2 of its config.json\n  " + "\n  ".join(problems))
