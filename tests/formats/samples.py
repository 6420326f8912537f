"""A small model of ours in both containers, and ways to change what the files say."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from taming import config
from taming.formats.content import Content
from taming.formats.ours import save_safetensors
from tests.conftest import first_stage_plain


def small_content(**changes: Any) -> Content:
    """A first stage of 16 px with seeded weights."""
    plain = config.to_plain(config.from_plain(first_stage_plain()))
    torch.manual_seed(0)
    model = config.build(plain["model"])
    content = Content("first", plain, model.state_dict(), 7, {"rec": 0.5})
    return Content(**{**vars(content), **changes})


def write_ckpt(path: Path, metadata: Any = None, state: Any = None) -> Path:
    """A .ckpt as training writes it, of `small_content` where nothing else is given."""
    content = small_content()
    if metadata is None:
        metadata = metadata_of(content)
    if state is None:
        state = {f"model.{name}": tensor for name, tensor in content.weights.items()}
    torch.save({"taming": metadata, "state_dict": state, "optimizers": []}, path)
    return path


def write_small(path: Path, metadata: Any = None) -> Path:
    """`small_content` in the container that the ending says, with other metadata where given."""
    if path.suffix == ".ckpt":
        return write_ckpt(path, metadata)
    save_safetensors(path, small_content())
    if metadata is not None:
        rewrite(path, json.dumps(metadata))
    return path


def metadata_of(content: Content) -> dict:
    return {
        "stage": content.stage,
        "config": content.config,
        "batches": content.batches,
        "figures": content.figures,
        "averaged": {},
    }


def rewrite(path: Path, text: str) -> None:
    """Other metadata in a .safetensors, without checksums, as somebody else may write it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    save_file(tensors, path, metadata={"taming": text})


def gpt_node(**params: Any) -> dict:
    """A GPT of earlier versions, which says its shape."""
    sizes = {"num_codes": 8, "grid": [2, 2], "parts": [{"vocabulary": 1, "length": 1}]}
    sizes |= {"layers": 1, "heads": 1, "width": 8}
    return {"target": "taming.second_stage.GPT", "params": sizes | params}


def second_content(prior: dict) -> Content:
    """An unconditional second stage of this prior."""
    content = small_content()
    first = content.config["model"]
    first["params"]["quantizer"]["params"] |= {"num_codes": 8, "normalize": False, "restart": 0}
    node = {
        "target": "taming.second_stage.SecondStage",
        "params": {
            "first_stage": first,
            "conditioner": {"target": "taming.second_stage.Unconditional"},
            "prior": prior,
        },
    }
    model = config.build(config.from_plain({**content.config, "loss": None, "model": node}).model)
    content.stage, content.weights = "second", model.state_dict()
    content.config = {**content.config, "loss": None, "model": node}
    return content


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The places of all values in a tree, inner nodes included."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items if isinstance(node, dict | list) else ():
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(tree: dict, path: tuple, value: Any) -> dict:
    """A copy with this value in that place."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = copy.deepcopy(value)
    return tree
