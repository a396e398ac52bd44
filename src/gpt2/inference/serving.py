"""Serves a model with MLflow's scoring server: ``POST /invocations`` with prompts, ``GET /ping``.

MLflow runs this file to create the model ("models from code"), so that nothing is pickled.
"""

import json
import math
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2.core import files
from gpt2.core.device import DeviceParams
from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.inference import invocations, text_model
from gpt2.inference.text_model import ContinuationParams
from gpt2.tracking.store import SETTINGS

# Before the import of MLflow, which reads some of its settings then.
for name, value in {**SETTINGS, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
    os.environ.setdefault(name, value)

from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature, set_model  # noqa: E402
from mlflow.pyfunc import load_model, save_model  # noqa: E402
from mlflow.pyfunc.model import PythonModel, PythonModelContext  # noqa: E402
from mlflow.types import ParamSchema, ParamSpec  # noqa: E402

TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
"""Environment variable: seconds after which MLflow's server gives up on a request."""
JSON = "application/json"
MODEL = "model"
"""Key of the model directory: a copy among the artifacts, or a path in the configuration."""
REQUIREMENTS = (
    *("mlflow", "numpy", "pandas", "psutil", "pydantic"),
    *("safetensors", "starlette", "tiktoken", "torch", "tqdm"),
)
"""Packages that the packaged model imports."""
DEFAULT = ContinuationParams(max_new_tokens=100)
# Without inputs: MLflow would drop fields of a record that the signature does not name.
SIGNATURE = ModelSignature(
    params=ParamSchema(
        [
            ParamSpec("max_new_tokens", "long", DEFAULT.max_new_tokens),
            ParamSpec("repetition_penalty", "double", DEFAULT.repetition_penalty),
            ParamSpec("temperature", "double", DEFAULT.temperature),
            ParamSpec("top_k", "long", DEFAULT.top_k),
            ParamSpec("top_p", "double", DEFAULT.top_p),
            ParamSpec("min_p", "double", DEFAULT.min_p),
            ParamSpec("stop", "string", DEFAULT.stop, shape=(-1,)),
            ParamSpec("strict", "boolean", DEFAULT.strict),
            ParamSpec("seed", "long", DEFAULT.seed),
            ParamSpec("num_return_sequences", "long", DEFAULT.num_return_sequences),
        ]
    ),
)


class ServedModel(PythonModel):
    """Takes records with `invocations.FIELDS`; returns texts, as ``gpt2 generate`` or ``chat``."""

    def load_context(self, context: PythonModelContext) -> None:
        config = dict(context.model_config)
        directory = Path(context.artifacts.get(MODEL) or config[MODEL])
        config.pop(MODEL, None)
        self._model = text_model.load(directory, parse(DeviceParams, config, "model_config"))
        self._one_at_a_time = Lock()  # the server uses a thread for each request

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,  # or another input of `read_table`, for which MLflow has no hint
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """The texts for all records, in their order; ``params``: those of `SIGNATURE`."""
        # A request that has timed out must not keep the others waiting.
        deadline = time.monotonic() + float(os.environ.get(TIMEOUT, math.inf))
        try:
            wanted = read_params(params or {})
            texts = invocations.texts(invocations.read_table(model_input))
            with self._one_at_a_time:
                return [
                    continuation
                    for text in texts
                    for continuation in self._model.continuations(text, wanted, deadline)
                ]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        except TimeoutError as error:
            raise MlflowException(f"it took longer than {TIMEOUT} (seconds) allows") from error


def read_params(params: dict[str, Any]) -> ContinuationParams:
    """The params of a request, with defaults for those that are missing.

    Raises:
        UserError: one is unknown or has a wrong value.
    """
    try:
        return parse(ContinuationParams, {**DEFAULT.model_dump(), **params}, "params")
    except UserError as error:
        names = ", ".join(ContinuationParams.model_fields)
        raise UserError(f"{error}. The params are {names}") from error


class CheckedRequests:
    """ASGI middleware that checks each request and passes it to MLflow as a list of records.

    MLflow itself ignores unknown params and keys. It also turns ``instances`` into columns, where a
    record without a field gets the field of the next record.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/invocations"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            kind, body = checked(request.headers.get("content-type", ""), await request.body())
        except UserError as error:
            message = MlflowException.invalid_parameter_value(str(error)).serialize_as_json()
            await Response(message, 400, media_type=JSON)(scope, receive, send)
            return
        others = [header for header in scope["headers"] if header[0] != b"content-type"]
        read = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(read, None) or await receive()

        headers = [*others, (b"content-type", kind.encode("latin-1"))]
        await self._app({**scope, "headers": headers}, replay, send)


def checked(kind: str, body: bytes) -> tuple[str, bytes]:
    """The content type and body of a request, rewritten so that MLflow understands it correctly.

    A request that is neither JSON nor CSV is returned unchanged; MLflow refuses it.

    Raises:
        UserError: the request is not valid.
    """
    match kind.lower().replace(" ", "").removesuffix(";charset=utf-8"):
        case "":
            raise UserError(f"the request has no Content-Type; send it as {JSON}")
        case "application/json":
            records, params = invocations.read_json(body)
        case "text/csv":
            records, params = invocations.read_csv(body), {}
        case _:
            return kind, body
    read_params(params)
    invocations.texts(records)
    return JSON, json.dumps({"dataframe_records": records, "params": params}).encode()


def package(model_dir: Path, output: Path, device: DeviceParams) -> None:
    """Write a copy of the model as an MLflow model, which does not need this repository.

    Raises:
        UserError: the directory is not a GPT-2's, or the output exists already.
    """
    text_model.load(model_dir, device)
    if output.exists():
        raise UserError(f"{output}: exists already. Name another output, or delete it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        unfinished = Path(temporary, MODEL)
        _save(unfinished, device.model_dump(), artifacts={MODEL: str(model_dir)})
        unfinished.replace(output)


def serve(
    model_dir: Path, host: str, port: int, device: DeviceParams, announce: Callable[[str], None]
) -> None:
    """Answer requests until a signal arrives.

    Args:
        model_dir: a Hugging Face GPT-2 directory.
        host: address to listen on.
        port: 0 means any free port.
        device: device and dtype.
        announce: called with the server's URL as soon as it accepts connections.

    Raises:
        UserError: the directory is not a GPT-2's, or the port is in use.
    """
    import uvicorn
    from mlflow.pyfunc import scoring_server

    with _listening(host, port) as listener, tempfile.TemporaryDirectory() as temporary:
        text_model.load(model_dir, device)
        saved = Path(temporary, MODEL)
        _save(saved, {**device.model_dump(), MODEL: str(model_dir.resolve())})
        os.environ.setdefault(TIMEOUT, "60")
        app = scoring_server.init(load_model(str(saved)))
        app.add_middleware(CheckedRequests)
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
        # Not needed: MLflow would run an input example, and the signature has the same information.
        warnings.filterwarnings("ignore", ".*input example", UserWarning)
        save_model(
            path,
            python_model=__file__,
            artifacts=artifacts,
            model_config=config,
            signature=SIGNATURE,
            code_paths=[str(Path(files.__file__).parents[1])],
            pip_requirements=[f"{package}=={_version(package)}" for package in REQUIREMENTS],
        )


def _version(package: str) -> str:
    """The version without a local part such as ``+cpu``, which the package index does not know."""
    return version(package).partition("+")[0]


set_model(ServedModel())
