"""A random Llama of 116 kB in one GGUF file: a real model for llama.cpp, without a download.

File format: github.com/ggml-org/ggml, docs/gguf.md. Its judgements are meaningless. But a grammar
makes each of them valid, and the same prompt always gets the same one.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CONTEXT, WIDTH, HIDDEN, HEADS, LAYERS = 8192, 32, 64, 2, 1
ALIGNMENT = 32
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# The text, score and type (normal 1, unknown 2, control 3, byte 6) of each token.
VOCABULARY = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    ("<|im_start|>", 0.0, 3),
    ("<|im_end|>", 0.0, 3),
    ("\u2581", -1.0, 1),
]


def write_tiny_llama(path: Path, seed: int = 0) -> None:
    """Write the model. Another seed gives another model, with another digest."""
    tensors = _tensors(np.random.default_rng(seed))
    fields: dict[str, object] = {
        "general.architecture": "llama",
        "general.alignment": ALIGNMENT,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _, _ in VOCABULARY],
        "tokenizer.ggml.scores": [score for _, score, _ in VOCABULARY],
        "tokenizer.ggml.token_type": [kind for _, _, kind in VOCABULARY],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields))
    header += b"".join(_string(key) + _value(value) for key, value in fields.items())
    header += _tensor_table(tensors)
    data = b"".join(_padded(tensor.tobytes()) for tensor in tensors.values())
    path.write_bytes(_padded(header) + data)


def _tensors(random: np.random.Generator) -> dict[str, np.ndarray]:
    def matrix(rows: int, columns: int, gain: float = 1) -> np.ndarray:
        return random.normal(0, gain * columns**-0.5, (rows, columns)).astype(np.float32)

    norm = np.ones(WIDTH, np.float32)
    tensors = {
        "token_embd.weight": matrix(len(VOCABULARY), WIDTH, gain=WIDTH**0.5),
        "output_norm.weight": norm,
        "output.weight": matrix(len(VOCABULARY), WIDTH),
    }
    for layer in range(LAYERS):
        block = {
            "attn_norm": norm,
            # Gains: sharp attention with as much weight as the last token, so that replies vary.
            "attn_q": matrix(WIDTH, WIDTH, gain=3),
            "attn_k": matrix(WIDTH, WIDTH, gain=3),
            "attn_v": matrix(WIDTH, WIDTH),
            "attn_output": matrix(WIDTH, WIDTH, gain=4),
            "ffn_norm": norm,
            "ffn_gate": matrix(HIDDEN, WIDTH),
            "ffn_up": matrix(HIDDEN, WIDTH),
            "ffn_down": matrix(WIDTH, HIDDEN),
        }
        tensors |= {f"blk.{layer}.{name}.weight": tensor for name, tensor in block.items()}
    return tensors


def _tensor_table(tensors: Mapping[str, np.ndarray]) -> bytes:
    table, offset = b"", 0
    for name, tensor in tensors.items():
        dimensions = tensor.shape[::-1]  # GGUF names the fastest dimension first
        table += _string(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        table += struct.pack("<IQ", 0, offset)  # type 0: float32
        offset += len(_padded(tensor.tobytes()))
    return table


def _value(value: object) -> bytes:
    """A metadata value, preceded by the number of its type."""
    match value:
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(
                _string(str(item)) for item in value
            )
    raise TypeError(f"no GGUF type for {value!r}")


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)
