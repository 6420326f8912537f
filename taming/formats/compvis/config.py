"""Configurations of CompVis/taming-transformers and latent-diffusion -> ours.

What tensors do not tell (heads, order, start token, kind of condition) comes from their YAML and is
never guessed. Nothing that a YAML names is imported: targets are looked up in closed tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from taming.errors import UserError, did_you_mean
from taming.formats.compvis.first_stage import (
    is_continuous,
    refuse_continuous,
    translate_first_stage,
    translate_loss,
)
from taming.formats.compvis.names import DIFFUSIONS, KINDS, SECOND_STAGES
from taming.formats.compvis.second_stage import Shapes, translate_second_stage


@dataclass
class Translation:
    """A plain Experiment, and how it came about.

    Args:
        config: with ${...} for the folder of the data and its size.
        notes: what a user should know.
        checkpoints: by part (model, first_stage, conditioner) what it was to be filled from.
    """

    config: dict
    notes: list[str] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> dict:
        """The configuration with its ${...} filled in."""
        return resolved(self.config)


def is_published(tree: Any) -> TypeGuard[dict]:
    """Whether a YAML tree is of the published code."""
    model = tree.get("model") if isinstance(tree, dict) else None
    return isinstance(model, dict) and (
        model.get("target") in (*KINDS, *SECOND_STAGES, *DIFFUSIONS)
        or is_continuous(model.get("target"))
        or "base_learning_rate" in model
    )


def read_yaml(paths: list[Path]) -> dict:
    """Their YAML files, merged from left to right. Raises UserError where one is missing or none of
    theirs.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"config '{path}' does not exist; give the YAML of the checkpoint")
    try:
        tree = OmegaConf.to_container(
            OmegaConf.merge(*(OmegaConf.load(path) for path in paths)), resolve=True
        )
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(
            f"config {' + '.join(map(str, paths))} can't be read:"
            f" {' '.join(str(error).split())[:200]}"
        ) from None
    if not is_published(tree):
        raise UserError(
            f"'{paths[-1]}' is not a configuration of the published code (model.target names none"
            " of its models); give the right one by --config"
        )
    return tree


def resolved(tree: dict) -> dict:
    """A tree with its ${...} filled in."""
    try:
        return dict(OmegaConf.to_container(OmegaConf.create(tree), resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(
            f"the published YAML can't be resolved: {' '.join(str(error).split())[:200]}"
        ) from None


def configs_beside(path: Path) -> list[Path]:
    """The YAML files that belong to a published checkpoint: NAME.yaml beside NAME.ckpt, else by the
    layouts in use: logs/NAME/{checkpoints,configs}, {ckpts,configs}, or in its own folder. Several
    project.yaml in one folder are one: a run writes another each time that it resumes.

    Raises:
        UserError: two may be meant.
    """
    for ending in (".yaml", ".yml"):
        if (named := path.with_suffix(ending)).is_file():
            return [named]
    run, folder = path.parent.parent, path.parent
    candidates: dict[Path, list[Path]] = {}  # by the first of each
    for place in (run / "configs", folder / "configs", folder, run):
        project = sorted(place.glob("*project.yaml"))
        single = [[p] for name in ("model.yaml", "config.yaml") if (p := place / name).is_file()]
        for group in [project] if project else single:
            candidates.setdefault(group[0].resolve(), group)
        if place == folder and candidates:
            break  # what lies further away belongs to others
    groups = list(candidates.values())
    if len(groups) > 1:
        raise UserError(
            f"two configurations may belong to '{path}': '{groups[0][0]}' and '{groups[1][0]}';"
            " give the right one by --config"
        )
    return groups[0] if groups else []


def translate(tree: dict, shapes: Shapes | None = None, devices: int | None = None) -> Translation:
    """Their configuration as ours.

    Args:
        tree: theirs.
        shapes: of the checkpoint's tensors, for what only they tell (how many codes a remapped
            codebook uses).
        devices: where the command line says how many.

    Raises:
        UserError: something is missing, malformed or not supported.
    """
    try:
        return _translate(tree, shapes, devices)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"the published YAML is malformed or incomplete: {type(error).__name__}: {error};"
            " compare it with the one that was published"
        ) from None


def _translate(tree: dict, shapes: Shapes | None, devices: int | None) -> Translation:
    node = tree["model"]
    target, params = node.get("target"), dict(node.get("params") or {})
    lightning, data = tree.get("lightning") or {}, tree.get("data") or {}
    notes = [
        f"section {section} is none of theirs and is ignored; put keys of ours on the command line"
        for section in tree.keys() - {"model", "data", "lightning"}
    ]
    if target in KINDS:
        model, resolution = translate_first_stage(node, notes, shapes)
        plain = {
            "model": model,
            "loss": translate_loss(params.get("lossconfig"), notes),
            "optimizer": {"betas": [0.5, 0.9], "weight_decay": 0.0},
        }
    elif target in SECOND_STAGES:
        model, resolution, noise = translate_second_stage(params, data, notes, shapes)
        plain = {
            "model": model,
            "noise": noise,
            "optimizer": {"betas": [0.9, 0.95], "weight_decay": 0.01},
        }
    else:
        refuse_continuous(str(target))
        raise UserError(
            f"model.target: '{target}' is none of the published models that can be"
            f" read{did_you_mean(target, [*KINDS, *SECOND_STAGES])}"
        )
    plain["variables"] = {"size": resolution, "root": "data"}
    plain["trainer"] = _trainer(lightning.get("trainer") or {}, notes)
    if devices:
        plain["trainer"] |= {"accelerator": "gpu", "devices": devices}
    plain["data"] = _data(data, plain, notes)
    _set_learning_rate(plain, node.get("base_learning_rate"), notes)
    if plain.get("loss", 0) is None:
        del plain["loss"]
    return Translation(plain, notes, dict(_checkpoints(params, target in SECOND_STAGES)))


def _checkpoints(params: dict, second: bool) -> Iterator[tuple[str, str]]:
    """The ckpt_path of the model and of its parts, where there is one."""
    nodes = {"model": params}
    if second:
        for part, key in (
            ("first_stage", "first_stage_config"),
            ("conditioner", "cond_stage_config"),
        ):
            node = params.get(key)
            nodes[part] = (node.get("params") or {}) if isinstance(node, dict) else {}
    for part, node in nodes.items():
        if node.get("ckpt_path"):
            yield part, node["ckpt_path"]


def _trainer(settings: dict, notes: list[str]) -> dict:
    trainer: dict = {"gradient_clip_val": None, "share_forward": False}
    for name, value in settings.items():
        positive = isinstance(value, int | float) and value > 0
        if name == "gpus":
            devices = _device_count(value)
            if devices:
                trainer |= {"accelerator": "gpu", "devices": devices}
                notes.append(f"gpus {value!r}: trainer.accelerator=gpu trainer.devices={devices}")
        elif name in ("max_steps", "accumulate_grad_batches", "gradient_clip_val") and positive:
            trainer[name] = value
        elif name == "distributed_backend" or (name == "accelerator" and value == "ddp"):
            notes.append(f"{name} {value}: several devices train with DDP without being told so")
        else:
            notes.append(
                f"lightning.trainer.{name}: {value!r} is ignored; see the keys of trainer in any of"
                " our configurations"
            )
    if "max_steps" not in trainer:
        notes.append("the YAML does not say how long to train; set trainer.max_steps (batches)")
    return trainer


def _device_count(gpus) -> int:
    """Of `gpus`: a number, a list, or text such as `0,1`; -1 means all."""
    if gpus in (-1, "-1"):
        return max(1, torch.cuda.device_count())
    if isinstance(gpus, str):
        return sum(bool(number.strip()) for number in gpus.split(","))
    return len(gpus) if isinstance(gpus, list) else max(0, gpus or 0)


def _data(section: dict, plain: dict, notes: list[str]) -> dict:
    """Data sets of ours by what the model reads; where images lie is for the user to say
    (variables.root).
    """
    params = dict(section.get("params") or {})
    data: dict = {
        "batch_size": params.get("batch_size", 8),
        "workers": params.get("num_workers") or 0,
    }
    keys = _keys_read(plain["model"]["params"])
    if keys - {"image", "segmentation", "depth"}:
        notes.append(
            f"no data set of ours gives {', '.join(sorted(keys))} to train on yet; give data.train"
            " a target of your own"
        )
        return data
    mask_or_depth = sorted(keys - {"image"}, reverse=True)[:1]
    name = {"segmentation": "SegmentedImages", "depth": "DepthImages"}
    target = f"taming.data.{name[mask_or_depth[0]] if mask_or_depth else 'ImageFolder'}"
    for part in ("train", "validation"):
        node = params.get(part) or {}
        settings = dict(node.get("params") or {})
        size = settings.get("crop_size") or settings.get("size") or "${variables.size}"
        view = {"size": size} if part == "train" else {"size": size, "flip": False}
        dataset = {"root": "${variables.root}", "view": view}
        lists = [value for key, value in settings.items() if key.endswith("images_list_file")]
        if lists:
            dataset["list"] = lists[0]
        data[part] = {"target": target, "params": dataset}
        if node:
            notes.append(
                f"data.{part}: {node.get('target')} becomes {target} with root 'data'; set"
                " variables.root to your folder"
            )
    return data


def _keys_read(params: dict) -> set[str]:
    """The entries of a batch that a model of ours reads."""
    if "first_stage" not in params:
        return {params["key"]}
    conditioner = params["conditioner"]
    name, details = conditioner["target"].rpartition(".")[2], conditioner["params"]
    keys = {"ClassLabel": "class", "Coordinates": "coordinates", "Boxes": "boxes"}
    condition = (
        details["first_stage"]["params"]["key"] if name == "EncodedImage" else keys.get(name)
    )
    return {params["first_stage"]["params"]["key"]} | ({condition} if condition else set())


def _set_learning_rate(plain: dict, base: float | None, notes: list[str]) -> None:
    """Their rule: accumulation x devices x batch x base; constant, no warm-up."""
    if base is None:
        return
    accumulation = plain["trainer"].get("accumulate_grad_batches", 1)
    devices, batch = plain["trainer"].get("devices", 1), plain["data"]["batch_size"]
    rate = accumulation * devices * batch * base
    plain["optimizer"] |= {"learning_rate": rate, "warmup": 0, "final": 1.0}
    notes.append(
        f"learning rate {rate:.3g} = {accumulation} (accumulation) x {devices} (devices) x"
        f" {batch} (batch) x {base:.3g} (base)"
    )
