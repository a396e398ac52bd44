from typing import Any

from scripts.summary import summary


def metrics() -> dict[str, Any]:
    score = {"chrf": 18.31, "rouge_l": 20.0, "exact_match": 1.5}
    stages: dict[str, Any] = {
        "download": {},
        "pretrain": {"val_loss": 4.0, "perplexity": 54.6, "bits_per_byte": 1.71},
        "finetune": {"val_loss": 2.1, "val_loss_before": 3.3},
        "generate_responses": {"by_kind": {"describe": {"finetuned": score, "base": score}}},
        "llama3_eval": {
            "finetuned": {"mean": 50.0},
            "base": {"mean": 40.0},
            "control_auc": 0.52,
            "trusted": False,
        },
    }
    return stages


SECONDS = {"pretrain": 31.2, "finetune": 20.8}


def test_shows_every_result() -> None:
    text = summary(metrics(), SECONDS)
    for part in (
        "validation loss 4.000, perplexity 54.6, 1.710 bits per byte",
        "validation loss 2.100, before finetuning 3.300",
        "18.3 / 1.5",
        "finetuned 50.0, base 40.0 of 100; NOT trusted",
        "total 52",
        "data/models/finetuned",
        "make ui",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120


def test_stages_that_have_not_run_are_skipped() -> None:
    text = summary({}, {"download": 3.0})
    assert text.splitlines() == ["seconds       download 3; total 3", "runs          make ui"]


def test_a_trusted_judge_is_called_trusted() -> None:
    values = metrics()
    values["llama3_eval"] |= {"trusted": True, "control_auc": 0.97}
    assert "of 100; trusted (AUC on controls 0.97)" in summary(values, SECONDS)
