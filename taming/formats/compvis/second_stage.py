"""The published second stages: their configuration -> ours."""

import math

from taming.errors import UserError, did_you_mean
from taming.formats.compvis.first_stage import translate_first_stage
from taming.formats.compvis.names import CONDITIONS, GPTS, ORDERS, PERMUTERS, our_key

GPT_SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
Shapes = dict[str, tuple[int, ...]]


def translate_second_stage(
    params: dict, data: dict, notes: list[str], shapes: Shapes | None
) -> tuple[dict, int, float]:
    """A second stage of theirs as (ours, the side of its images, the noise on codes in training).

    Args:
        params: of their model.
        data: their data section, which a few conditions are described in.
        notes: what has no counterpart is added here.
        shapes: of the checkpoint's tensors, where there is one.
    """
    # 1. the first stage, from which the grid follows
    gpt = _gpt_params(params)
    if "first_stage_config" not in params:
        raise UserError(
            "model.params lacks first_stage_config; give the YAML that came with the checkpoint"
        )
    first, resolution = translate_first_stage(
        params["first_stage_config"], notes, shapes, "first_stage_model."
    )
    first["params"]["key"] = our_key(params.get("first_stage_key", "image"))
    stride = 2 ** (len(first["params"]["multipliers"]) - 1)
    grid = [resolution // stride, resolution // stride]
    length = gpt["block_size"] - math.prod(grid)
    # 2. the condition
    conditioner, part = _conditioner(params, first, resolution, length, data, notes, shapes)

    # 3. the prior
    dropouts = {
        name: float(gpt.get(name, 0.0)) for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop")
    }
    if dropouts["embd_pdrop"] != dropouts["resid_pdrop"]:
        notes.append(
            f"dropout of embeddings {dropouts['embd_pdrop']} and of residual branches"
            f" {dropouts['resid_pdrop']} are one number here: {dropouts['resid_pdrop']}"
        )
    prior = {
        "num_codes": _num_codes(first["params"]["quantizer"]),
        "grid": grid,
        "parts": [part],
        "layers": gpt["n_layer"],
        "heads": gpt["n_head"],
        "width": gpt["n_embd"],
        "dropout": dropouts["resid_pdrop"],
        "attention_dropout": dropouts["attn_pdrop"],
        "shared_vocabulary": gpt["vocab_size"],
        "positions": gpt["block_size"],
        "unmasked": gpt.get("n_unmasked", 0),
        "order": _order(params.get("permuter_config"), grid),
    }
    # 4. all together, and the noise
    model = {
        "first_stage": first,
        "conditioner": conditioner,
        "prior": {"target": "taming.formats.compvis.CompVisGPT", "params": prior},
    }
    clean = params.get("pkeep", 1.0)
    if clean <= 0:
        notes.append(
            f"pkeep {clean} (all codes replaced by noise) has no counterpart here; trained without"
            " noise"
        )
        clean = 1.0
    node = {"target": "taming.second_stage.SecondStage", "params": model}
    return node, resolution, round(1.0 - clean, 10)


def _gpt_params(params: dict) -> dict:
    node = params.get("transformer_config") or {}
    target = str(node.get("target"))
    if target not in GPTS:
        raise UserError(
            f"transformer_config.target: '{target}' is not supported{did_you_mean(target, GPTS)}"
        )
    gpt = dict(node.get("params") or {})
    missing = [name for name in GPT_SIZES if name not in gpt]
    if missing:
        raise UserError(
            f"transformer_config.params lacks {', '.join(missing)}, which tensors do not tell; give"
            " the YAML that came with the checkpoint"
        )
    return gpt


def _conditioner(
    params: dict,
    first: dict,
    resolution: int,
    length: int,
    data: dict,
    notes: list[str],
    shapes: Shapes | None,
) -> tuple[dict, dict]:
    """Our conditioner, and the part of the condition that the prior is given."""
    # 1. no model of its own: a start token, or the first stage once more
    node, key = params.get("cond_stage_config"), our_key(params.get("cond_stage_key", "depth"))
    if params.get("unconditional") or node == "__is_unconditional__":
        return _start(params.get("sos_token", 0))
    if node == "__is_first_stage__":
        stage = {"target": first["target"], "params": {**first["params"], "key": key}}
        return _encoded_image(params, stage, resolution)
    if not isinstance(node, dict):
        raise UserError(
            f"cond_stage_config: {node!r} is not supported; a model, __is_first_stage__ or"
            " __is_unconditional__ is"
        )
    # 2. what is no picture
    kind, details = CONDITIONS.get(str(node.get("target"))), dict(node.get("params") or {})
    if kind == "start":
        return _start(details["sos_token"])
    if kind == "class":
        classes = details["n_classes"]
        return {"target": "taming.second_stage.ClassLabel", "params": {"classes": classes}}, {
            "vocabulary": classes,
            "length": 1,
        }
    if kind == "coordinates":
        side = resolution // details["down_factor"]
        sizes = {"steps": details["n_embed"], "factor": details["down_factor"]}
        return {"target": "taming.second_stage.Coordinates", "params": sizes}, {
            "vocabulary": details["n_embed"],
            "grid": [side, side],
        }
    if kind == "boxes":
        vocabulary = params["transformer_config"]["params"]["vocab_size"]
        return _boxes(details["conditional_key"], length, vocabulary, data)
    # 3. a picture, by a first stage of its own
    stage, resolution = translate_first_stage(node, notes, shapes, "cond_stage_model.")
    if stage["target"].endswith(".VQGAN"):
        stage["params"]["key"] = key
        if key == "segmentation":  # plain models were trained on masks too
            inputs = stage["params"].pop("in_channels")
            stage = {
                "target": "taming.first_stage.MaskVQGAN",
                "params": {"labels": inputs, **stage["params"]},
            }
    return _encoded_image(params, stage, resolution)


def _encoded_image(params: dict, stage: dict, resolution: int) -> tuple[dict, dict]:
    """An image or mask, as the codes of a first stage."""
    size = params.get("downsample_cond_size", -1)
    translated = {"first_stage": stage}
    if size > 0:
        translated |= {"size": [size, size], "trained_size": [resolution, resolution]}
    side = (size if size > 0 else resolution) // 2 ** (len(stage["params"]["multipliers"]) - 1)
    return {"target": "taming.second_stage.EncodedImage", "params": translated}, {
        "vocabulary": _num_codes(stage["params"]["quantizer"]),
        "grid": [side, side],
    }


def _start(token: int) -> tuple[dict, dict]:
    return {"target": "taming.second_stage.Unconditional", "params": {"token": token}}, {
        "vocabulary": token + 1,
        "length": 1,
    }


def _boxes(key: str, length: int, vocabulary: int, data: dict) -> tuple[dict, dict]:
    """The number of slots follows from the block size (codes, slots, two crop tokens); the data's
    section must agree where it is there.
    """
    points = key == "objects_center_points"
    settings = (((data.get("params") or {}).get("train") or {}).get("params")) or {}
    each, crop = (2 if points else 3), settings.get("encode_crop")
    if crop is None:
        fitting = [c for c in (True, False) if (length - 2 * c) % each == 0]
        if len(fitting) != 1:
            raise UserError(
                "neither the block size nor the YAML says whether the crop is encoded; add"
                " data.params.train.params.encode_crop"
            )
        crop = fitting[0]
    slots, rest = divmod(length - 2 * crop, each)
    if rest or slots < 1 or settings.get("max_objects_per_image", slots) != slots:
        objects = settings.get("max_objects_per_image", "nothing")
        raise UserError(
            f"block_size leaves {length} tokens to the objects, which is not {each} for each of"
            f" {objects} objects{' and 2 for the crop' if crop else ''}"
        )
    translated = {
        "objects": slots,
        "vocabulary": settings.get("no_tokens", vocabulary),
        "points": points,
        "crop": bool(crop),
    }
    return {"target": "taming.second_stage.Boxes", "params": translated}, {
        "vocabulary": translated["vocabulary"],
        "length": length,
    }


def _order(node: dict | None, grid: list[int]) -> str:
    if not node:
        return "raster"
    module, _, name = str(node.get("target")).rpartition(".")
    if module != PERMUTERS or name not in ORDERS:
        raise UserError(
            f"permuter_config.target: '{node.get('target')}' is unknown{did_you_mean(name, ORDERS)}"
        )
    sides = node.get("params") or {}
    if any(sides.get(side, n) != n for side, n in zip("HW", grid)):
        raise UserError(
            f"permuter_config says {sides.get('H')}x{sides.get('W')}, but the first stage makes"
            f" {grid[0]}x{grid[1]} codes"
        )
    return ORDERS[name]


def _num_codes(quantizer: dict) -> int:
    params = quantizer["params"]
    if "quantizer" not in params:
        return params["num_codes"]
    if not isinstance(params["used"], int):
        raise UserError(
            f"remap: how many codes '{params['used']}' lists is needed; load it together with the"
            " checkpoint"
        )
    return params["used"]
