"""Messages about invalid requests. test_serving.py tests all valid forms."""

import json

import numpy as np
import pandas as pd
import pytest

from gpt2.core.errors import UserError
from gpt2.data.instructions import prompt
from gpt2.inference.invocations import EXPECTED, read_csv, read_json, read_table, texts


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (["Say"], "the request is a list, not an object"),
        ({"inputs": ["Say"]}, "record 0 is a text, not an object"),
        ({"inputs": "Say"}, "the records are a text, not a list"),
        (
            {"dataframe_records": [{"prompt": "Say"}, {"text": "a"}]},
            "record 1: unknown field 'text'",
        ),
        ({"dataframe_records": [{"prompt": 5}]}, "record 0: prompt is a number, not a text"),
        ({"dataframe_records": [{"prompt": None}]}, "record 0 has none of its fields"),
        ({"dataframe_records": [{"prompt": "a", "input": "b"}]}, "record 0 has prompt and input"),
        ({"dataframe_records": []}, "there is no record"),
        ({"dataframe_split": {"columns": ["text"], "data": [["a"]]}}, "record 0: unknown field"),
        ({"inputs": {"prompt": ["a", "b"], "input": ["c"]}}, "the columns are not lists of one"),
        ({"text": "Say"}, "expected one of dataframe_records, dataframe_split, instances, inputs"),
    ],
)
def test_a_message_says_what_is_wrong_and_what_is_expected(request_: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        texts(read_json(json.dumps(request_).encode())[0])
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(EXPECTED)


def test_inputs_from_mlflow_and_notebooks() -> None:
    records = [{"prompt": "a"}, {"instruction": "b", "input": "c"}, {"instruction": "b"}]
    expected = ["a", prompt("b", "c"), prompt("b", "")]
    columns = {
        field: [record.get(field) for record in records] for record in records for field in record
    }
    arrays = {field: np.array(values, dtype=object) for field, values in columns.items()}
    for table in (records, columns, arrays, pd.DataFrame(records), pd.DataFrame(arrays)):
        assert texts(read_table(table)) == expected
    assert texts(read_table({"prompt": np.array("a")})) == ["a"]
    for wrong in (
        "a",
        np.array(["a"]),
        pd.DataFrame(["a"]),
        pd.DataFrame({"prompt": [5]}),
        pd.DataFrame(),
    ):
        with pytest.raises(UserError):
            texts(read_table(wrong))


def test_every_cell_of_a_csv_table_is_a_text() -> None:
    body = b'prompt,instruction\n42,\nNA,\n"two\nlines",\n,007\n'
    assert texts(read_csv(body)) == ["42", "NA", "two\nlines", prompt("007", "")]
