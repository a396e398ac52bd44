"""A model directory is a Hugging Face GPT-2 checkpoint, which OpenAI's public weights are as well.

Ours and theirs have the same names; only the blocks' matrices stand the other way round, since
OpenAI's Conv1D keeps ``(in, out)`` where PyTorch's Linear keeps ``(out, in)``.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2 import files
from gpt2.errors import UserError
from gpt2.model import GPT2, GPT2Config
from gpt2.params import parse
from gpt2.tokenizer import CONFIG, MERGES, VOCAB


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors in OpenAI's orientation; it is its own inverse."""
    return {name: tensor.t() if _is_conv1d(name) else tensor for name, tensor in state.items()}


def _is_conv1d(name: str) -> bool:
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def from_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a checkpoint file as ours.

    Takes the spellings of different ages: a ``transformer.`` prefix, the constant causal masks
    (``attn.bias``, ``attn.masked_bias``), and a separate ``lm_head.weight`` that equals ``wte``.

    Raises:
        UserError: the output layer is not tied to the embedding.
    """
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    head = named.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, named.get("wte.weight", torch.empty(0))):
        raise UserError("lm_head.weight differs from wte.weight: GPT-2 ties them")
    masks = (".attn.bias", ".attn.masked_bias")
    return to_openai({name: t for name, t in named.items() if not name.endswith(masks)})


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
        files.write_json(new / "generation_config.json", {"_from_model_config": True, **ends})
        for name in (VOCAB, MERGES, CONFIG):
            shutil.copyfile(tokenizer_directory / name, new / name)
        files.write_json(new / "training.json", dict(training))


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
        files.read_manifest(directory)
    config = read_config(directory / "config.json", dropout)
    path = directory / "model.safetensors"
    try:
        tensors = from_openai(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
    with torch.device("meta"):
        model = GPT2(config)
    _check_names_and_shapes(path, tensors, model.state_dict())
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return model


def read_config(path: Path, dropout: float = 0.0) -> GPT2Config:
    """The shape in a Hugging Face ``config.json``.

    Raises:
        UserError: a key is missing, or the model is a variation that GPT-2 itself is not.
    """
    values = files.read_json(path)
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
