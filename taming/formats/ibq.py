"""SEED-Voken's IBQ tokenizers (Shi et al. 2024, arXiv 2412.02692): CompVis's networks, codes by the
largest product, averaged weights beside the trained ones, YAMLs of Lightning's command line.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from taming.errors import UserError
from taming.formats.compvis.config import configs_beside, translate
from taming.formats.compvis.weights import rename_weights
from taming.formats.content import Content, brief
from taming.formats.source import Source, tokenizer_content

NAME = "SEED-Voken"
READS_CARD = False
CLASSES = ("models.ibqgan.IBQ",)  # of src.IBQ, and of copies under another name
AVERAGES = "model_ema."
COUNTERS = ("decay", "num_updates")  # of the averages


def recognises(source: Source) -> bool:
    """By its YAML: tensors alone look like those of a VQ-GAN."""
    return bool(source.weights) and _class_name(_tree(source)).endswith(CLASSES)


def read(source: Source, allow: Iterable[str] = ()) -> Content:
    """An IBQ tokenizer as ours, with its averaged weights where it has some.

    Raises:
        UserError: its YAML is malformed, or does not fit.
    """
    tree, path = _tree(source), source.path
    words = "init_args" if tree["model"].get("init_args") else "params"
    params = _mapping(tree["model"], words, path)
    if params.get("l2_normalize") or params.get("cosine_similarity"):
        raise UserError(f"'{path}': l2_normalize and cosine_similarity are not supported in IBQ")
    if params.get("remap"):
        raise UserError(f"'{path}': remap is not supported in IBQ")
    state = averaged(source)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    node = {"target": "taming.models.vqgan.VQModel", "params": _compvis_params(params)}
    translated = translate({"model": node}, shapes)
    model = translated.config["model"]
    model["params"]["quantizer"] = _quantizer(params, path)
    renamed = rename_weights(state, path, False, translated.config)
    source.unused |= renamed.unused
    source.notes += translated.notes
    return tokenizer_content(
        source,
        NAME,
        model,
        renamed.weights,
        renamed.unknown,
        size=translated.config["variables"]["size"],
        configs=tuple(map(str, _yamls(source))),
        allow=allow,
    )


def averaged(source: Source) -> dict[str, Tensor]:
    """The tensors, with those replaced of which there is an average (`model_ema.` and the name
    without its dots).
    """
    state = {k: v for k, v in source.weights.items() if not k.startswith(AVERAGES)}
    averages = {
        name.removeprefix(AVERAGES): tensor
        for name, tensor in source.weights.items()
        if name.startswith(AVERAGES)
    }
    names = {name.replace(".", ""): name for name in state}
    count = 0
    for short, tensor in averages.items():
        if short in names:
            state[names[short]] = tensor
            count += 1
    if count:
        source.notes.append(f"averaged weights are taken for {count} tensors (model_ema)")
    return state


def _quantizer(params: dict[str, Any], path: Path) -> dict:
    loss = _mapping(_mapping(params, "lossconfig", path), "params", path)
    weight = _number(loss, "quant_loss_weight", 1.0, path)
    entropy = _number(loss, "entropy_loss_weight", 0.1, path)
    translated = {
        "num_codes": params["n_embed"],
        "dim": params["embed_dim"],
        "codebook_weight": weight * _number(params, "beta", 0.25, path),
        "commitment_weight": weight,
        "entropy_weight": entropy if params.get("use_entropy_loss") else 0.0,
        "temperature": _number(params, "entropy_temperature", 0.01, path),
    }
    return {"target": "taming.first_stage.IBQ", "params": translated}


def _mapping(tree: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """An inner node of the YAML, empty where it is missing. Raises UserError for anything else."""
    value = tree.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"'{path}': {key} in its YAML is {brief(value)}, not a mapping")
    return dict(value)


def _number(tree: dict[str, Any], key: str, default: float, path: Path) -> float:
    value = tree.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"'{path}': {key} in its YAML is {brief(value)}, not a number")
    return float(value)


def _compvis_params(params: dict[str, Any]) -> dict[str, Any]:
    """What CompVis's VQModel has, too; losses and schedules are for training."""
    names = ("ddconfig", "n_embed", "embed_dim", "image_key")
    for name in names[:3]:
        if name not in params:
            raise UserError(f"the YAML of IBQ lacks {name}; compare it with the one published")
    return {name: params[name] for name in names if name in params}


def _yamls(source: Source) -> list[Path]:
    return [source.config] if source.config else configs_beside(source.path)


def _tree(source: Source) -> dict[str, Any]:
    """The YAML; empty where there is none, or none that can be read."""
    yamls = [path for path in _yamls(source) if path.suffix in (".yaml", ".yml")]
    try:
        tree = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, yamls)))
    except Exception:  # PyYAML and OmegaConf raise many kinds; CompVis's reader names them
        return {}
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        return {}
    return {str(key): value for key, value in tree.items()}


def _class_name(tree: dict[str, Any]) -> str:
    model = tree.get("model") or {}
    return str(model.get("class_path") or model.get("target") or "")
