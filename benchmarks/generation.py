"""Greedy writing with GPT-2 124M: ours against the tutorial's loop and Hugging Face's `generate`.

The weights are random (fixed seed): what a token costs does not depend on them. The tutorial's loop
(part 4) is written anew with what makes it cost what it costs: one prompt at a time, float32, no
cache: for each new token the model reads the whole text again and computes the logits of all its
places. It runs on our model, whose attention is the faster one. It is timed on the first tokens of
a few prompts, its cheapest ones. Hugging Face's model has the same weights, in the format that the
processor computes fastest in, as ours has, and its defaults; the prompts are padded on the left,
with an attention mask.
"""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import click
import torch

import stages  # noqa: F401  puts src/ on the path
from benchmarks.measure import Row, Timing, record, take_turns
from gpt2.core.device import DeviceParams, Runtime, choose_runtime, dtype_name
from gpt2.inference.generation.loop import generate, stream
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.openai_tensors import to_openai
from gpt2.pipeline.estimate import parameters
from gpt2.training.flops import measured_rate

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

GPT2_124M = GPT2Config(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768)
TINY = GPT2Config(vocab_size=512, context_length=256, n_layer=2, n_head=2, n_embd=64)
LENGTHS = (40, 100)
"""Of the prompts, as Alpaca's are: shortest and longest."""
NEVER = -1
"""As the end of text: all texts get the same number of tokens."""
FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
FEW = 4
"""Prompts whose tokens are compared in float32, and with which the tutorial's loop is timed."""

Ids = list[list[int]]


@click.command()
@click.option("--quick", is_flag=True, help="A tiny model, to see that all this runs.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--batch-size", default=50, show_default=True, help="Ours, with 100 prompts.")
def main(quick: bool, rounds: int, batch_size: int) -> None:
    """Print tokens/s of each side, and record them as ``generation``."""
    runtime = choose_runtime(DeviceParams(device="cpu"))
    torch.manual_seed(1)
    config, new = (TINY, 8) if quick else (GPT2_124M, 35)
    model = GPT2(config).eval()
    checks = agreement(model, new)
    rows = [against_tutorial(model, runtime, new, batch_size, rounds)]
    exact = peer_of(model, runtime)
    rows += [against_peer(model, exact, runtime, B, new, rounds) for B in (1, 16, 64)]
    rows = [Row(**{**vars(row), "checks": [*row.checks, *checks]}) for row in rows]
    record("generation", rows, quick=quick)


def against_tutorial(model: GPT2, runtime: Runtime, new: int, batch_size: int, rounds: int) -> Row:
    """100 prompts; the tutorial's loop is timed on a few tokens and scaled up to all."""
    texts, timed = prompts(100, model.config), 3
    few = sorted(texts, key=len)[:: len(texts) // FEW][:FEW]
    sampling = SamplingParams(max_new_tokens=new)
    name = "tutorial's loop"
    timings = take_turns(
        {
            "ours": lambda: generate(model, texts, sampling, NEVER, runtime, batch_size),
            name: lambda: [tutorials(model, ids, timed) for ids in few],
        },
        rounds,
    )
    scale = len(texts) * new / (len(few) * timed)
    seconds = timings[name]
    scaled = Timing([s * scale for s in seconds.clock], [s * scale for s in seconds.processor])
    return Row(
        f"{len(texts)} prompts, {new} new tokens each",
        len(texts) * new,
        "tokens",
        {"ours": timings["ours"], name: scaled},
        goals={name: 40},
        checks=[f"the loop was timed on {len(few)} x {timed} tokens, its time scaled to all"],
        figures={"batch_size": batch_size}
        | floors(model.config, runtime, texts, new, batch_size, timings["ours"]),
    )


def against_peer(
    model: GPT2, peer: "GPT2LMHeadModel", runtime: Runtime, B: int, new: int, rounds: int
) -> Row:
    """B prompts side by side; one prompt is a `stream`, as in a chat."""
    texts = prompts(B, model.config)
    sampling = SamplingParams(max_new_tokens=new)

    def ours() -> Ids:
        if B == 1:
            return [list(stream(model, texts[0], sampling, NEVER, runtime))]
        return generate(model, texts, sampling, NEVER, runtime, B)

    name = f"Hugging Face, {dtype_name(runtime.dtype)}"
    found, expected = ours(), peers(peer, texts, new)
    require_lengths(found, expected, new)
    timings = take_turns({"ours": ours, name: lambda: peers(peer, texts, new)}, rounds)
    same = sum(
        a == b for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)
    )
    return Row(
        f"{B} prompt{'s side by side' if B > 1 else ''}, {new} new tokens each",
        B * new,
        "tokens",
        {"ours": timings["ours"], name: timings[name]},
        goals={name: 1.3} if B > 1 else {},
        checks=[f"both sides wrote {new} tokens for each prompt"],
        figures={"equal_tokens_share": same / (B * new)}
        | floors(model.config, runtime, texts, new, B, timings["ours"]),
    )


def agreement(model: GPT2, new: int) -> list[str]:
    """What holds for a few prompts in float32, in sentences.

    Raises:
        ValueError: the sides wrote different tokens.
    """
    texts = prompts(FEW, model.config)
    found = generate(model, texts, SamplingParams(max_new_tokens=new), NEVER, FLOAT32)
    if found != peers(peer_of(model, FLOAT32), texts, new):
        raise ValueError("Hugging Face's greedy tokens differ from ours in float32")
    if [ids[:3] for ids in found] != [tutorials(model, ids, 3) for ids in texts]:
        raise ValueError("the tutorial's loop wrote other tokens than ours in float32")
    return [
        f"in float32 the {new} greedy tokens of {FEW} prompts equal Hugging Face's, "
        "and their first 3 those of the tutorial's loop"
    ]


def require_lengths(ours: Ids, theirs: Ids, new: int) -> None:
    """Raises:
    ValueError: a text has not got its ``new`` tokens.
    """
    if {len(ids) for ids in (*ours, *theirs)} != {new}:
        raise ValueError(f"a text has not got {new} new tokens")


def prompts(count: int, config: GPT2Config) -> Ids:
    """Random ones, always the same."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(LENGTHS[0], LENGTHS[1] + 1, (count,), generator=generator).tolist()
    return [torch.randint(config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def tutorials(model: GPT2, prompt: Sequence[int], new: int) -> list[int]:
    """The new tokens, by the tutorial's loop."""
    ids = torch.tensor([prompt])
    for _ in range(new):
        logits = model(ids[:, -model.config.context_length :])[:, -1]
        ids = torch.cat([ids, logits.softmax(-1).argmax(-1, keepdim=True)], 1)
    return ids[0, len(prompt) :].tolist()


def peer_of(model: GPT2, runtime: Runtime) -> "GPT2LMHeadModel":
    """Hugging Face's GPT-2 with the model's weights, for the runtime's device and dtype."""
    from transformers import GPT2Config as PeerConfig
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers' own
    c = model.config
    peer = GPT2LMHeadModel(
        PeerConfig(
            vocab_size=c.vocab_size,
            n_positions=c.context_length,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_embd=c.n_embd,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    peer.transformer.load_state_dict(to_openai(model.state_dict()))
    peer.tie_weights()
    torch.nn.Module.to(peer, runtime.device, runtime.dtype)
    torch.nn.Module.eval(peer)
    return peer


def peers(peer: "GPT2LMHeadModel", texts: Ids, new: int) -> Ids:
    """The new tokens of all texts, by Hugging Face's `generate`."""
    longest = max(map(len, texts))
    ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    ids, mask = ids.to(peer.device), mask.to(peer.device)
    out: torch.Tensor = peer.generate(  # type: ignore[misc, assignment]  # no tensor to mypy
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    new_ids: Ids = out[:, longest:].tolist()
    return new_ids


def floors(
    config: GPT2Config, runtime: Runtime, texts: Ids, new: int, B: int, ours: Timing
) -> dict[str, float]:
    """What the work must take at least, if every product ran at the rate of a large one and every
    byte were read once a step: of the prompts' operations and of each step's operations or bytes,
    whichever take longer."""
    body = parameters(config) - (config.vocab_size + config.context_length) * config.n_embd
    matrices = body + config.vocab_size * config.n_embd
    rate, bandwidth = measured_rate(runtime, config.n_embd), measured_bandwidth()
    places = median(map(len, texts)) + new / 2
    weights = matrices * runtime.dtype.itemsize
    cache = B * places * 2 * config.n_layer * config.n_embd * 4
    step = max((weights + cache) / bandwidth, 2 * matrices * B / rate)
    steps = new * len(texts) / B
    floor = 2 * body * sum(map(len, texts)) / rate + steps * step
    return {
        "matrix_rate_gflop_per_s": rate / 1e9,
        "memory_bandwidth_gb_per_s": bandwidth / 1e9,
        "weights_read_mb_per_step": weights / 1e6,
        "cache_read_mb_per_step": cache / 1e6,
        "floor_ms_per_step": 1e3 * step,
        "floor_s": floor,
        "share_of_floor_reached": floor / median(ours.clock),
    }


def measured_bandwidth(bytes_read: int = 1 << 29) -> float:
    """Bytes per second at which a large block of memory is read."""
    block = torch.ones(bytes_read // 4)

    def seconds(action: Callable[[], object]) -> float:
        started = perf_counter()
        action()
        return perf_counter() - started

    return bytes_read / min(seconds(block.sum) for _ in range(5))


if __name__ == "__main__":
    main()
