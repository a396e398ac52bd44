"""The whole pipeline on the smoke profile, by real `dvc repro`, with a tiny judge of our own."""

import json
import shutil
import subprocess
import sys

import pytest

from scripts.deps import ROOT
from tests.pipeline import ENVIRONMENT, WITH_RESULTS, Pipeline, started

# The report is no output of DVC's: what is restored is reported anew.
REPORTING = ["report"]
JUDGING = ["llama3-eval", *REPORTING]
PRETRAINING = ["pretrain", "finetune", "generate-responses", *JUDGING]


def test_every_stage_leaves_its_metrics_and_its_outputs_whole(pipeline):
    from gpt2.core import files

    for stage in WITH_RESULTS:
        assert pipeline.json(f"metrics/{stage.replace('-', '_')}.json")
    data = pipeline.directory / "data"
    for name in (
        "raw/corpus", "raw/tokenizer", "raw/judge", "tokenizer", "tokens", "models/pretrained",
        "models/gpt2", "models/finetuned", "responses", "judgements",
    ):  # fmt: skip
        files.read_manifest(data / name)
    plots = {path.name for path in (pipeline.directory / "plots").iterdir()}
    assert plots >= {"pretrain.csv", "finetune.csv", "llama3_eval_scores.csv"}
    assert (pipeline.directory / "reports" / "report.html").stat().st_size


def test_the_summary_says_what_came_out(pipeline):
    text = pipeline.call(sys.executable, "-m", "scripts.summary")
    bits = pipeline.json("metrics/pretrain.json")["bits_per_byte"]
    assert f"{bits:.3f} bits per byte" in text
    assert "NOT trusted" in text
    assert "data/models/finetuned" in text


def test_every_judgement_is_counted(pipeline):
    metrics = pipeline.json("metrics/llama3_eval.json")
    lines = (pipeline.directory / "data/judgements/judgements.jsonl").read_text().splitlines()
    variants = ("finetuned", "base", "reference", "shuffled")
    assert sum(metrics[variant]["n_total"] for variant in variants) == len(lines)
    for variant in variants:
        counts = metrics[variant]
        parts = counts["scored"] + counts["invalid"] + counts["error"]
        assert parts == counts["n_total"]


def test_transformers_loads_the_finetuned_model_with_our_loss(pipeline):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gpt2.core.device import Runtime
    from gpt2.data.shards import Tokens
    from gpt2.data.windows import evaluation_batches
    from gpt2.model import weights
    from gpt2.training.loss import evaluate

    directory = pipeline.directory / "data/models/finetuned"
    peer = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "def numpy.linalg.norm(x, ord=None)\nMatrix or vector norm.\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    validation = Tokens.open(pipeline.directory / "data/tokens", "validation")
    batches = list(evaluation_batches(validation, 128, 8))
    ours = evaluate(weights.load(directory), batches, Runtime(torch.device("cpu"), torch.float32))
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            logits = peer(batch.inputs).logits.flatten(0, 1)
            total += torch.nn.functional.cross_entropy(
                logits, batch.targets.flatten(), reduction="sum"
            ).item()
    assert total / ours.n_tokens == pytest.approx(ours.loss, abs=1e-3)


def test_mlflow_has_one_parent_with_a_run_for_each_stage(pipeline):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline.directory / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    first = min(parents, key=lambda run: run.info.start_time)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == first.info.run_id]
    assert len(children) == len([*WITH_RESULTS, *REPORTING])
    assert all(run.info.status == "FINISHED" for run in [first, *children])
    [pretrain] = [run for run in children if run.info.run_name.startswith("pretrain")]
    loss = pipeline.json("metrics/pretrain.json")["val_loss"]
    assert pretrain.data.metrics["val_loss"] == pytest.approx(loss)
    curve = client.get_metric_history(pretrain.info.run_id, "train/loss")
    assert [point.step for point in curve] == [*range(0, 30, 2), 29]
    names = {artifact.path for artifact in client.list_artifacts(pretrain.info.run_id)}
    assert {"curves.png", "samples"} <= names


CODE = {
    "src/gpt2/cli/main.py": [],
    "src/gpt2/core/device.py": [
        *("pretrain", "download-gpt2-weights", "finetune", "generate-responses"),
    ],
    "src/gpt2/core/progress.py": [],
    "src/gpt2/data/sources/package_docs.py": ["own-files", "download", "generate-responses"],
    "src/gpt2/data/tokenizer/bpe.py": [
        *("download", "tokenize", "pretrain", "download-gpt2-weights", "finetune"),
        "generate-responses",
    ],
    "src/gpt2/evaluation/judge/runner.py": ["llama3-eval", "report"],
    "src/gpt2/evaluation/text_metrics.py": ["generate-responses", "report"],
    "src/gpt2/inference/serving.py": [],
    "src/gpt2/model/gpt2.py": [
        *("pretrain", "download-gpt2-weights", "finetune", "generate-responses"),
    ],
    "src/gpt2/pipeline/plan.py": [],
    "src/gpt2/report/page.py": ["report"],
    "src/gpt2/tracking/store.py": [],
    "src/gpt2/training/optim.py": ["pretrain", "finetune"],
    "stages/tokenize.py": ["tokenize"],
}
"""A file of each room, and the stages whose outputs it decides."""


def stale(pipeline: Pipeline) -> list[str]:
    return sorted(json.loads(pipeline.call("dvc", "status", "--json")))


def test_an_edit_makes_stale_what_it_can_change_and_nothing_else(pipeline):
    assert stale(pipeline) == []
    for name, stages in CODE.items():
        path = pipeline.directory / name
        before = path.read_bytes()
        path.write_bytes(before + b"# edited\n")
        assert stale(pipeline) == sorted(stages), name
        path.write_bytes(before)
    assert stale(pipeline) == []


def test_nothing_runs_twice(pipeline):
    assert pipeline.repro() == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("llama3_eval.n_items", 5, JUDGING),
        pytest.param("pretrain.steps", 25, PRETRAINING, marks=pytest.mark.slow),
    ],
)
def test_a_changed_parameter_runs_what_depends_on_it_and_back_again_nothing(
    pipeline, key, value, expected
):
    before = pipeline.json("metrics/llama3_eval.json")
    old = pipeline.set(key, value)
    assert pipeline.repro() == expected
    pipeline.set(key, old)
    assert pipeline.repro() == REPORTING  # all else is restored from DVC's run cache
    assert pipeline.json("metrics/llama3_eval.json") == before


def test_a_stage_runs_the_code_beside_it_not_an_installed_one(pipeline, tmp_path):
    """What an editable install of the original tree does is put its ``src`` on the path."""
    copy = tmp_path / "copy"
    for name in ("src", "stages"):
        shutil.copytree(pipeline.directory / name, copy / name)
    code = "import stages, gpt2; print(gpt2.__file__)"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == str(copy / "src" / "gpt2" / "__init__.py")


@pytest.fixture
def copy(pipeline, tmp_path):
    """A copy to change, without MLflow, which costs half of the time."""
    directory = tmp_path / "copy"
    shutil.copytree(pipeline.directory, directory, symlinks=True)
    made = Pipeline.__new__(Pipeline)
    made.directory = directory
    return made


def test_random_weights_do_not_depend_on_a_downloaded_model(copy):
    assert "download-gpt2-weights" not in copy.call("dvc", "dag", "pretrain")
    copy.set("gpt2_weights.mirrors", ["https://localhost"])
    assert copy.repro() == ["own-files", "download-gpt2-weights", *REPORTING]


@pytest.mark.slow
def test_training_goes_on_with_a_model_of_ones_own(copy):
    shutil.copytree(copy.directory / "data/models/pretrained", copy.directory / "mine")
    before = copy.json("metrics/pretrain.json")["val_loss"]
    copy.set("gpt2_weights.size", "any")
    copy.set("gpt2_weights.source", "directory")
    copy.set("gpt2_weights.path", "mine")
    copy.set("tokenizer", {"kind": "model"})
    copy.set("pretrain.initial_weights", "data/models/gpt2")
    process = copy.run("dvc", "repro", "pretrain")
    assert process.returncode == 0, process.stdout + process.stderr
    assert started(process.stdout) == [
        *("own-files", "download", "download-gpt2-weights", "tokenize", "pretrain")
    ]
    assert f"pretrain: step 0: val_loss {before:.4f}" in process.stdout
    assert copy.json("data/models/pretrained/training.json")["parent"]
    assert "download-gpt2-weights" in copy.call("dvc", "dag", "pretrain")


@pytest.mark.slow
def test_more_steps_go_on_and_end_as_if_they_had_been_asked_for_at_once(copy):
    def results():
        names = (
            "data/models/pretrained/manifest.json",
            "metrics/pretrain.json",
            "plots/pretrain.csv",
        )
        return [(copy.directory / name).read_bytes() for name in names]

    copy.set("pretrain.min_lr_fraction", 1.0)
    copy.call("dvc", "repro", "pretrain")
    short = results()
    copy.set("pretrain.steps", 41)
    said = copy.call("dvc", "repro", "pretrain")
    assert "resuming from step 30 of the run of 30 steps" in said
    longer = results()
    shutil.rmtree(copy.directory / "data/runs")
    said = copy.call("dvc", "repro", "--force", "--single-item", "pretrain")
    assert "resuming from" not in said
    assert results() == longer
    # What DVC restores is the shorter run, as it was.
    copy.set("pretrain.steps", 30)
    assert started(copy.call("dvc", "repro", "pretrain")) == []
    assert results() == short
