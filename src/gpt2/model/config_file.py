"""What a Hugging Face ``config.json`` says of a model: its shape, and whether it is a GPT-2.

Every key that `transformers` has is read, or must have one value, or changes nothing here.
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
"""Fields of `GPT2Config` by their names in ``config.json``; `transformers` takes either of two."""
GELU: dict[str, Literal["tanh", "none"]] = {
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu": "none",
    "gelu_python": "none",
}
"""Names of an ``activation_function`` that are spellings of the two kinds of GELU."""
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
"""Keys of ``config.json`` that stand for another computation unless they have, or lack, this."""
CHANGES_NOTHING = frozenset(
    {
        *("resid_pdrop", "embd_pdrop", "attn_pdrop"),  # of training: finetune.dropout decides
        *("initializer_range", "use_cache", "dtype", "chunk_size_feed_forward"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),  # see `stated_end`
        *("output_hidden_states", "output_attentions", "return_dict"),
        *("transformers_version", "_name_or_path"),
        # Of models with another output than the next token's logits: their tensors are refused.
        *("architectures", "problem_type", "id2label", "label2id", "summary_type"),
        *("summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        "summary_first_dropout",
    }
)
"""The other keys that `transformers` knows."""


def read_config(path: Path, dropout: float = 0.0) -> GPT2Config:
    """The shape in a Hugging Face ``config.json``.

    Raises:
        UserError: a key is missing, or the model is a variation that GPT-2 itself is not.
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
    """The id that ends a text to `transformers`: of ``generation_config.json``, if it is there,
    else of ``config.json``; None if they name none.

    Raises:
        UserError: they name several.
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
