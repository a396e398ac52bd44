"""What a request to a served model holds: records with texts to continue, in any of MLflow's forms.

MLflow's own reading passes over what it does not know, so that a misspelt field is answered without
a word. Here everything is either understood or named in a `UserError`.
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
"""Of a record: a text to continue; or an instruction, with an input if it has one."""
EXPECTED = (
    'Send {"dataframe_records": [{"prompt": "..."}]}: records with either a prompt, or an '
    "instruction and perhaps an input, each of them a text"
)

Records = list[dict[str, Any]]


def read_json(body: bytes) -> tuple[Records, dict[str, Any]]:
    """The records and the ``params`` of a request in JSON; one record may stand there by itself.

    Raises:
        UserError: it is no JSON, or not of one of MLflow's forms; the records may still be wrong.
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
        raise UserError(f"expected one of {names}, and perhaps params; found {found}. {EXPECTED}")
    [(form, data)] = request.items()
    return FORMS[form](data), params


def read_csv(body: bytes) -> Records:
    """The records of a table with a line of names; an empty cell is a field that is not there.

    Raises:
        UserError: it is not UTF-8, or no table.
    """
    try:
        table = pd.read_csv(
            io.StringIO(body.decode()), dtype=str, keep_default_na=False, na_values=[""]
        )
    except ValueError as error:  # pandas' own are such, too
        raise UserError(f"the request is not a table in CSV ({error}). {EXPECTED}") from error
    return read_table(table)


def read_table(data: object) -> Records:
    """The records in what MLflow makes of a request: a table, a list of records, or columns.

    Raises:
        UserError: it is nothing of these.
    """
    if not isinstance(data, pd.DataFrame):
        return _records_or_columns(_plain(data))
    return _rows([*data.columns], data.to_numpy(object).tolist())


def texts(records: Records) -> list[str]:
    """The text to continue for each record.

    Raises:
        UserError: there is none, or one that lacks a text, has more, or has an unknown field.
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
    """JSON's null, and what a table has in the place of a missing cell."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _list_of_records(data: object) -> Records:
    if not isinstance(data, list):
        raise UserError(f"the records are {_kind(data)}, not a list. {EXPECTED}")
    for index, record in enumerate(data):
        if not isinstance(record, dict):
            raise UserError(f"record {index} is {_kind(record)}, not an object. {EXPECTED}")
    return data


def _split(data: object) -> Records:
    """``{"columns": [...], "data": [[...], ...]}``, perhaps with an ``index``."""
    if not isinstance(data, dict) or not {"columns", "data"} <= data.keys() <= SPLIT:
        raise UserError(f"dataframe_split needs columns and data, and nothing else. {EXPECTED}")
    columns, rows = data["columns"], data["data"]
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise UserError(f"dataframe_split: columns and data must be lists. {EXPECTED}")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(
                f"dataframe_split: row {index} of the data is no list of {len(columns)} values, "
                f"one for each column. {EXPECTED}"
            )
    return _rows(columns, rows)


def _records_or_columns(data: object) -> Records:
    """A list of records; or an object with the columns of several, or with one record itself."""
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
        raise UserError(f"a column stands there twice: {', '.join(columns)}. {EXPECTED}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _plain(data: Any) -> Any:
    """Lists in place of NumPy's arrays."""
    if isinstance(data, np.ndarray | np.generic):
        return data.tolist()
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list) else data


def _kind(value: object) -> str:
    """What a value is, in JSON's words."""
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
"""What MLflow's server accepts."""
