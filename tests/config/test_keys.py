"""The list of keys says what the constructors say."""

import pytest

from taming import config
from taming.config.keys import argument_texts, class_keys, experiment_keys


def test_arguments_of_a_docstring():
    text = "What.\n\nArgs:\n    a: of\n        two lines\n    b, c: both\n\nReturns:\n    d: no\n"
    assert argument_texts(text) == {"a": "of two lines", "b": "both", "c": "both"}


def test_every_field_of_an_experiment_is_listed_with_its_default():
    keys = {key.name: key for key in experiment_keys()}
    assert [name for name, key in keys.items() if not key.text] == []
    assert keys["trainer.ema"].kind == "a number of at least 0 and below 1, or null"
    assert keys["trainer.ema"].text.startswith("decay of the averaged weights")
    words = [f"{key.name}={key.default}" for key in keys.values() if isinstance(key.default, int)]
    assert config.load([{}], words) == config.load([{}])


@pytest.mark.parametrize("name", config.file_classes())
def test_every_parameter_of_every_class_is_documented(name):
    for key in class_keys(config.file_classes()[name]):
        assert key.text and key.kind, key


def test_a_parameter_that_has_to_be_given():
    keys = {key.name: key for key in class_keys(config.file_classes()["taming.first_stage.VQGAN"])}
    assert keys["channels"].required and not keys["blocks"].required
    assert keys["quantizer"].kind == "a Quantizer"
