"""Models in MLflow: the output of a run, and a version of a registered model with a best one.

MLflow gets a reference to the model directory; DVC keeps the files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gpt2.tracking.names import encodable, mlflow_name, model_name
from gpt2.tracking.store import EXPERIMENT, Point, Store

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

BEST = "best"
"""Alias of the best version of a registered model."""


def log_model(
    store: Store,
    run_id: str,
    name: str,
    facts: Mapping[str, str],
    params: Mapping[str, object],
    results: Sequence[Point],
) -> "LoggedModel":
    """Log a model as the output of a run, with the run's results as its metrics.

    Args:
        facts: tags of the model, such as its directory.
        params: flat parameters.
        results: points that the run has logged.
    """
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    model = store.client.create_logged_model(
        store.experiment,
        name,
        run_id,
        {**facts, MLFLOW_MODEL_IS_EXTERNAL: "true"},
        {mlflow_name(key): encodable(value) for key, value in params.items()},
        "gpt2",
    )
    store.client.finalize_logged_model(model.model_id, "READY")
    # Exactly the points of the run: the store keeps only one of equal points.
    store.log_metrics(run_id, [Metric(p.key, p.value, p.time, 0, model.model_id) for p in results])
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def register(
    store: Store,
    model: "LoggedModel",
    name: str,
    facts: Mapping[str, str],
    best_by: str,
    result: float,
) -> None:
    """Add a model to the registered model ``name`` as a version.

    The version becomes `BEST` if its ``result``, called ``best_by``, is lower than that of the best
    version so far.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    name = model_name(f"{EXPERIMENT}-{name}")
    with store.lock():
        best = _best_result(store, name, best_by)
        version = store.client.create_model_version(
            name,
            model.artifact_location,
            model.source_run_id,
            {best_by: result, **facts},
            description=f"{facts['directory']} as written by the source run; DVC keeps the files",
            await_creation_for=0,
            model_id=model.model_id,
        )
        if result < best:
            store.client.set_registered_model_alias(name, BEST, version.version)
    versions = json.dumps([{"name": name, "version": int(version.version)}])
    store.client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: versions})


def _best_result(store: Store, name: str, best_by: str) -> float:
    """The result of the best version of a registered model; infinity if there is none.

    The registered model is created if it does not exist.
    """
    found = store.client.search_registered_models(f"name = '{name}'")
    if not found:
        store.client.create_registered_model(name, description=f"{BEST}: lowest {best_by}")
    elif version := found[0].aliases.get(BEST):
        return float(store.client.get_model_version(name, version).tags.get(best_by, "inf"))
    return float("inf")
