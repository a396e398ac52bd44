"""Parses requests to a served model: records with texts to continue, in any of MLflow's forms.

MLflow's own parser silently ignores unknown fields, so a misspelt one would go unnoticed. Here
every problem is a `UserError`.
"""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt

FIELDS = ("prompt", "instruction", "input")
"""Fields of a record: a text to continue; or an instruction, with an optional input."""
EXPECTED = (
    'Send {"dataframe_records": [{"prompt": "..."}]}: records with either a prompt, or an '
    "instruction and optionally an input, each of them a text"
)

Records = list[dict[str, Any]]


def read_json(body: bytes) -> tuple[Records, dict[str, Any]]:
    """The records and the ``params`` of a JSON request. A single record needs no list around it.

    The records themselves are not checked yet (see `texts`).

    Raises:
        UserError: it is not JSON, or not one of MLflow's forms.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not JSON ({error}). {EXPECTED}") from error
    if not isinstance(request, dict):
        raise UserError(f"the request is {_kind(request)}, not an object. {EXPECTED}")
    params = request.pop("params", None)
    params = {} if params is None else params
    if not isinstance(params, dict):
        raise UserError(f"params is {_kind(params)}, not an object of names and values")
    if record := {field: request.pop(field) for field in FIELDS if field in request}:
        return [record], {**params, **request}
    if len(request) != 1 or not request.keys() <= FORMS.keys():
        found = ", ".join(map(repr, request)) or "nothing"
        names = ", ".join(FORMS)
        raise UserError(
            f"expected one of {names}, and optionally params; found {found}. {EXPECTED}"
        )
    [(form, data)] = request.items()
    return FORMS[form](data), params


def read_csv(body: bytes) -> Records:
    """The records of a CSV table with a header line. An empty cell is a missing field.

    Raises:
        UserError: it is not UTF-8, or not a table.
    """
    try:
        table = pd.read_csv(
            io.StringIO(body.decode()), dtype=str, keep_default_na=False, na_values=[""]
        )
    except ValueError as error:  # includes pandas' own errors
        raise UserError(f"the request is not a table in CSV ({error}). {EXPECTED}") from error
    return read_table(table)


def read_table(data: object) -> Records:
    """The records in what MLflow passes to a model: a table, a list of records, or columns.

    Raises:
        UserError: it is none of these.
    """
    if not isinstance(data, pd.DataFrame):
        return _records_or_columns(_plain(data))
    return _rows([*data.columns], data.to_numpy(object).tolist())


def texts(records: Records) -> list[str]:
    """The text to continue for each record.

    Raises:
        UserError: there is no record, or one has no text, several texts, or an unknown field.
    """
    if not records:
        raise UserError(f"there is no record. {EXPECTED}")
    return [_text(f"record {index}", record) for index, record in enumerate(records)]


def _text(name: str, record: Mapping[str, Any]) -> str:
    if unknown := [field for field in record if field not in FIELDS]:
        raise UserError(f"{name}: unknown field {', '.join(map(repr, unknown))}. {EXPECTED}")
    given = {field: value for field, value in record.items() if not _is_absent(value)}
    for field, value in given.items():
        if not isinstance(value, str):
            raise UserError(f"{name}: {field} is {_kind(value)}, not a text. {EXPECTED}")
    match given:
        case {"prompt": str(text), **rest} if not rest:
            return text
        case {"instruction": str(instruction), **rest} if "prompt" not in rest:
            return prompt(instruction, given.get("input", ""))
    found = " and ".join(given) or "none of its fields"
    raise UserError(f"{name} has {found}. {EXPECTED}")


def _is_absent(value: object) -> bool:
    """Whether a value is JSON's null, or a missing cell of a table."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _list_of_records(data: object) -> Records:
    if not isinstance(data, list):
        raise UserError(f"the records are {_kind(data)}, not a list. {EXPECTED}")
    for index, record in enumerate(data):
        if not isinstance(record, dict):
            raise UserError(f"record {index} is {_kind(record)}, not an object. {EXPECTED}")
    return data


def _split(data: object) -> Records:
    """Parse ``{"columns": [...], "data": [[...], ...]}``, optionally with an ``index``."""
    if not isinstance(data, dict) or not {"columns", "data"} <= data.keys() <= SPLIT:
        raise UserError(f"dataframe_split needs columns and data, and nothing else. {EXPECTED}")
    columns, rows = data["columns"], data["data"]
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise UserError(f"dataframe_split: columns and data must be lists. {EXPECTED}")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(
                f"dataframe_split: row {index} of the data is not a list of {len(columns)} values, "
                f"one for each column. {EXPECTED}"
            )
    return _rows(columns, rows)


def _records_or_columns(data: object) -> Records:
    """Parse a list of records, an object with their columns, or a single record."""
    if not isinstance(data, dict):
        return _list_of_records(data)
    lengths = {len(values) for values in data.values() if isinstance(values, list)}
    if not lengths:
        return [data]
    if len(lengths) > 1 or not all(isinstance(values, list) for values in data.values()):
        raise UserError(f"the columns are not lists of one length. {EXPECTED}")
    return _rows([*data], [*zip(*data.values(), strict=True)])


def _rows(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Records:
    if not all(isinstance(name, str) for name in columns):
        raise UserError(f"the columns have no names ({', '.join(map(str, columns))}). {EXPECTED}")
    if len(set(columns)) < len(columns):
        raise UserError(f"a column appears twice: {', '.join(columns)}. {EXPECTED}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _plain(data: Any) -> Any:
    """Replace NumPy arrays by lists."""
    if isinstance(data, np.ndarray | np.generic):
        return data.tolist()
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list) else data


def _kind(value: object) -> str:
    """The type of a value, in JSON's terms."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


SPLIT = {"columns", "data", "index"}
FORMS: dict[str, Callable[[object], Records]] = {
    "dataframe_records": _list_of_records,
    "dataframe_split": _split,
    "instances": _records_or_columns,
    "inputs": _records_or_columns,
}
"""Parsers for the forms that MLflow's server accepts."""
