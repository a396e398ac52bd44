"""A model behind MLflow's scoring server: ``POST /invocations`` with prompts, ``GET /ping``.

MLflow runs this very file to make the model ("models from code"), so that nothing is pickled.
"""

import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd

from gpt2 import files, text_model
from gpt2.device import DeviceParams
from gpt2.errors import UserError
from gpt2.generation import SamplingParams
from gpt2.instructions import prompt
from gpt2.params import parse
from gpt2.tracking.store import SETTINGS

# MLflow reads some of its settings when it is imported.
for name, value in {**SETTINGS, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
    os.environ.setdefault(name, value)

from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature, set_model  # noqa: E402
from mlflow.pyfunc import load_model, save_model  # noqa: E402
from mlflow.pyfunc.model import PythonModel, PythonModelContext  # noqa: E402
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema  # noqa: E402

MODEL = "model"
"""The model directory: a copy among the artifacts, or a path in the configuration."""
FIELDS = ("prompt", "instruction", "input")
"""Of a record: a text to continue; or an instruction, with an input if it has one."""
REQUIREMENTS = (
    *("mlflow", "numpy", "pandas", "psutil", "pydantic"),
    *("safetensors", "tiktoken", "torch", "tqdm"),
)
"""What the packaged model imports."""
DEFAULT = SamplingParams(max_new_tokens=100)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", field, required=False) for field in FIELDS]),
    outputs=Schema([ColSpec("string")]),
    params=ParamSchema(
        [
            ParamSpec("max_new_tokens", "long", DEFAULT.max_new_tokens),
            ParamSpec("temperature", "double", DEFAULT.temperature),
            ParamSpec("top_k", "long", DEFAULT.top_k),
            ParamSpec("top_p", "double", DEFAULT.top_p),
            ParamSpec("seed", "long", DEFAULT.seed),
        ]
    ),
)


class ServedModel(PythonModel):
    """Records with `FIELDS` in, texts out; each is what ``gpt2 generate`` or ``chat`` gives."""

    def load_context(self, context: PythonModelContext) -> None:
        config = dict(context.model_config)
        directory = Path(context.artifacts.get(MODEL) or config[MODEL])
        config.pop(MODEL, None)
        self._model = text_model.load(directory, parse(DeviceParams, config, "model_config"))
        self._one_at_a_time = Lock()  # the server has a thread for each request

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """The texts for a table of records; ``params`` are those of `SIGNATURE`."""
        try:
            sampling = parse(SamplingParams, {**DEFAULT.model_dump(), **(params or {})}, "params")
            prompts = [_prompt(row) for row in model_input.to_dict("records")]
            with self._one_at_a_time:
                return ["".join(self._model.continuation(text, sampling)) for text in prompts]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _prompt(record: Mapping[Hashable, Any]) -> str:
    """The text to continue; where a record lacks a field, its table has NaN."""
    given = {field: record.get(field) for field in FIELDS if isinstance(record.get(field), str)}
    match given:
        case {"prompt": str(text), **rest} if not rest:
            return text
        case {"instruction": str(instruction), **rest} if "prompt" not in rest:
            return prompt(instruction, given.get("input") or "")
    raise UserError("a record needs either a prompt, or an instruction and perhaps an input")


def package(model_dir: Path, output: Path, device: DeviceParams) -> None:
    """Write a copy of the model as an MLflow model, which needs nothing of this repository.

    Raises:
        UserError: the directory is not that of a GPT-2, or the output is there already.
    """
    text_model.load(model_dir, device)
    if output.exists():
        raise UserError(f"{output}: there already. Name another output, or delete it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        unfinished = Path(temporary, MODEL)
        _save(unfinished, device.model_dump(), artifacts={MODEL: str(model_dir)})
        unfinished.replace(output)


def serve(
    model_dir: Path, host: str, port: int, device: DeviceParams, announce: Callable[[str], None]
) -> None:
    """Answer requests until a signal comes; port 0 is any that is free.

    ``announce`` is told the server's address once it answers there.

    Raises:
        UserError: the directory is not that of a GPT-2, or the port is taken.
    """
    import uvicorn
    from mlflow.pyfunc import scoring_server

    with _listening(host, port) as listener, tempfile.TemporaryDirectory() as temporary:
        text_model.load(model_dir, device)
        place = Path(temporary, MODEL)
        _save(place, {**device.model_dump(), MODEL: str(model_dir.resolve())})
        app = scoring_server.init(load_model(str(place)))
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"{host}, port {port}: {error.strerror}. Name another --port") from error
    with listener:
        yield listener


def _save(path: Path, config: dict[str, Any], artifacts: dict[str, str] | None = None) -> None:
    with warnings.catch_warnings():
        # An example would be run, and the signature says as much.
        warnings.filterwarnings("ignore", ".*input example", UserWarning)
        save_model(
            path,
            python_model=__file__,
            artifacts=artifacts,
            model_config=config,
            signature=SIGNATURE,
            code_paths=[str(Path(files.__file__).parent)],
            pip_requirements=[f"{package}=={_version(package)}" for package in REQUIREMENTS],
        )


def _version(package: str) -> str:
    """Without what a build adds to it (``+cpu``): the package index knows only the rest."""
    return version(package).partition("+")[0]


set_model(ServedModel())
