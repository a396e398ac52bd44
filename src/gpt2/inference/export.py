"""A model directory as one GGUF file, which llama.cpp and Ollama run.

Layout: github.com/ggml-org/ggml, docs/gguf.md. Matrices become smaller numbers where that is asked
for; biases, norms and positions, which are few, stay float32.
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
"""Format of the matrices. q8_0: 8-bit integers, a float16 scale for each 32 of them."""


def export_gguf(model_dir: Path, output: Path, quantization: Quantization = "f16") -> str:
    """Write the model and the tokenizer in ``model_dir`` to ``output``, whole or not at all.

    A model that was finetuned here brings its prompt along as a chat template. q8_0 leaves a matrix
    whose rows are no multiple of 32 in float16.

    Args:
        model_dir: any Hugging Face GPT-2 checkpoint.
        output: the GGUF file.
        quantization: format of the matrices.

    Returns:
        the token that ends a text, for `modelfile`.

    Raises:
        UserError: the model or its tokenizer is damaged, or they do not belong together, or
            llama.cpp cannot compute them, or ``output`` cannot be written.
    """
    from gguf import GGUFWriter

    model = weights.load(model_dir, foreign=True)
    tokenizer = weights.load_tokenizer(model_dir, model)
    weights.check_vocabulary(tokenizer, model, str(model_dir))
    if model.config.gelu != "tanh":
        raise UserError(
            f"{model_dir}: it computes GELU exactly, llama.cpp the tanh approximation only. With "
            "activation_function gelu_new in its config.json (gpt2 import: --gelu tanh) it can be "
            "exported, but is another model: look at its answers first"
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

    # What only fills the vocabulary up has the name that llama.cpp's own converter gives it.
    tokens = [f"[PAD{token_id}]" for token_id in range(vocab_size)]
    kinds = [TokenType.UNUSED] * vocab_size
    for token, token_id in vocabulary(tokenizer.files[VOCAB]).items():
        tokens[token_id], kinds[token_id] = token, TokenType.NORMAL
    for token_id, added in tokenizer.added.items():
        if added.lstrip or added.rstrip or added.single_word:
            raise UserError(
                f"the tokenizer's added token {added.content!r} minds what is beside it "
                "(lstrip, rstrip or single_word), which llama.cpp does not"
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
    # GPT-2 splits "#" from a word before it merges, so no merge looks like the version line.
    writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
    writer.add_bos_token_id(tokenizer.start_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_eot_token_id(end_of_text)
    writer.add_add_bos_token(False)


def _write(writer: "GGUFWriter", model: GPT2, quantization: Quantization) -> None:
    """The whole file; of the converted tensors, one at a time is in memory."""
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
    # Without a tensor for the output layer, llama.cpp, too, takes the embedding.
    for name, tensor in tensors.items():
        full = name if name == HEAD else f"transformer.{name}"
        theirs = names.get_name(full, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ValueError(f"GGUF has no name for {name}")
        block, size = GGML_QUANT_SIZES[formats[name]]
        n_bytes = tensor.size // block * size
        writer.add_tensor_info(theirs, tensor.shape, tensor.dtype, n_bytes, formats[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        writer.write_tensor_data(quantize(tensor, formats[name]).view(_Plain))


class _Plain(np.ndarray):
    """An array that Python writes: numpy's own `tofile` takes a full disk for success when it is
    only the last bytes that do not fit, and never says what the operating system refused."""

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
    """Whether the model was finetuned here, and so expects `instructions.prompt`."""
    path = model_dir / "training.json"
    return path.is_file() and files.read_json(path).get("prompt") == "alpaca"


# The last message is the instruction, and the only one: in training no record has a second turn,
# nor a system message. The loops are there since Jinja drops the last newline of a template.
CHAT_TEMPLATE = (
    "{% for message in messages[-1:] %}" + prompt("{{ message.content }}", "") + "{% endfor %}"
)
"""`instructions.prompt` in Jinja, for llama.cpp (GGUF key ``tokenizer.chat_template``)."""

OLLAMA_TEMPLATE = (
    "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}"
    + prompt("{{ .Content }}", "")
    + "{{ end }}{{ end }}"
)
"""`instructions.prompt` as a template of the Go language, for Ollama."""


def modelfile(gguf_name: str, *, context_length: int, alpaca: bool, stop: str = END_OF_TEXT) -> str:
    """Text of a ``Modelfile`` for ``ollama create``: greedy, as ``gpt2 generate`` is by default.

    Args:
        gguf_name: name of the GGUF file, beside the Modelfile.
        context_length: of the model; it has no positions for more.
        alpaca: see `follows_alpaca`; otherwise the model continues the text that it is given.
        stop: the token that ends a text.
    """
    return f'''FROM ./{gguf_name}
TEMPLATE """{OLLAMA_TEMPLATE if alpaca else "{{ .Prompt }}"}"""
PARAMETER num_ctx {context_length}
PARAMETER temperature 0
PARAMETER repeat_penalty 1
PARAMETER stop "{stop}"
'''
