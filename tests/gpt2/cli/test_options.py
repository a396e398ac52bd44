"""The options repeat the defaults and bounds of the parameter classes."""

from typing import get_args

import pytest

from gpt2.cli.main import main
from gpt2.core.device import DeviceParams
from gpt2.inference.text_model import ContinuationParams


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_options_are_those_of_the_parameters(smiling, command):
    options = {option.name: option for option in main.commands[command].params}
    arguments = ["--model", str(smiling), *(["--prompt", ""] if command == "generate" else [])]
    values = main.commands[command].make_context(command, arguments).params
    for schema in (ContinuationParams, DeviceParams):
        assert schema.model_fields.keys() <= values.keys()
        for name, field in schema.model_fields.items():
            assert field.is_required() or values[name] == field.default
    for name in ("device", "dtype"):
        assert tuple(options[name].type.choices) == get_args(DeviceParams.__annotations__[name])
