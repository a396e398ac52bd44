"""All checks together: which ones a profile gets."""

from pathlib import Path

from gpt2.core.device import DeviceParams
from gpt2.data.sources.local_files import FileCorpus
from gpt2.evaluation.judge.params import LlamaEvalParams, OpenAIParams
from gpt2.pipeline.doctor import examine
from gpt2.pipeline.needs import Needs


def needs(root: Path, **changes: object) -> Needs:
    corpus = root / "corpus.txt"
    corpus.write_text("text")
    values: dict[str, object] = {
        "wheels": [],
        "addresses": [],
        "packages": ["numpy"],
        "checkpoint": None,
        "sources": [FileCorpus(source="file", path="corpus.txt")],
        "judge": OpenAIParams(backend="openai", model="m", base_url="http://127.0.0.1:1/v1"),
        "evaluation": LlamaEvalParams(),
        "devices": [DeviceParams()],
        "compiled": False,
        "memory": 1.0,
        "disk": 1.0,
        **changes,
    }
    return Needs(**values)  # type: ignore[arg-type]  # each is what its name says


def test_every_check_has_a_line(tmp_path: Path, nobody: str) -> None:
    names = [check.name for check in examine(tmp_path, None)]
    alone = ["Python", "packages", "processor", "GPU", "C++ compiler", "git", "dvc", "MLflow"]
    assert names == alone
    wanted = needs(tmp_path, addresses=[nobody], checkpoint=Path("gpt2"))
    checks = examine(tmp_path, wanted)
    assert [check.name for check in checks] == [
        *alone,
        *("disk", "memory", "judge", "download", "own files", "sources", "checkpoint"),
    ]
    assert {check.name for check in checks[len(alone) :] if not check.works} == {
        *("judge", "download", "checkpoint"),
    }
