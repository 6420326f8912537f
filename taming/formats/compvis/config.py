"""Checkpoints and configurations of CompVis/taming-transformers and latent-diffusion <-> ours. The
only file that knows their names.

What tensors do not tell (heads, order, start token, kind of condition) comes from their YAML and is
never guessed. Nothing that a file or a YAML names is imported: targets are looked up in closed
tables, and pickles are read by an unpickler that can rebuild tensors and nothing else.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from taming.errors import UserError, did_you_mean

KINDS = {
    "taming.models.vqgan.VQModel": "vector",
    "taming.models.vqgan.VQSegmentationModel": "vector",
    "taming.models.vqgan.VQNoDiscModel": "vector",
    "taming.models.vqgan.GumbelVQ": "gumbel",
    "taming.models.vqgan.EMAVQ": "ema",
    "ldm.models.autoencoder.VQModel": "vector",
    "ldm.models.autoencoder.VQModelInterface": "vector",
}


PRIORS = ("taming.models.cond_transformer.Net2NetTransformer",)


GPTS = ("taming.modules.transformer.mingpt.GPT",)


ADVERSARIAL_LOSSES = (
    "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
)


MASK_LOSSES = (
    "taming.modules.losses.segmentation.BCELoss",
    "taming.modules.losses.segmentation.BCELossWithQuant",
)


NO_LOSSES = (
    "taming.modules.losses.DummyLoss",
    "taming.modules.losses.vqperceptual.DummyLoss",
    "torch.nn.Identity",
)


CONDITIONS = {
    "taming.modules.misc.coord.CoordStage": "coordinates",
    "taming.modules.util.Labelator": "class",
    "taming.modules.util.SOSProvider": "start",
    "taming.models.dummy_cond_stage.DummyCondStage": "boxes",
}


ORDERS = {
    "Identity": "raster",
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralOut": "spiral_out",
    "SpiralIn": "spiral_in",
    "RandomPermute": "shuffled",
    "AlternateParsing": "alternate",
}


# Entries of a batch; others keep theirs
KEYS = {
    "class_label": "class",
    "coord": "coordinates",
    "objects_bbox": "boxes",
    "objects_center_points": "boxes",
}


LEGACY_CODEBOOK_WEIGHT = 0.25  # all published models: beta stands at the codebook's term


UNREAD = {"ckpt_path", "ignore_keys", "monitor", "sane_index_shape", "colorize_nlabels"}


@dataclass
class Translation:
    """A plain Experiment, what a user should know about how it came about, and the checkpoints that
    its parts were to be filled from.
    """

    config: dict
    notes: list[str] = field(default_factory=list)
    # By part: model, first_stage, conditioner
    checkpoints: dict[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> dict:
        """The configuration with its ${...} filled in."""
        return resolved(self.config)


# Configurations


def is_theirs(tree) -> bool:
    """Whether a YAML tree is one of theirs."""
    model = tree.get("model") if isinstance(tree, dict) else None
    return isinstance(model, dict) and (
        model.get("target") in (*KINDS, *PRIORS) or "base_learning_rate" in model
    )


def read_yaml(paths: list[Path]) -> dict:
    """Their YAML files, merged from left to right."""
    try:
        return OmegaConf.to_container(
            OmegaConf.merge(*(OmegaConf.load(path) for path in paths)), resolve=True
        )
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(
            f"config {' + '.join(map(str, paths))} can't be read:"
            f" {' '.join(str(error).split())[:200]}"
        ) from None


def resolved(tree: dict) -> dict:
    """A tree with its ${...} filled in."""
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"the published YAML can't be resolved: {' '.join(str(error).split())[:200]}"
        ) from None


def configs_beside(path: Path) -> list[Path]:
    """The YAML files that belong to a published checkpoint by the layouts in use:
    logs/NAME/{checkpoints,configs}, {ckpts,configs}, or in its own folder.
    """
    for folder in (
        path.parent.parent / "configs",
        path.parent / "configs",
        path.parent,
        path.parent.parent,
    ):
        project = sorted(folder.glob("*project.yaml")) or [
            p for name in ("model.yaml", "config.yaml") if (p := folder / name).is_file()
        ]
        if project:
            return project
    return []


def translate(
    tree: dict, shapes: dict[str, tuple[int, ...]] | None = None, devices: int | None = None
) -> Translation:
    """Their configuration as ours. shapes: of the checkpoint's tensors, for what only they tell
    (how many codes a remapped codebook uses). devices: where the command line says how many.

    Raises UserError for what is missing, malformed or not supported.
    """
    try:
        return _translate(tree, shapes, devices)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        ZeroDivisionError,
        IndexError,
    ) as error:
        raise UserError(
            f"the published YAML is malformed or incomplete: {type(error).__name__}: {error};"
            " compare it with the one that was published"
        ) from None


def _translate(tree: dict, shapes: dict | None, devices: int | None) -> Translation:
    node = tree["model"]
    target, params = node.get("target"), dict(node.get("params") or {})
    notes: list[str] = []
    for section in tree.keys() - {"model", "data", "lightning"}:
        notes.append(
            f"section {section} is none of theirs and was left aside; put keys of ours on the"
            " command line"
        )
    found = {"model": params.get("ckpt_path")}
    if target in KINDS:
        model, resolution = _first_stage(node, notes, shapes, "")
        plain = {
            "model": model,
            "loss": _loss(params.get("lossconfig"), notes),
            "optimizer": {"betas": [0.5, 0.9], "weight_decay": 0.0},
        }
    elif target in PRIORS:
        model, resolution, noise = _second_stage(params, tree.get("data") or {}, notes, shapes)
        plain = {
            "model": model,
            "noise": noise,
            "optimizer": {"betas": [0.9, 0.95], "weight_decay": 0.01},
        }
        found |= {
            part: (params.get(key) or {}).get("params", {}).get("ckpt_path")
            for part, key in (
                ("first_stage", "first_stage_config"),
                ("conditioner", "cond_stage_config"),
            )
            if isinstance(params.get(key), dict)
        }
    else:
        raise UserError(
            f"model.target: '{target}' is none of the published models that can be"
            f" read{did_you_mean(target, [*KINDS, *PRIORS])}"
        )
    plain["variables"] = {"size": resolution, "root": "data"}
    plain["trainer"] = _trainer((tree.get("lightning") or {}).get("trainer") or {}, notes)
    if devices:
        plain["trainer"] |= {"accelerator": "gpu", "devices": devices}
    plain["data"] = _data(tree.get("data") or {}, plain, notes)
    _rate(plain, node.get("base_learning_rate"), notes)
    if plain.get("loss", 0) is None:
        del plain["loss"]
    return Translation(plain, notes, {part: path for part, path in found.items() if path})


def _first_stage(
    node: dict, notes: list[str], shapes: dict | None, prefix: str
) -> tuple[dict, int]:
    params = dict(node.get("params") or {})
    kind = KINDS.get(node.get("target"))
    if kind is None:
        raise UserError(
            f"target '{node.get('target')}' is none of the published first"
            f" stages{did_you_mean(node.get('target'), KINDS)}"
        )
    try:
        net = dict(params["ddconfig"])
        num_codes, dim = params["n_embed"], params["embed_dim"]
        channels, multipliers, resolution = net["ch"], list(net["ch_mult"]), net["resolution"]
        blocks, latent, inputs, outputs = (
            net["num_res_blocks"],
            net["z_channels"],
            net["in_channels"],
            net["out_ch"],
        )
    except KeyError as error:
        raise UserError(
            f"{node['target']}: the YAML lacks {error}, which tensors do not tell; give the one"
            " that came with the checkpoint"
        ) from None
    if (
        net.get("double_z")
        or inputs != outputs
        or not net.get("resamp_with_conv", True)
        or net.get("tanh_out")
    ):
        raise UserError(
            f"{node['target']}: double_z, different in_channels and out_ch, resamp_with_conv: false"
            " and tanh_out are not supported"
        )
    for name in (
        params.keys()
        - UNREAD
        - {
            "ddconfig",
            "lossconfig",
            "n_embed",
            "embed_dim",
            "image_key",
            "n_labels",
            "remap",
            "beta",
        }
    ):
        if name not in ("kl_weight", "temperature_scheduler_config"):
            notes.append(f"{prefix}{name}: {params[name]!r} has no counterpart here")
    weight = ((params.get("lossconfig") or {}).get("params") or {}).get("codebook_weight", 1.0)
    quantizer = _quantizer(kind, num_codes, dim, weight, params, notes)
    if params.get("remap") or f"{prefix}quantize.used" in (shapes or {}):
        used = (
            shapes[f"{prefix}quantize.used"][0]
            if f"{prefix}quantize.used" in (shapes or {})
            else params["remap"]
        )
        quantizer = {
            "target": "taming.first_stage.RemappedQuantizer",
            "params": {"quantizer": quantizer, "used": used},
        }
        notes.append(
            "codes outside the remapped set become the nearest in it; the published code draws one"
            " at random"
        )
    built = {
        "channels": channels,
        "multipliers": multipliers,
        "blocks": blocks,
        "attention": [
            i
            for i in range(len(multipliers))
            if resolution // 2**i in (net.get("attn_resolutions") or [])
        ],
        "latent_channels": latent,
        "dropout": float(net.get("dropout", 0.0)),
        "quantizer": quantizer,
        "key": KEYS.get(params.get("image_key", "image"), params.get("image_key", "image")),
    }
    if net.get("attn_type", "vanilla") == "none":
        built["middle_attention"] = False
    elif net.get("attn_type", "vanilla") != "vanilla":
        raise UserError(
            f"{node['target']}: attn_type '{net['attn_type']}' is not supported; vanilla and"
            " none are"
        )
    if node["target"].endswith("VQSegmentationModel") or built["key"] == "segmentation":
        if params.get("n_labels", inputs) != inputs:
            raise UserError(
                f"{node['target']}: n_labels is {params['n_labels']}, but in_channels is {inputs}"
            )
        return {
            "target": "taming.first_stage.MaskVQGAN",
            "params": {"labels": inputs, **built, "key": "segmentation"},
        }, resolution
    return {
        "target": "taming.first_stage.VQGAN",
        "params": {**built, "in_channels": inputs},
    }, resolution


def _quantizer(
    kind: str, num_codes: int, dim: int, weight: float, params: dict, notes: list[str]
) -> dict:
    size = {"num_codes": num_codes, "dim": dim}
    if kind == "vector":
        how = {
            "codebook_weight": LEGACY_CODEBOOK_WEIGHT * weight,
            "commitment_weight": 1.0 * weight,
        }
        return {"target": "taming.first_stage.VectorQuantizer", "params": {**size, **how}}
    if kind == "ema":
        return {
            "target": "taming.first_stage.EMAQuantizer",
            "params": {**size, "commitment_weight": params.get("beta", 0.25) * weight},
        }
    how = {
        "kl_weight": params.get("kl_weight", 1e-8) * weight,
        "hard": True,
        "temperature": [1.0, 1.0],
        "temperature_batches": 1,
    }
    schedule = (params.get("temperature_scheduler_config") or {}).get("params")
    if schedule:
        if schedule.get("warm_up_steps") and schedule["lr_start"] != schedule["lr_max"]:
            notes.append(
                f"the temperature's warm-up over {schedule['warm_up_steps']} batches has no"
                " counterpart here"
            )
        how |= {
            "temperature": [schedule["lr_max"], schedule["lr_min"]],
            "temperature_batches": schedule["max_decay_steps"],
        }
    return {"target": "taming.first_stage.GumbelQuantizer", "params": {**size, **how}}


def _loss(node: dict | None, notes: list[str]) -> dict | None:
    target, params = (node or {}).get("target"), dict((node or {}).get("params") or {})
    if node is None or target in NO_LOSSES:
        notes.append(
            "the YAML names no loss (its model was only to be used); to train, add one with"
            " loss.target=..."
        )
        return None
    if target in MASK_LOSSES:
        return {"target": "taming.first_stage.MaskLoss", "params": {"form": "bce"}}
    if target not in ADVERSARIAL_LOSSES:
        raise UserError(
            f"lossconfig.target: '{target}' is none of the published"
            f" losses{did_you_mean(target, [*ADVERSARIAL_LOSSES, *MASK_LOSSES, *NO_LOSSES])}"
        )
    if params.get("disc_conditional"):
        notes.append(
            "disc_conditional: no published model calls the discriminator with a condition;"
            " left out"
        )
    how = {
        "perceptual": "lpips",
        "perceptual_weight": params.get("perceptual_weight", 1.0),
        "perceptual_blocks": 5,
        "adversarial": params.get("disc_weight", 1.0) * params.get("disc_factor", 1.0),
        "adversarial_start": params.get("disc_start", 0),
        "form": params.get("disc_loss", "hinge"),
        "width": params.get("disc_ndf", 64),
        "layers": params.get("disc_num_layers", 3),
        "normalization": "act" if params.get("use_actnorm") else "batch",
        "in_channels": params.get("disc_in_channels", 3),
    }
    if not how["perceptual_weight"]:
        how["perceptual"] = "none"
    return {"target": "taming.first_stage.VQGANLoss", "params": how}


def _second_stage(
    params: dict, data: dict, notes: list[str], shapes: dict | None
) -> tuple[dict, int, float]:
    gpt_node = params.get("transformer_config") or {}
    if gpt_node.get("target") not in GPTS:
        raise UserError(
            f"transformer_config.target: '{gpt_node.get('target')}' is not"
            f" supported{did_you_mean(gpt_node.get('target'), GPTS)}"
        )
    gpt = dict(gpt_node.get("params") or {})
    missing = [
        name
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        if name not in gpt
    ]
    if missing:
        raise UserError(
            f"transformer_config.params lacks {', '.join(missing)}, which tensors do not tell; give"
            " the YAML that came with the checkpoint"
        )
    if "first_stage_config" not in params:
        raise UserError(
            "model.params lacks first_stage_config; give the YAML that came with the checkpoint"
        )
    first, resolution = _first_stage(
        params["first_stage_config"], notes, shapes, "first_stage_model."
    )
    first["params"]["key"] = KEYS.get(
        params.get("first_stage_key", "image"), params.get("first_stage_key", "image")
    )
    stride = 2 ** (len(first["params"]["multipliers"]) - 1)
    grid = [resolution // stride, resolution // stride]
    conditioner, part = _conditioner(
        params, first, resolution, gpt["block_size"] - math.prod(grid), data, notes, shapes
    )
    drops = {
        name: float(gpt.get(name, 0.0)) for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop")
    }
    if drops["embd_pdrop"] != drops["resid_pdrop"]:
        notes.append(
            f"dropout of embeddings {drops['embd_pdrop']} and of residual branches"
            f" {drops['resid_pdrop']} are one number here: {drops['resid_pdrop']}"
        )
    prior = {
        "num_codes": _num_codes(first["params"]["quantizer"]),
        "grid": grid,
        "parts": [part],
        "layers": gpt["n_layer"],
        "heads": gpt["n_head"],
        "width": gpt["n_embd"],
        "dropout": drops["resid_pdrop"],
        "attention_dropout": drops["attn_pdrop"],
        "shared_vocabulary": gpt["vocab_size"],
        "positions": gpt["block_size"],
        "unmasked": gpt.get("n_unmasked", 0),
        "order": _order(params.get("permuter_config"), grid),
    }
    model = {
        "first_stage": first,
        "conditioner": conditioner,
        "prior": {"target": "taming.second_stage.GPT", "params": prior},
    }
    kept = params.get("pkeep", 1.0)
    if kept <= 0:
        notes.append(
            f"pkeep {kept} (all codes replaced by noise) has no counterpart here; trained without"
            " noise"
        )
        kept = 1.0
    return (
        {"target": "taming.second_stage.SecondStage", "params": model},
        resolution,
        round(1.0 - kept, 10),
    )


def _conditioner(
    params: dict,
    first: dict,
    resolution: int,
    spare: int,
    data: dict,
    notes: list[str],
    shapes: dict | None,
) -> tuple[dict, dict]:
    """Our conditioner, and the part of the condition that the prior hears."""
    node, key = params.get("cond_stage_config"), params.get("cond_stage_key", "depth")
    key = KEYS.get(key, key)
    if params.get("unconditional") or node == "__is_unconditional__":
        return _start(params.get("sos_token", 0))
    if node == "__is_first_stage__":
        node, stage = None, {"target": first["target"], "params": {**first["params"], "key": key}}
    elif not isinstance(node, dict):
        raise UserError(
            f"cond_stage_config: {node!r} is not supported; a model, __is_first_stage__ or"
            " __is_unconditional__ is"
        )
    else:
        kind, how = CONDITIONS.get(node.get("target")), dict(node.get("params") or {})
        if kind == "start":
            return _start(how["sos_token"])
        if kind == "class":
            return {
                "target": "taming.second_stage.ClassLabel",
                "params": {"classes": how["n_classes"]},
            }, {"vocabulary": how["n_classes"], "length": 1}
        if kind == "coordinates":
            side = resolution // how["down_factor"]
            made = {
                "target": "taming.second_stage.Coordinates",
                "params": {"steps": how["n_embed"], "factor": how["down_factor"]},
            }
            return made, {"vocabulary": how["n_embed"], "grid": [side, side]}
        if kind == "boxes":
            return _boxes(
                how["conditional_key"],
                spare,
                (params["transformer_config"]["params"])["vocab_size"],
                data,
            )
        stage, resolution = _first_stage(node, notes, shapes, "cond_stage_model.")
        if stage["target"].endswith(".VQGAN"):
            stage["params"]["key"] = key
            if key == "segmentation":  # plain models were trained on masks too
                inputs = stage["params"].pop("in_channels")
                stage = {
                    "target": "taming.first_stage.MaskVQGAN",
                    "params": {"labels": inputs, **stage["params"]},
                }
    size = params.get("downsample_cond_size", -1)
    how = {"first_stage": stage} | (
        {"size": [size, size], "trained_size": [resolution, resolution]} if size > 0 else {}
    )
    side = (size if size > 0 else resolution) // 2 ** (len(stage["params"]["multipliers"]) - 1)
    made = {"target": "taming.second_stage.EncodedImage", "params": how}
    return made, {"vocabulary": _num_codes(stage["params"]["quantizer"]), "grid": [side, side]}


def _start(token: int) -> tuple[dict, dict]:
    return {"target": "taming.second_stage.Unconditional", "params": {"token": token}}, {
        "vocabulary": token + 1,
        "length": 1,
    }


def _boxes(key: str, spare: int, vocabulary: int, data: dict) -> tuple[dict, dict]:
    """The number of slots follows from the block size (codes, slots, two crop tokens); the data's
    section must agree where it is there.
    """
    points = key == "objects_center_points"
    told = (((data.get("params") or {}).get("train") or {}).get("params")) or {}
    each, crop = (2 if points else 3), told.get("encode_crop")
    if crop is None:
        fitting = [c for c in (True, False) if (spare - 2 * c) % each == 0]
        if len(fitting) != 1:
            raise UserError(
                "whether the crop is encoded is told neither by the block size nor by the YAML; add"
                " data.params.train.params.encode_crop"
            )
        crop = fitting[0]
    slots, rest = divmod(spare - 2 * crop, each)
    if rest or slots < 1 or told.get("max_objects_per_image", slots) != slots:
        said = told.get("max_objects_per_image", "nothing")
        raise UserError(
            f"block_size leaves {spare} tokens to the objects, which is not {each} for each of"
            f" {said} objects{' and 2 for the crop' if crop else ''}"
        )
    how = {
        "objects": slots,
        "vocabulary": told.get("no_tokens", vocabulary),
        "points": points,
        "crop": bool(crop),
    }
    return {"target": "taming.second_stage.Boxes", "params": how}, {
        "vocabulary": how["vocabulary"],
        "length": spare,
    }


def _order(node: dict | None, grid: list[int]) -> str:
    if not node:
        return "raster"
    name = str(node.get("target")).rsplit(".", 1)[-1]
    if (
        not str(node.get("target")).startswith("taming.modules.transformer.permuter.")
        or name not in ORDERS
    ):
        raise UserError(
            f"permuter_config.target: '{node.get('target')}' is unknown{did_you_mean(name, ORDERS)}"
        )
    said = node.get("params") or {}
    if any(said.get(side, n) != n for side, n in zip("HW", grid)):
        raise UserError(
            f"permuter_config says {said.get('H')}x{said.get('W')}, but the first stage makes"
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


def _trainer(theirs: dict, notes: list[str]) -> dict:
    found: dict = {"gradient_clip_val": None, "share_forward": False}
    for name, value in theirs.items():
        if name == "gpus":
            numbers = (
                [n for n in value.split(",") if n.strip()]
                if isinstance(value, str)
                else value
                if isinstance(value, list)
                else range(value or 0)
            )
            if value in (-1, "-1"):
                numbers = range(max(1, torch.cuda.device_count()))
            if len(numbers):
                found |= {"accelerator": "gpu", "devices": len(numbers)}
                notes.append(
                    f"gpus {value!r}: trainer.accelerator=gpu trainer.devices={len(numbers)}"
                )
        elif (
            name in ("max_steps", "accumulate_grad_batches", "gradient_clip_val")
            and isinstance(value, int | float)
            and value > 0
        ):
            found[name] = value
        elif name == "distributed_backend" or (name == "accelerator" and value == "ddp"):
            notes.append(
                f"{name} {value}: left to trainer.strategy=auto, which takes DDP where there are"
                " several devices"
            )
        else:
            notes.append(
                f"lightning.trainer.{name}: {value!r} is left aside; see the keys of trainer in any"
                " of our configurations"
            )
    if "max_steps" not in found:
        notes.append("the YAML does not say how long to train; set trainer.max_steps (batches)")
    return found


def _data(theirs: dict, plain: dict, notes: list[str]) -> dict:
    """Data sets of ours by what the model reads; where pictures lie is for the user to say
    (variables.root).
    """
    params = dict(theirs.get("params") or {})
    found: dict = {
        "batch_size": params.get("batch_size", 8),
        "workers": params.get("num_workers") or 0,
    }
    model = plain["model"]["params"]
    reads = (
        {model.get("key")}
        if "first_stage" not in model
        else {model["first_stage"]["params"]["key"], _condition_key(model["conditioner"])}
    )
    target = {"segmentation": "SegmentedImages", "depth": "DepthImages"}.get(
        next((k for k in reads if k in ("segmentation", "depth")), ""), "ImageFolder"
    )
    if reads - {"image", "segmentation", "depth", None}:
        notes.append(
            f"no data set of ours gives {', '.join(sorted(r for r in reads if r))} to train on yet;"
            " give data.train a target of your own"
        )
        return found
    for name in ("train", "validation"):
        node = params.get(name) or {}
        told = dict(node.get("params") or {})
        size = told.get("crop_size") or told.get("size")
        own = {"root": "${variables.root}", "size": size or "${variables.size}"} | (
            {"flip": False} if name == "validation" else {}
        )
        lists = [value for key, value in told.items() if key.endswith("images_list_file")]
        own |= {"list": lists[0]} if lists else {}
        found[name] = {"target": f"taming.data.{target}", "params": own}
        if node:
            notes.append(
                f"data.{name}: {node.get('target')} becomes taming.data.{target} with root 'data';"
                " set variables.root to your folder"
            )
    return found


def _condition_key(conditioner: dict) -> str | None:
    name, params = conditioner["target"].rsplit(".", 1)[-1], conditioner.get("params") or {}
    return {
        "EncodedImage": lambda: params["first_stage"]["params"]["key"],
        "ClassLabel": lambda: "class",
    }.get(name, lambda: {"Coordinates": "coordinates", "Boxes": "boxes"}.get(name))()


def _rate(plain: dict, base: float | None, notes: list[str]) -> None:
    """Their rule: accumulation x devices x batch x base; constant, no warm-up."""
    if base is None:
        return
    accumulation, devices = (
        plain["trainer"].get("accumulate_grad_batches", 1),
        plain["trainer"].get("devices", 1),
    )
    rate = accumulation * devices * plain["data"]["batch_size"] * base
    plain["optimizer"] |= {"learning_rate": rate, "warmup": 0, "final": 1.0}
    notes.append(
        f"learning rate {rate:.3g} = {accumulation} (accumulation) x {devices} (devices) x"
        f" {plain['data']['batch_size']} (batch) x {base:.3g} (base)"
    )
