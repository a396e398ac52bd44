"""Reads a Hugging Face ``config.json``: the shape of a model, and whether it is a GPT-2.

Every key that `transformers` knows is read, or must have one value, or has no effect here.
"""

from pathlib import Path
from typing import Any, Literal

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.model.config import GPT2Config

SHAPE = {
    "vocab_size": ("vocab_size",),
    "context_length": ("n_positions", "max_position_embeddings"),
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_inner": ("n_inner",),
    "tie_word_embeddings": ("tie_word_embeddings",),
}
"""Fields of `GPT2Config` and their names in ``config.json``; `transformers` accepts all of them."""
GELU: dict[str, Literal["tanh", "none"]] = {
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu": "none",
    "gelu_python": "none",
}
"""Values of ``activation_function`` that mean one of the two kinds of GELU."""
ONLY: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "per_layer_config": None,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
}
"""Keys of ``config.json`` that change the computation unless they are absent or have this value."""
CHANGES_NOTHING = frozenset(
    {
        *(
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
        ),  # for training, where finetune.dropout decides
        *("initializer_range", "use_cache", "dtype", "chunk_size_feed_forward"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),  # see `stated_end`
        *("output_hidden_states", "output_attentions", "return_dict"),
        *("transformers_version", "_name_or_path"),
        # For models with an output other than logits of the next token: their tensors are refused.
        *("architectures", "problem_type", "id2label", "label2id", "summary_type"),
        *("summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        "summary_first_dropout",
    }
)
"""Keys of ``config.json`` without an effect here."""


def read_config(path: Path, dropout: float = 0.0) -> GPT2Config:
    """The shape of the model in a Hugging Face ``config.json``.

    Raises:
        UserError: a key is missing, or the model is a variant of GPT-2 that is not supported.
    """
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with the model's shape")
    problems = [
        f"{key} is {values[key]!r}, GPT-2's is {value!r}"
        for key, value in ONLY.items()
        if values.get(key, value) != value
    ]
    activation = values.get("activation_function", "gelu_new")
    if str(activation) not in GELU:
        problems.append(f"activation_function is {activation!r}, not GELU: {', '.join(GELU)}")
    shape: dict[str, Any] = {}
    for field, names in SHAPE.items():
        given = {name: values[name] for name in names if name in values}
        if len(set(map(repr, given.values()))) > 1:
            problems.append(f"{' and '.join(given)} differ")
        if given:
            shape[field] = next(iter(given.values()))
    if problems:
        raise UserError(f"{path}: " + "\n  ".join(problems))
    return parse(
        GPT2Config, {**shape, "gelu": GELU[str(activation)], "dropout": dropout}, str(path)
    )


def stated_end(directory: Path) -> int | None:
    """The id of the end-of-text token, as `transformers` reads it.

    It stands in ``generation_config.json``, or in ``config.json`` if there is no such file. None if
    it is not set.

    Raises:
        UserError: there are several.
    """
    path = directory / "generation_config.json"
    if not path.is_file():
        path = directory / "config.json"
    values = files.read_json(path)
    end = values.get("eos_token_id") if isinstance(values, dict) else None
    named = {one for one in (end if isinstance(end, list) else [end]) if isinstance(one, int)}
    if len(named) > 1:
        raise UserError(f"{path}: eos_token_id names {len(named)} tokens, {end}: leave one")
    return named.pop() if named else None
