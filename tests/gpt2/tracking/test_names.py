import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import (
    _validate_length_limit,
    _validate_metric_name,
    _validate_model_name,
    _validate_param_name,
    _validate_tag_name,
)

from gpt2.tracking.names import encodable, mlflow_name, model_name, renamed

NAMES = {
    "val_loss": "val_loss",
    "by_kind.摘要.chrf": "by_kind.摘要.chrf",
    "Grün - 2 b": "Grün - 2 b",
    "a..b.": "a..b.",
    "Q&A": "Q:ampersand:A",
    "a,b": "a:comma:b",
    "100%": "100:percent sign:",
    "😀": ":grinning face:",
    "a:b": "a:colon:b",
    "val/loss": "val/loss",
    "../x": ":full stop:./x",
    "a//.b/": "a/:empty:/:full stop:b/:empty:",
    ".": ":full stop:",
    "a\\b": "a:reverse solidus:b",
    "a\nb": "a:u000a:b",
    "": ":empty:",
    " ": " ",
    "\ud800": ":ud800:",
}
ANY = st.text(
    st.sampled_from("aA:/.,&%\\\n \u0301") | st.characters(exclude_categories=[]), max_size=9
)


def is_valid(name: str) -> None:
    """By MLflow's own rules."""
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(name)
        validate(f"download-gpt2-weights/{name}")
    _validate_length_limit("name", 250, f"download-gpt2-weights/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_spelled_out_where_mlflow_rejects_them(name: str) -> None:
    assert mlflow_name(name) == NAMES[name]
    is_valid(NAMES[name])


def test_any_name_is_valid_and_no_two_are_the_same() -> None:
    seen: dict[str, str] = {}

    @settings(max_examples=500, deadline=None, database=None, derandomize=True)
    @given(ANY)
    def check(name: str) -> None:
        new = mlflow_name(name)
        is_valid(new)
        assert seen.setdefault(new, name) == name
        # A name that looks spelled out is another name.
        assert (mlflow_name(new) == new) == (new == name)

    check()


def test_long_names_stay_different() -> None:
    names = [f"{'&' * length}{end}" for length in (30, 300, 3000) for end in ("", "x", "y")]
    new = [mlflow_name(name) for name in names]
    assert len(set(new)) == len(names)
    for name in new:
        is_valid(name)


def test_only_what_changes_is_named() -> None:
    assert renamed(["val_loss", "Q&A"]) == {"Q:ampersand:A": "Q&A"}


def test_models_have_neither_slashes_nor_colons() -> None:
    names = ["gpt2-x", "a/b", "a:b", "a~b", "a~solidus~b", "Q&A", "../a", ""]
    new = [model_name(name) for name in names]
    assert new[:3] == ["gpt2-x", "a~solidus~b", "a~colon~b"]
    assert len(set(new)) == len(names)
    for name in new:
        _validate_model_name(name)


def test_texts_have_an_encoding() -> None:
    assert encodable("ä\ud800") == "ä\\ud800"
    assert encodable(5e-05) == "5e-05"
