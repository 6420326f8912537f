"""Public functions take what they declare, cast what is harmless, and refuse the rest in a line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import taming
from taming.config.doors import checked
from taming.errors import UserError


@checked
def door(
    path: str | Path, count: int = 1, names: Sequence[str] = (), text: str | None = None, **rest
) -> tuple:
    return path, count, names, text, rest


@pytest.mark.parametrize(
    "options, place, expected",
    [
        ({"count": np.int64(3)}, 1, 3),
        ({"count": torch.tensor(3)}, 1, 3),
        ({"names": {"a"}}, 2, ["a"]),
        ({"names": np.array(["a", "b"])}, 2, ["a", "b"]),
        ({"text": Path("a/b")}, 3, "a/b"),
        ({"more": object}, 4, {"more": object}),
    ],
)
def test_harmless_kinds_are_cast(options, place, expected):
    assert door("x", **options)[place] == expected


@pytest.mark.parametrize(
    "options, words",
    [
        ({"path": 3}, "door: path: 3 should be text, or a path"),
        ({"path": None}, "path: None"),
        ({"path": b"x"}, "path: b'x'"),
        ({"path": "x", "count": True}, "count: True should be a whole number"),
        ({"path": "x", "count": "3"}, "count: '3'"),
        ({"path": "x", "names": "one word"}, "names: 'one word' should be a list, each text"),
        ({"path": "x", "names": [1]}, "names: "),
        ({}, "missing a required argument: 'path'"),
    ],
)
def test_other_kinds_are_refused(options, words):
    with pytest.raises(UserError) as error:
        door(**options)
    assert words in str(error.value) and "\n" not in str(error.value)


CALLS: list[tuple[str, tuple, dict]] = [
    ("load", (3,), {}),
    ("load", (None,), {}),
    ("load", ("nothing",), {"allow": "os"}),
    ("load", ("nothing",), {"bogus": 1}),
    ("encode", ("nothing", "nothing"), {}),
    ("encode", ("nothing", 3, "out.npz"), {}),
    ("reconstruct", ("nothing", None, "out"), {}),
    ("compress", ("nothing", "x.png", None), {}),
    ("decompress", ("nothing", b"x", "x.png"), {}),
    ("sample", ("nothing", 3), {}),
    ("sample", ("nothing", "out"), {"samples": 1.5}),
    ("sample", ("nothing", "out", 3), {}),
    ("evaluate", (3,), {}),
    ("evaluate", ("f.json",), {"checkpoint": "nothing", "data": ["x"]}),
    ("evaluate", ("f.json",), {"checkpoint": "nothing", "only": "codes"}),
    ("evaluate", ("f.json",), {"checkpoint": "nothing", "size": "x"}),
    ("evaluate", ("f.json",), {"checkpoint": "nothing", "pictures": 1.5}),
    ("evaluate", ("f.json",), {"checkpoint": "nothing", "sampling": 3}),
    ("train", ("first.yaml", 3), {}),
    ("train", ("first.yaml", "out", "a=b"), {}),
    ("train", (3, "out"), {}),
]


@pytest.mark.parametrize("name, arguments, options", CALLS)
def test_every_public_function_is_such_a_door(name, arguments, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        getattr(taming, name)(*arguments, **options)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_doors_keep_their_help():
    assert taming.load.__doc__ and "stage" in taming.load.__doc__
    assert taming.load is taming.load
