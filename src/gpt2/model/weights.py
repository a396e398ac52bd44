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

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.model_files import INDEX, WEIGHTS
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import CONFIG, MERGES, VOCAB
from gpt2.model.config import GPT2Config
from gpt2.model.config_file import read_config, stated_end
from gpt2.model.gpt2 import GPT2

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
PADDED_TO = 8
"""A vocabulary that is filled up for faster products has a multiple of this: 50,304 for 50,257."""
HEAD = "lm_head.weight"
MASKED = -9e3
"""Old checkpoints hold the number that hides later tokens: -1e4 (-9984 in bfloat16), or less."""


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors in OpenAI's orientation; it is its own inverse."""
    return {name: t.t() if _is_conv1d(name, t) else t for name, t in state.items()}


def _is_conv1d(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def plain_names(tensors: Mapping[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    """The parameters among the tensors of a checkpoint file, under our names, each used once.

    Takes the spellings of different ages: a ``transformer.`` prefix, the constant causal masks
    (``attn.bias``, ``attn.masked_bias``), and a separate ``lm_head.weight`` that equals ``wte``.

    Args:
        tensors: as they stand in the file.
        tied: whether the output layer is ``wte``.

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
    head = named.pop(HEAD, None) if tied else None
    if head is not None and not _equal(head, named.get("wte.weight")):
        problems.append(f"{HEAD}: differs from wte.weight, but tie_word_embeddings is true")
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
    return named


def from_openai(tensors: Mapping[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    """Tensors of a checkpoint file of OpenAI's orientation as ours; see `plain_names`."""
    return to_openai(plain_names(tensors, tied))


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
        # Beside an output layer of its own, `transformers` wants the prefix before all others.
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
    tensors = read_tensors(directory)
    try:
        ours = from_openai(tensors, config.tie_word_embeddings)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    return assembled(ours, config, f"{directory}: not the GPT-2 of its config.json")


def assembled(tensors: Mapping[str, Tensor], config: GPT2Config, problem: str) -> GPT2:
    """The model of these tensors, which are named and turned as ours; in float32.

    Raises:
        UserError: they are not exactly its parameters; ``problem`` leads the list.
    """
    _check_size(problem, tensors, config)
    with torch.device("meta"), _NoInitialisation():
        model = GPT2(config)
    _check_names_and_shapes(problem, tensors, model.state_dict())
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return model


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the files that its index names (shards).

    Raises:
        UserError: a file is missing or damaged, or the index and the files contradict each other.
    """
    if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file():
        return _read_safetensors(directory / WEIGHTS)
    place = shards(directory / INDEX)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(place.values())):
        found = _read_safetensors(directory / name)
        promised = {tensor for tensor, file in place.items() if file == name}
        if found.keys() != promised:
            wrong = ", ".join(sorted(found.keys() ^ promised)[:5])
            raise UserError(
                f"{directory / name}: its tensors are not those that {INDEX} says it has: {wrong}"
            )
        tensors |= found
    return tensors


def shards(index: Path) -> dict[str, str]:
    """The file of each tensor, a name in the directory of ``index``.

    Raises:
        UserError: the index is damaged, or leads out of its directory.
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
    """Write the weights in ``source`` into ``directory``, in one file; a single one byte for byte.

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


def check_vocabulary(tokenizer: Tokenizer, model: GPT2, where: str) -> None:
    """Refuse a tokenizer that has not all entries of the model, but for some that only fill it up.

    Raises:
        UserError: another number of entries.
    """
    found, wanted = tokenizer.n_vocab, model.config.vocab_size
    if found != wanted and (found > wanted or wanted % PADDED_TO):
        raise UserError(
            f"{where}: the model has {wanted:,} tokens, its tokenizer {found:,}. Use the tokenizer "
            f"that the model was trained with (more than it has are right where they only fill the "
            f"vocabulary up, to a multiple of {PADDED_TO})"
        )


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


def _check_size(problem: str, tensors: Mapping[str, Tensor], config: GPT2Config) -> None:
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
