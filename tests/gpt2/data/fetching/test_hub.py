"""The hub's layout on a local server, and the four models of OpenAI."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.fetching.http_client import AbsentError, RetryPolicy
from gpt2.data.fetching.hub import RELEASES, fetch, places, stated_sha256
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from gpt2.model.openai_tensors import to_openai
from tests.file_server import HubHandler, RangeHandler, recording, serving

REPOSITORY = "somebody/gpt2"
REVISION = "0123456789abcdef0123456789abcdef01234567"
NAMES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
ONCE = RetryPolicy(retries=0)
Hub = type[RangeHandler]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    directory = tmp_path / "served" / REPOSITORY
    directory.mkdir(parents=True)
    for name in (*NAMES, "pytorch_model.bin"):
        (directory / name).write_text(f"This is {name}.")
    (tmp_path / "model").mkdir()
    return tmp_path / "served"


def hub(**attributes: object) -> Hub:
    return recording(HubHandler, revision=REVISION, **attributes)


@pytest.mark.parametrize("size", RELEASES)
def test_names_shapes_and_number_of_parameters_are_those_of_transformers(size: str) -> None:
    release = RELEASES[size]
    shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
    with torch.device("meta"):
        ours = GPT2(GPT2Config(vocab_size=50257, context_length=1024, **shape))
        peer = GPT2LMHeadModel(PeerConfig(**shape))
    expected = {name: t.shape for name, t in peer.state_dict().items() if name != "lm_head.weight"}
    found = {f"transformer.{name}": t.shape for name, t in to_openai(ours.state_dict()).items()}
    assert found == expected
    assert sum(p.numel() for p in ours.parameters()) == release.parameters
    assert sum(p.numel() for p in peer.parameters()) == release.parameters


def test_releases_are_distinguished() -> None:
    for key in ("repository", "revision", "sha256", "parameters"):
        assert len({getattr(release, key) for release in RELEASES.values()}) == 4


def test_the_hub_comes_first_then_the_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    tail = f"a/b/resolve/{REVISION}/config.json"
    assert places("a/b", REVISION, "config.json", ["http://mirror/"]) == [
        f"https://huggingface.co/{tail}",
        f"http://mirror/{tail}",
    ]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:80/hub/")
    assert places("a/b", REVISION, "config.json", []) == [f"http://127.0.0.1:80/hub/{tail}"]


def test_files_are_fetched_in_their_order_and_no_others(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = hub()
    with serving(served, handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", server)
        digests = {name: files.sha256(served / REPOSITORY / name) for name in NAMES[1:]}
        fetch(
            REPOSITORY, REVISION, NAMES, digests, [], tmp_path / "model", tmp_path / "cache", ONCE
        )
    assert {path.name: path.read_text() for path in (tmp_path / "model").iterdir()} == {
        name: f"This is {name}." for name in NAMES
    }
    asked = [path.rpartition("/")[2] for _, path, _ in handler.requests]
    assert asked == [*NAMES, "model.safetensors"]  # the last one by a redirect


def test_a_missing_small_file_shows_before_the_large_one(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / REPOSITORY / "merges.txt").unlink()
    handler = hub()
    with serving(served, handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", server)
        with pytest.raises(UserError, match=r"merges.txt: could not be .* 404"):
            fetch(REPOSITORY, REVISION, NAMES, {}, [], tmp_path / "model", tmp_path / "cache", ONCE)
    assert not any(path.endswith(".safetensors") for _, path, _ in handler.requests)


def test_what_no_place_has_is_absent_and_not_broken(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(name: str, *mirrors: str) -> None:
        digests: dict[str, str] = {}
        place = (tmp_path / "model", tmp_path / "cache", ONCE)
        fetch(REPOSITORY, REVISION, [name], digests, mirrors, *place)

    with serving(served, hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server)
        with pytest.raises(AbsentError):
            get("tokenizer.json")
        with pytest.raises(AbsentError):
            address = places(REPOSITORY, REVISION, "other.safetensors", [])
            stated_sha256(address, REVISION, ONCE)
        with pytest.raises(UserError) as caught:
            get("tokenizer.json", "http://127.0.0.1:9")  # it may be there
    assert not isinstance(caught.value, AbsentError)


def test_a_mirror_steps_in_for_each_file_that_the_hub_lacks(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with serving(empty, hub()) as first, serving(served, hub()) as second:
        monkeypatch.setenv("HF_ENDPOINT", first)
        fetch(
            REPOSITORY, REVISION, NAMES, {}, [second], tmp_path / "model", tmp_path / "cache", ONCE
        )
    assert len(list((tmp_path / "model").iterdir())) == 4


def test_the_hub_states_the_digest_of_a_large_file(served: Path) -> None:
    path = f"{REPOSITORY}/resolve/{REVISION}"
    handler = hub()
    with serving(served, handler) as server:
        stated = stated_sha256([f"{server}/{path}/model.safetensors"], REVISION, ONCE)
        assert stated == files.sha256(served / REPOSITORY / "model.safetensors")
        assert [method for method, _, _ in handler.requests] == ["HEAD"]
        with pytest.raises(UserError, match="no header X-Linked-Etag"):
            stated_sha256([f"{server}/{path}/config.json"], REVISION, ONCE)
        gone = f"{server}/nobody/gpt2/resolve/{REVISION}/config.json"
        addresses = [gone, f"{server}/{path}/model.safetensors"]
        assert stated_sha256(addresses, REVISION, ONCE) == stated


def test_a_digest_of_another_revision_or_kind_is_not_taken(served: Path) -> None:
    address = f"{REPOSITORY}/resolve/{REVISION}/model.safetensors"
    with serving(served, hub()) as server, pytest.raises(UserError, match="of revision 9999"):
        stated_sha256([f"{server}/{address}"], "9" * 40, ONCE)
    md5 = hub(stated=lambda self, path: "d" * 32)
    with serving(served, md5) as server, pytest.raises(UserError, match="states the digest dddd"):
        stated_sha256([f"{server}/{address}"], REVISION, ONCE)
