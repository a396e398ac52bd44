"""Exports a model directory as a GGUF file for llama.cpp and Ollama.

File format: github.com/ggml-org/ggml, docs/gguf.md. Matrices can be quantized. Biases, layer norms
and position embeddings, which are small, stay float32.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT, MERGES, VOCAB, vocabulary
from gpt2.model import weights
from gpt2.model.gpt2 import GPT2
from gpt2.model.openai_tensors import HEAD

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Quantization = Literal["f32", "f16", "q8_0"]
"""Format of the matrices. q8_0: 8-bit integers with a float16 scale for each block of 32."""


def export_gguf(model_dir: Path, output: Path, quantization: Quantization = "f16") -> str:
    """Write the model and the tokenizer in ``model_dir`` to ``output``, completely or not at all.

    For a model that was finetuned by this package, the prompt is added as a chat template. With
    q8_0, a matrix whose row length is not a multiple of 32 becomes float16.

    Args:
        model_dir: any Hugging Face GPT-2 checkpoint.
        output: the GGUF file.
        quantization: format of the matrices.

    Returns:
        the end-of-text token, for `modelfile`.

    Raises:
        UserError: the model or its tokenizer is damaged, they do not fit together, llama.cpp does
            not support them, or ``output`` cannot be written.
    """
    from gguf import GGUFWriter

    model = weights.load(model_dir, foreign=True)
    tokenizer = weights.load_tokenizer(model_dir, model)
    weights.check_vocabulary(tokenizer, model, str(model_dir))
    if model.config.gelu != "tanh":
        raise UserError(
            f"{model_dir}: it computes GELU exactly, llama.cpp the tanh approximation only. With "
            "activation_function gelu_new in its config.json (gpt2 import: --gelu tanh) it can be "
            "exported, but this changes the model: check its answers first"
        )
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    writer = GGUFWriter(temporary, "gpt2")
    writer.add_name(model_dir.resolve().name)
    _add_shape(writer, model)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    if follows_alpaca(model_dir):
        writer.add_chat_template(CHAT_TEMPLATE)
    with files.writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(writer, model, quantization)
            writer.flush()
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
            writer.close()
    return tokenizer.roles["eos_token"] or END_OF_TEXT


def _add_shape(writer: "GGUFWriter", model: GPT2) -> None:
    config = model.config
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(model.ln_f.eps)


def _add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer, vocab_size: int) -> None:
    from gguf import TokenType

    # Padding of the vocabulary is named as in llama.cpp's own converter.
    tokens = [f"[PAD{token_id}]" for token_id in range(vocab_size)]
    kinds = [TokenType.UNUSED] * vocab_size
    for token, token_id in vocabulary(tokenizer.files[VOCAB]).items():
        tokens[token_id], kinds[token_id] = token, TokenType.NORMAL
    for token_id, added in tokenizer.added.items():
        if added.lstrip or added.rstrip or added.single_word:
            raise UserError(
                f"the tokenizer's added token {added.content!r} has lstrip, rstrip or single_word, "
                "which llama.cpp does not support"
            )
        tokens[token_id] = added.content
        kinds[token_id] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    end_of_text = tokenizer.end_of_text
    kinds[end_of_text] = TokenType.CONTROL
    lines = tokenizer.files[MERGES].split("\n")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # GPT-2 splits "#" from words before it merges, so no merge looks like the version line.
    writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
    writer.add_bos_token_id(tokenizer.start_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_eot_token_id(end_of_text)
    writer.add_add_bos_token(False)


def _write(writer: "GGUFWriter", model: GPT2, quantization: Quantization) -> None:
    """Write the file, with one converted tensor in memory at a time."""
    from gguf import (
        GGML_QUANT_SIZES,
        GGML_QUANT_VERSION,
        MODEL_ARCH,
        LlamaFileType,
        get_tensor_name_map,
    )
    from gguf.quants import quantize

    file_types = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(file_types[quantization])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    names = get_tensor_name_map(MODEL_ARCH.GPT2, model.config.n_layer)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    formats = {name: _format(name, tensor.shape, quantization) for name, tensor in tensors.items()}
    # Without a tensor for the output layer, llama.cpp uses the token embedding (tied weights).
    for name, tensor in tensors.items():
        full = name if name == HEAD else f"transformer.{name}"
        gguf_name = names.get_name(full, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise ValueError(f"GGUF has no name for {name}")
        block, size = GGML_QUANT_SIZES[formats[name]]
        n_bytes = tensor.size // block * size
        writer.add_tensor_info(gguf_name, tensor.shape, tensor.dtype, n_bytes, formats[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        writer.write_tensor_data(quantize(tensor, formats[name]).view(_WritableArray))


class _WritableArray(np.ndarray):
    """An array whose `tofile` reports errors of the operating system.

    numpy's own `tofile` drops the reason, and misses a full disk if only the last bytes do not fit.
    """

    def tofile(self, file: Any, sep: str = "", format: str = "%s") -> None:
        file.write(np.ascontiguousarray(self).data)


def _format(
    name: str, shape: tuple[int, ...], quantization: Quantization
) -> "GGMLQuantizationType":
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1 or name == "wpe.weight":
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[quantization.upper()]
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else GGMLQuantizationType.F16


def follows_alpaca(model_dir: Path) -> bool:
    """Whether the model was finetuned by this package and so expects `instructions.prompt`."""
    path = model_dir / "training.json"
    return path.is_file() and files.read_json(path).get("prompt") == "alpaca"


# Only the last message is used, as the instruction: training records have one turn and no system
# message. The loop is needed because Jinja drops the last newline of a template.
CHAT_TEMPLATE = (
    "{% for message in messages[-1:] %}" + prompt("{{ message.content }}", "") + "{% endfor %}"
)
"""`instructions.prompt` in Jinja, for llama.cpp (GGUF key ``tokenizer.chat_template``)."""

OLLAMA_TEMPLATE = (
    "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}"
    + prompt("{{ .Content }}", "")
    + "{{ end }}{{ end }}"
)
"""`instructions.prompt` as a Go template, for Ollama."""


def modelfile(gguf_name: str, *, context_length: int, alpaca: bool, stop: str = END_OF_TEXT) -> str:
    """A ``Modelfile`` for ``ollama create``. It decodes greedily, the default of ``gpt2 generate``.

    Args:
        gguf_name: name of the GGUF file in the same directory.
        context_length: the model's; it has no position embeddings for more.
        alpaca: see `follows_alpaca`; otherwise the model continues the prompt as it is.
        stop: the end-of-text token.
    """
    return f'''FROM ./{gguf_name}
TEMPLATE """{OLLAMA_TEMPLATE if alpaca else "{{ .Prompt }}"}"""
PARAMETER num_ctx {context_length}
PARAMETER temperature 0
PARAMETER repeat_penalty 1
PARAMETER stop "{stop}"
'''
