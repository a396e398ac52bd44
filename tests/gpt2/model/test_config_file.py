"""What ``config.json`` says, against what `transformers` reads in it."""

import dataclasses
import json

import pytest
import transformers

from gpt2.core.errors import UserError
from gpt2.model import config_file, weights
from gpt2.model.config_file import read_config, stated_end
from tests.hugging_face import write_checkpoint, write_model


def test_every_key_that_transformers_has_is_read_refused_or_known_to_change_nothing():
    """If this fails, `transformers` has a new key: does another value of it change a logit?"""
    config = transformers.GPT2Config()
    names = {*config.to_dict(), *(field.name for field in dataclasses.fields(config))}
    shape = {name for names in config_file.SHAPE.values() for name in names}
    known = {*shape, "activation_function", *config_file.ONLY, *config_file.CHANGES_NOTHING}
    assert names <= known
    assert config.attribute_map.keys() <= shape


def test_other_names_of_the_shape_are_those_of_transformers(tmp_path):
    write_model(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for new, old in transformers.GPT2Config.attribute_map.items():
        values[new] = values.pop(old)
    path.write_text(json.dumps(values))
    theirs, ours = transformers.GPT2Config.from_pretrained(tmp_path), read_config(path)
    assert (ours.n_embd, ours.context_length) == (theirs.n_embd, theirs.n_positions) == (16, 20)
    path.write_text(json.dumps({**values, "n_embd": 32}))
    with pytest.raises(UserError, match="n_embd and hidden_size differ"):
        read_config(path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_token_that_ends_a_text_is_one(tmp_path, name):
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / name
    values = json.loads((tmp_path / "config.json").read_text())
    for end, expected in ((299, 299), ([299], 299), ([], None), (None, None), ("</s>", None)):
        path.write_text(json.dumps({**values, "eos_token_id": end}))
        assert stated_end(tmp_path) == expected
        model = weights.load(tmp_path, foreign=True)
        assert weights.load_tokenizer(tmp_path, model).end_of_text == 299
    path.write_text(json.dumps({**values, "eos_token_id": [299, 5]}))
    with pytest.raises(UserError, match=r"eos_token_id names 2 tokens, \[299, 5\]: leave one"):
        stated_end(tmp_path)


def test_a_config_without_a_shape_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2", "n_layer": 2}')
    with pytest.raises(UserError, match=r"config.json.n_head: missing"):
        read_config(path)
