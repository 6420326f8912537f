"""What a file of weights holds, before anything is built: the schema that files are held to.

A file is not trusted. Its metadata are plain types of a bounded size, its tensors dense and backed
by the file. Its configuration names classes of a closed table (taming/config/names); what else may
be named says the caller, never the file.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from taming.config import Experiment, from_plain, to_plain
from taming.config.older import upgrade
from taming.data.card import Card
from taming.errors import UserError
from taming.files import read_text
from taming.second_stage.interface import current_name

STAGES = ("first", "second", "segmenter")
DEPTH, ENTRIES = 60, 100_000  # of a configuration; ours have about 10 levels and 200 entries


@dataclass
class Content:
    """A file's weights and what it says about them.

    Args:
        stage: first, second or segmenter.
        config: a whole Experiment, plain.
        weights: of the model; the averaged ones where the run has them.
        batches: seen in training.
        figures: the last of the validation set.
        loss: weights of the loss (the discriminator), to train on.
        unused: of a published file, what is not taken, and why.
        notes: on the translation of a published configuration.
        unknown: tensors of a published file that no published model has.
        source: whose format the file has: taming, published (CompVis's), diffusers, ...
        configs: files that its configuration was read from, where they lie beside it.
        path: the file, for messages.
        allow: packages whose classes the caller admits in `config`.
        card: labels with names and colours, classes, size, data, recommended settings.
    """

    stage: str
    config: dict
    weights: dict[str, Tensor]
    batches: int
    figures: dict
    loss: dict[str, Tensor] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    source: str = "taming"
    configs: tuple[str, ...] = ()
    path: str = "the file"
    allow: tuple[str, ...] = ()
    card: Card = field(default_factory=Card)

    def experiment(self) -> Experiment:
        """The configuration, checked; names nothing but our classes and what `allow` admits."""
        return from_plain(self.config, self.path, allow=self.allow, trusted=False)


def content_of(
    metadata: Any, weights: Any, loss: dict[str, Tensor], path: Path, allow: Iterable[str] = ()
) -> Content:
    """The Content of a file of ours, its schema checked.

    Args:
        metadata: what the file says: stage, config, batches, figures.
        weights: the model's.
        loss: the discriminator's.
        path: the file, for messages.
        allow: see Content.

    Raises:
        UserError: something is missing or of another type than we write.
    """
    if not isinstance(metadata, dict):
        raise malformed(path, f"its metadata are a {type(metadata).__name__}, not a mapping")
    stage, batches = metadata.get("stage"), metadata.get("batches")
    if not isinstance(stage, str) or stage not in STAGES:
        raise malformed(path, f"its stage is {brief(stage)}, none of {', '.join(STAGES)}")
    if not is_index(batches):
        raise malformed(path, f"batches is {brief(batches)}, not a number of batches")
    figures = metadata.get("figures")
    figures = {} if figures is None else figures
    if not isinstance(figures, dict) or not all(
        isinstance(name, str) and (isinstance(value, float) or is_index(value))
        for name, value in figures.items()
    ):
        raise malformed(path, f"figures is {brief(figures)}, not numbers by name")
    check_tensors({**weights, **{f"loss.{name}": tensor for name, tensor in loss.items()}}, path)
    config = _checked_config(metadata.get("config"), path)
    config["model"] = _without_paths(config["model"], weights)
    if stage == "second":
        weights = {
            current_name(name) if name.startswith("priors.") else name: tensor
            for name, tensor in weights.items()
        }
    content = Content(
        stage, config, weights, batches, figures, loss, path=str(path), allow=tuple(allow)
    )
    content.card = _card(metadata.get("card"), path)
    return content


def _card(plain: Any, path: Path) -> Card:
    """What a file says about itself; earlier versions wrote it beside the file, or nothing."""
    try:
        beside = path.with_suffix(".card.json")
        if plain is None and beside.is_file():
            plain = json.loads(read_text(beside))
        return Card.of({} if plain is None else plain)
    except (UserError, ValueError, RecursionError) as error:
        raise malformed(path, str(error)) from None


def check_tensors(weights: dict, path: Path) -> None:
    """Refuses what is no tensor, or none whose numbers stand in the file one by one."""
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise malformed(path, f"{brief(name)} is a {type(tensor).__name__}, not a tensor")
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not dense or tensor.is_quantized or tensor.is_complex():
            raise malformed(path, f"'{name}' is no plain tensor of real numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise malformed(path, f"'{name}' claims more numbers than the file has")


def malformed(path: Path, reason: str) -> UserError:
    return UserError(f"'{path}' is not a checkpoint as taming writes them: {reason}")


def brief(value: Any) -> str:
    """A value in a message: short, and in one line."""
    if not isinstance(value, str | int | float | bool | None):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a huge number"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def is_index(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number from 0, of a size that a machine counts to."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _checked_config(plain: Any, path: Path) -> dict:
    """A file's configuration in today's schema, its sections complete, its `allow` left out."""
    if not isinstance(plain, dict):
        raise malformed(path, f"config is {brief(plain)}, not a mapping of keys")
    _refuse_other_than_plain(plain, path)
    try:
        plain = upgrade(plain)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise malformed(path, f"config can't be read ({type(error).__name__}: {error})") from None
    defaults = to_plain(Experiment())
    for key in [key for key, value in defaults.items() if isinstance(value, dict)]:
        section = plain.get(key, {})
        if not isinstance(section, dict):
            raise malformed(path, f"config.{key} is {brief(section)}, not a mapping of keys")
        plain = {**plain, key: {**defaults[key], **section}}
    nodes = {"loss": plain.get("loss"), **{f"data.{k}": v for k, v in plain["data"].items()}}
    for place in ("loss", "data.train", "data.validation"):
        if nodes[place] is not None and not isinstance(nodes[place], dict):
            raise malformed(path, f"config.{place} is {brief(nodes[place])}, not a mapping of keys")
    target = plain["model"].get("target")
    if not isinstance(target, str) or not isinstance(plain["model"].get("params", {}), dict):
        raise malformed(path, f"config.model names no class with parameters, but {brief(target)}")
    return {**defaults, **plain, "allow": []}


def _without_paths(node: Any, weights: dict[str, Tensor], prefix: str = "") -> Any:
    """The tree of a model in which the codes in use (RemappedQuantizer), which training read from a
    file of its own, are those that came along with the weights.
    """
    if isinstance(node, list):
        return [_without_paths(item, weights, f"{prefix}{i}.") for i, item in enumerate(node)]
    if not isinstance(node, dict) or not isinstance(node.get("params"), dict):
        return node
    params = {
        key: _without_paths(value, weights, f"{prefix}{key}.")
        for key, value in node["params"].items()
    }
    codes = weights.get(f"{prefix}used")
    if isinstance(params.get("used"), str) and codes is not None and codes.ndim == 1:
        params["used"] = len(codes)
    return {**node, "params": params}


def _refuse_other_than_plain(plain: dict, path: Path) -> None:
    """Without recursion, so that no depth is too much for it."""
    waiting: list[tuple[Any, int]] = [(plain, 0)]
    entries = 0
    while waiting:
        node, depth = waiting.pop()
        entries += 1
        if depth > DEPTH or entries > ENTRIES:
            raise malformed(path, f"config is deeper than {DEPTH} levels or beyond all size")
        if isinstance(node, dict):
            waiting += [(key, DEPTH) for key in node]
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list | tuple):
            waiting += [(value, depth + 1) for value in node]
        elif isinstance(node, str) and "${" in node:
            raise malformed(path, "config refers to other values (${...}), which files spell out")
        elif not isinstance(node, str | int | float | bool | None):
            raise malformed(path, f"config holds a {type(node).__name__}, no plain type")
