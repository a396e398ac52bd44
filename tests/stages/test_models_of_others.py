"""A checkpoint with every feature that our models lack, through the stages and `transformers`."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from click import Command
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
from transformers import GPT2Config as PeerConfig

from gpt2.core import files
from gpt2.data.instructions import prompt
from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from scripts.deps import ROOT
from stages import download_gpt2_weights, finetune, generate_responses

BASE, FINETUNED = Path("models/gpt2"), Path("models/finetuned")
WORDS = ("ab", "cd", "ef", "gh")


def write_own(directory: Path) -> None:
    """A sharded checkpoint: a new tokenizer, chat markers (one ends a text), a padded vocabulary,
    another MLP width, exact GELU and an untied output layer."""
    old = Path("old")
    old.mkdir()
    texts = [prompt("Say ab.", "")] * 9
    train_bpe(texts, 330).save(old)
    tokenizer = AutoTokenizer.from_pretrained(old).train_new_from_iterator(texts, 320)
    markers = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": markers})
    tokenizer.eos_token = "<|im_end|>"
    torch.manual_seed(0)
    shape = {"vocab_size": 352, "n_positions": 160, "n_layer": 2, "n_head": 2, "n_embd": 32}
    other = {"n_inner": 48, "tie_word_embeddings": False, "activation_function": "gelu"}
    ends = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(PeerConfig(**shape, **other, **ends)).save_pretrained(
        directory, max_shard_size="20KB"
    )
    tokenizer.save_pretrained(directory)


def run(stage: Command, **paths: object) -> None:
    options = [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
    result = CliRunner().invoke(stage, options)
    assert result.exit_code == 0, result.output


def test_a_model_from_elsewhere_is_downloaded_finetuned_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_own(Path("own"))
    params = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    params["gpt2_weights"] = {"size": "any", "source": "directory", "path": "own"}
    params["finetune"].update(base_model=str(BASE), device="cpu", dtype="float32")
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    rows = [
        {"instruction": f"Say {word}.", "input": "", "output": f"{word}<|im_start|>", "name": word}
        | {"kind": "say", "split": split}
        for word in WORDS
        for split in ("train", "train", "validation", "test")
    ]
    records = Path("instructions.jsonl")
    files.write_sealed(records, "".join(json.dumps(row) + "\n" for row in rows))

    run(download_gpt2_weights.main, model_dir=BASE)
    run(finetune.main, instructions_file=records, base_model_dir=BASE, model_dir=FINETUNED)
    run(
        generate_responses.main,
        instructions_file=records,
        finetuned_model_dir=FINETUNED,
        base_model_dir=BASE,
        responses_dir="responses",
    )
    ours = weights.load(FINETUNED).eval()
    tokenizer = weights.load_tokenizer(FINETUNED, ours)
    before = weights.load(BASE)
    assert ours.config == before.config
    assert not torch.equal(ours.output_weight, before.output_weight)
    text = "<|im_start|>Say ab[PAD]<|im_end|>"
    ids = AutoTokenizer.from_pretrained("own")(text).input_ids
    assert tokenizer.encode(text) == AutoTokenizer.from_pretrained(FINETUNED)(text).input_ids == ids
    theirs = AutoModelForCausalLM.from_pretrained(FINETUNED).eval()
    assert tokenizer.end_of_text == theirs.generation_config.eos_token_id == ids[-1]
    batch = torch.tensor([ids])
    torch.testing.assert_close(ours(batch), theirs(batch).logits, rtol=1e-5, atol=1e-5)
