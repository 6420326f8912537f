"""Checkpoints whose weights are not those of their configuration, by every verb that would go on
with them.
"""

import json

import pytest
import torch
from safetensors import safe_open

from taming import load
from taming.formats.ours import Content, save_safetensors

VERBS = ("reconstruct {} pairs/images -o out", "convert {} out.safetensors")


def content_of(path) -> tuple[dict, dict]:
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["taming"])
        return metadata, {name: file.get_tensor(name) for name in file.keys()}


def each(weights: dict, change) -> dict:
    return {k: change(v) if v.is_floating_point() else v for k, v in weights.items()}


CHANGES = {
    "NaN": lambda w: each(w, lambda v: v * float("nan")),
    "infinity": lambda w: each(w, lambda v: v / 0),
    "whole numbers": lambda w: each(w, lambda v: v.to(torch.int32)),
    "truth values": lambda w: each(w, lambda v: v > 0),
    "one missing": lambda w: dict(list(w.items())[1:]),
    "one more": lambda w: {**w, "more": torch.zeros(3)},
    "flat": lambda w: {k: v.reshape(-1) for k, v in w.items()},
    "none": lambda w: {},
    "no rows": lambda w: {k: v[:0] if v.ndim else v for k, v in w.items()},
}
PARAMS = {
    "channels": 4096,
    "blocks": 128,
    "multipliers": [64] * 11,
    "latent_channels": 16384,
    "quantizer": {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 2**24, "dim": 16384},
    },
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("change", CHANGES)
def test_other_weights(lab, refuses, change, verb):
    metadata, weights = content_of(lab / "first.safetensors")
    content = Content("first", metadata["config"], CHANGES[change](weights), 0, {})
    save_safetensors(lab / "changed.safetensors", content)
    refuses(verb.format("changed.safetensors").split())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("key", PARAMS)
def test_giant_sizes_are_held_against_the_weights(lab, refuses, key, verb):
    """Each is legal by itself; no memory is taken for it."""
    metadata, weights = content_of(lab / "first.safetensors")
    params = metadata["config"]["model"]["params"]
    params[key] = PARAMS[key]
    save_safetensors(
        lab / "changed.safetensors", Content("first", metadata["config"], weights, 0, {})
    )
    refuses(verb.format("changed.safetensors").split())


def test_half_precision_is_harmless(lab):
    metadata, weights = content_of(lab / "first.safetensors")
    halves = each(weights, torch.Tensor.half)
    save_safetensors(
        lab / "changed.safetensors", Content("first", metadata["config"], halves, 0, {})
    )
    assert load(lab / "changed.safetensors").num_codes == (32,)
