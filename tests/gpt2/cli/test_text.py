"""`generate` and `chat` compared with transformers, and with real signals, pipes and a terminal."""

import os
import pty
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2Tokenizer
from transformers import GPT2Config as PeerConfig

from tests.gpt2.cli.command import ANSWER, ASKED, FLOAT32, PIPES, run, start


def generate(model: Path, *arguments: object, stdin: str | None = None) -> str:
    result = run("generate", "--model", model, *FLOAT32, *arguments, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def peers_continuation(directory: Path, text: str, new: int, **settings: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    peer = GPT2LMHeadModel.from_pretrained(directory).eval()
    ids = tokenizer(text or "<|endoftext|>", return_tensors="pt")
    settings |= {"max_new_tokens": new, "do_sample": False, "pad_token_id": 329}
    out = peer.generate(**ids, **settings)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("text", [ASKED, ASKED + "Voilà 🙂", ""])
def test_a_greedy_continuation_is_that_of_transformers(smiling, text):
    continuation = generate(smiling, "--prompt", text, "--max-new-tokens", 50)
    assert continuation == peers_continuation(smiling, text, 50)
    assert not text or text + continuation == ASKED + ANSWER


@pytest.mark.parametrize("text", ["Smile", "It's 🙂", ""])
def test_a_greedy_continuation_of_a_foreign_model_is_that_of_transformers(foreign, text):
    continuation = generate(foreign, "--prompt", text, "--max-new-tokens", 40)
    assert continuation == peers_continuation(foreign, text, 40)
    assert continuation


def written_by_transformers(
    smiling: Path, directory: Path, change: Callable[[GPT2Tokenizer], GPT2Tokenizer], **config: Any
) -> Path:
    """A model for a tokenizer that was changed after `smiling`'s."""
    torch.manual_seed(4)
    shard = config.pop("max_shard_size", "5GB")
    tokenizer = change(AutoTokenizer.from_pretrained(smiling))
    shape = {"vocab_size": len(tokenizer), "n_positions": 64, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    peer = GPT2LMHeadModel(PeerConfig(**{**shape, "n_embd": 32, **ends, **config}))
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    peer.save_pretrained(directory, max_shard_size=shard)
    tokenizer.save_pretrained(directory)
    return directory


def with_markers(tokenizer: GPT2Tokenizer) -> GPT2Tokenizer:
    markers = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": markers})
    return tokenizer


IMPORTED_MODELS: dict[str, tuple[Callable[[GPT2Tokenizer], GPT2Tokenizer], dict[str, Any]]] = {
    "added tokens": (with_markers, {}),
    "an end that is none": (with_markers, {"eos_token_id": 50256, "bos_token_id": 50256}),
    "trained anew": (lambda t: t.train_new_from_iterator([ASKED] * 2, 320), {}),
    "in shards": (lambda t: t, {"max_shard_size": "20KB"}),
    "an output layer of its own": (lambda t: t, {"tie_word_embeddings": False}),
    "another width": (lambda t: t, {"n_inner": 48}),
    "exact GELU": (lambda t: t, {"activation_function": "gelu"}),
    "filled up": (lambda t: t, {"vocab_size": 384}),
}


@pytest.mark.parametrize("name", IMPORTED_MODELS)
def test_imported_models_are_continued_as_by_transformers(smiling, tmp_path, name):
    change, config = IMPORTED_MODELS[name]
    directory = written_by_transformers(smiling, tmp_path, change, **config)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    peer = GPT2LMHeadModel.from_pretrained(directory).eval()
    text = "Smile[PAD] <|im_start|>It's 🙂"
    ids = tokenizer(text, return_tensors="pt")
    end = tokenizer.eos_token_id
    out = peer.generate(
        **ids, max_new_tokens=20, do_sample=False, pad_token_id=end, eos_token_id=end
    )
    new = out[0, ids["input_ids"].shape[1] :].tolist()
    new = new[: new.index(end)] if end in new else new
    continuation = generate(directory, "--prompt", text, "--max-new-tokens", 20)
    # Padding entries of the vocabulary are empty in transformers, U+FFFD here.
    assert continuation.replace("\ufffd", "") == tokenizer.decode(new).replace("\ufffd", "")
    output = ["--to", "gguf", "--output", tmp_path / "model.gguf"]
    result = run("export", "--model", directory, *output)
    assert result.exit_code == (1 if name == "exact GELU" else 0), result.stderr


def test_the_same_seed_gives_the_same_text(foreign):
    def sampled(seed: int) -> str:
        sampling = ("--temperature", 1.2, "--top-k", 50, "--top-p", 0.9, "--seed", seed)
        return generate(foreign, "--prompt", "Smile", "--max-new-tokens", 20, *sampling)

    assert len({sampled(seed) for seed in (1, 2, 10**30)}) == 3
    assert sampled(1) == sampled(1)


def test_the_prompt_comes_from_standard_input_as_it_is(smiling):
    assert generate(smiling, "--prompt", "-", stdin=ASKED) == ANSWER
    continuation = generate(smiling, "--prompt", "-", "--max-new-tokens", 9, stdin="Smile.\r\n")
    assert continuation == generate(smiling, "--prompt", "Smile.\r\n", "--max-new-tokens", 9)


@pytest.mark.parametrize(
    "text",
    [
        "Smile.\nSmile.\n/exit\nSmile.\n",
        "Smile.\nSmile.",
        "Smile.\n\n Smile. \n",
        "\n\n\nSmile.\n \t \n\nSmile.\n\n",
        "\r\nSmile.\r\n\r\nSmile.\r\n",
    ],
)
def test_chat_answers_each_line_that_is_piped_and_skips_empty_ones(smiling, text):
    result = run("chat", "--model", smiling, *FLOAT32, stdin=text)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{ANSWER}\n{ANSWER}\n"


@pytest.mark.parametrize("text", ["", "\n", " \n\n\t"])
def test_chat_without_instructions_prints_nothing(smiling, text):
    result = run("chat", "--model", smiling, *FLOAT32, stdin=text)
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["aï"], "Voilà 🙂: naï"),
        (["Ω.", "never there", "!\n"], ANSWER.removesuffix("Ω")),
        (["\nV", "🙂"], "V"),  # begins in the prompt
        (["👩‍👩‍👧!", "文"], "Voilà 🙂: naïve 中文"),
        (["never there"], ANSWER),
    ],
)
def test_stop_strings_end_a_text_where_transformers_ends_it(smiling, stop, expected):
    options = [part for text in stop for part in ("--stop", text)]
    continuation = generate(smiling, "--prompt", ASKED, "--max-new-tokens", 60, *options)
    settings = {"stop_strings": stop, "tokenizer": AutoTokenizer.from_pretrained(smiling)}
    assert continuation == peers_continuation(smiling, ASKED, 60, **settings)
    assert continuation == expected


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_several_texts_are_sampled_independently(foreign, command):
    sampling = ("--temperature", 1.2, "--max-new-tokens", 8, "--seed", 3, *FLOAT32)
    sampling += ("--min-p", 0.02, "--repetition-penalty", 1.2, "--stop", "never there")
    ask = ("--prompt", "Smile") if command == "generate" else ()
    one = run(command, "--model", foreign, *ask, *sampling, stdin="Smile.\n")
    arguments = ("--num-return-sequences", 40)
    several = run(command, "--model", foreign, *ask, *sampling, *arguments, stdin="Smile.\n")
    assert (one.exit_code, several.exit_code) == (0, 0), several.output
    texts = several.stdout.removesuffix("\n").split("\n---\n")
    assert len(texts) == 40
    assert len(set(texts)) > 30
    assert texts[0] == one.stdout.removesuffix("\n")
    refused = run(command, "--model", foreign, *ask, *arguments, stdin="Smile.\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "num_return_sequences=40 needs a temperature above 0" in refused.stderr


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", ["1e-45", "1e-40", "5e-324", "1e-12", "1e6"])
@pytest.mark.parametrize("rest", [[], ["--top-k", "7", "--top-p", "0.5", "--min-p", "0.1"]])
def test_no_temperature_is_too_extreme(foreign, dtype, temperature, rest):
    options = ("--prompt", "Smile", "--device", "cpu", "--dtype", dtype, "--max-new-tokens", 9)
    found = run("generate", "--model", foreign, *options, "--temperature", temperature, *rest)
    assert (found.exit_code, found.stderr) == (0, "")
    if float(temperature) < 1:
        assert found.stdout == run("generate", "--model", foreign, *options).stdout


@torch.no_grad()
def plain_loop(directory: Path, text: str, new: int) -> str:
    """The tutorial's loop: the model sees the last tokens that fit its context."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    peer = GPT2LMHeadModel.from_pretrained(directory).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    written = ids
    for _ in range(new):
        token = peer(written[:, -peer.config.n_positions :]).logits[:, -1].argmax(-1, keepdim=True)
        written = torch.cat([written, token], dim=1)
    return tokenizer.decode(written[0, ids.shape[1] :])


@pytest.mark.parametrize("text", ["Smile", "Smile. " * 40])
def test_beyond_the_context_the_window_slides(foreign, text):
    """A model that never ends a text; its context is 64."""
    options = ("--prompt", text, "--max-new-tokens", 90)
    process = start("generate", "--model", foreign, *options, **PIPES)
    out, err = process.communicate()
    assert (process.returncode, out.decode()) == (0, plain_loop(foreign, text, 90))
    if text == "Smile":
        assert err == b""
    else:
        message = "the prompt has 120 tokens, and the model's context 64: only its end is read"
        assert err.decode().startswith(message)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (
            ["generate", "--prompt", "a " * 200, "--strict"],
            None,
            "error: the prompt has 201 tokens, and the model's context 160. Shorten it",
        ),
        (["generate", "--prompt", "-"], b"a\xff", "error: standard input: not UTF-8 at byte 1"),
        (["generate", "--prompt", "", "--temperature", "nan"], None, "error: options.temperature"),
        (["chat", "--strict"], "a " * 200, "error: the prompt has .* tokens"),
        (["generate", "--prompt", "", "--stop", ""], None, "error: options.stop.0: "),
    ],
)
def test_an_error_is_one_message(smiling, arguments, stdin, message):
    command, *options = arguments
    result = run(command, "--model", smiling, *options, stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(f"{message}.*\n", result.stderr)


def test_characters_arrive_complete_and_as_they_are_generated(smiling):
    process = start("generate", "--model", smiling, "--prompt", ASKED, **PIPES)
    parts = []
    while part := os.read(process.stdout.fileno(), 1 << 16):
        parts.append(part.decode())
    assert "".join(parts) == ANSWER
    assert len(parts) > 3
    assert (process.wait(), process.stderr.read()) == (0, b"")


def test_ctrl_c_stops_the_answer_and_between_answers_the_program(endless):
    process = start("chat", "--model", endless, "--max-new-tokens", 8000, **PIPES)
    for _ in range(2):
        process.stdin.write(b"Talk.\n")
        process.stdin.flush()
        answer = os.read(process.stdout.fileno(), 1 << 16)
        process.send_signal(signal.SIGINT)
        while not answer.endswith(b"\n"):
            part = os.read(process.stdout.fileno(), 1 << 16)
            assert part, process.stderr.read().decode()
            answer += part
        assert len(answer.decode()) > 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"\n")


@pytest.mark.parametrize("end", [b"\x04", b"\n"])
def test_chat_on_a_terminal_asks_and_survives_a_long_instruction(smiling, end):
    terminal, child = pty.openpty()
    process = start("chat", "--model", smiling, "--strict", stdin=child, stdout=child, stderr=child)
    os.close(child)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        while text not in shown:
            shown += os.read(terminal, 1 << 16).decode()
        shown = shown.partition(text)[2]

    wait_for("> ")
    os.write(terminal, b"a " * 200 + b"\n")
    wait_for("error: the prompt has ")
    wait_for("> ")
    os.write(terminal, b"Smile.\n")
    wait_for(ANSWER.replace("\n", "\r\n"))
    wait_for("> ")
    os.write(terminal, end)
    assert process.wait() == 0
    os.close(terminal)
