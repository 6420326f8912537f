"""Trees of any shape, as a damaged or hostile file may hold them, are refused in one line."""

import copy

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from taming import config
from taming.errors import UserError
from tests.conftest import first_stage_plain

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["taming.first_stage.VQGAN", "taming.data.ImageFolder", "os.system", "96x128"]),
)
KEYS = st.one_of(
    st.sampled_from(
        ["target", "params", "model", "data", "allow", "size", "view", "width", "loss"]
    ),
    st.text(max_size=4),
    st.integers(),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def places(tree, path=()):
    """Every path in a tree."""
    yield path
    entries = tree.items() if isinstance(tree, dict) else []
    for key, value in entries:
        yield from places(value, (*path, key))


PLACES = list(places(first_stage_plain()))


def planted(path: tuple, value) -> object:
    """A good configuration with `value` at `path`."""
    tree = copy.deepcopy(first_stage_plain())
    if not path:
        return value
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


def one_line(action) -> None:
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(path=st.sampled_from(PLACES), value=TREES, trusted=st.booleans())
@example(path=("model", "params"), value={"target": "x"}, trusted=False)
@example(path=("allow",), value="os", trusted=True)
def test_any_tree_is_a_configuration_or_refused(path, value, trusted):
    one_line(lambda: config.from_plain(planted(path, value), "a file", trusted=trusted))


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(path=st.sampled_from(PLACES), value=TREES)
def test_any_two_trees_merge_or_are_refused(path, value):
    second = planted(path, value)
    if isinstance(second, dict):
        one_line(lambda: config.load([first_stage_plain(), second]))


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    word=st.text(max_size=20), key=st.sampled_from(["seed", "model.params.channels", "a..b", ""])
)
@example(word="[" * 5000, key="seed")
@example(word="${", key="data.cache")
@example(word="${a}", key="variables.a")
@example(word="${oc.env:NOT_SET}", key="data.cache")
def test_any_word_is_taken_or_refused(word, key):
    one_line(lambda: config.load([first_stage_plain()], [f"{key}={word}"]))
    one_line(lambda: config.load([first_stage_plain()], [word]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a\n- b\n",
        b"a: [1\n",
        b"a: &a [*a]\n",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbfseed: 3\n",
        b"seed: !!python/object/apply:os.system [ls]\n",
        b"1: 2\n",
        b"? [1, 2]\n: 3\n",
        b"seed: 1\nseed: 2\n",
        b"a: " + b"[" * 3000 + b"]" * 3000,
        b"data: {batch_size: '${nowhere}'}\n",
        b"data: {cache: ???}\n",
    ],
)
def test_any_file_is_read_or_refused(content, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    one_line(lambda: config.load(tmp_path / "a.yaml"))
