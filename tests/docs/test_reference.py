"""The site's reference has every verb, key and class; formulas need no network."""

import importlib.util
from pathlib import Path

import pytest

from taming.cli.main import VERBS
from taming.config import file_classes
from taming.config.keys import experiment_keys

PATH = Path(__file__).resolve().parents[2] / "docs" / "hooks.py"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_with_its_arguments(hooks):
    page = hooks.commands_page()
    for verb in VERBS:
        assert f"## taming {verb}\n" in page
    assert "| `--top-p P` |" in page and "| `key=value` |" in page


def test_every_key_and_every_class(hooks):
    keys, classes = hooks.keys_page(), hooks.classes_page()
    for key in experiment_keys():
        assert f"| `{key.name}` |" in keys
    for target in file_classes():
        assert f"`{target}`" in classes
    assert "| `channels` | a whole number from 1 to 16384 | *has to be given* |" in classes


def test_links_into_the_repository_become_words(hooks):
    text = "[code](../../taming/images.py), [page](vae.md), [paper](https://arxiv.org/abs/1)"
    words = hooks.LINK.sub(lambda match: hooks._within(match, "explanations/vqvae.md"), text)
    assert words == "code, [page](vae.md), [paper](https://arxiv.org/abs/1)"


def test_a_formula_becomes_mathml(hooks):
    pytest.importorskip("latex2mathml")
    made = hooks.on_page_content(r'<div class="arithmatex">\[a &lt; b \tag{3}\]</div>')
    assert made.startswith('<div class="formula" id="equation-3"><math') and "&#x0003C;" in made
    assert "arithmatex" not in made and "(3)" in made
