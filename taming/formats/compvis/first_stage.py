"""The published first stages and losses: their configuration -> ours."""

from taming.errors import UserError, did_you_mean
from taming.formats.compvis.names import (
    ADVERSARIAL_LOSSES,
    CONTINUOUS,
    KINDS,
    MASK_LOSSES,
    NO_LOSSES,
    our_key,
)

CODEBOOK_WEIGHT = 0.25  # all published models: beta stands at the codebook's term
ATTENTIONS = ("vanilla", "vanilla-xformers", "none")  # the second is the first, computed otherwise
UNREAD = {"ckpt_path", "ignore_keys", "monitor", "sane_index_shape", "colorize_nlabels"}
READ = {
    "ddconfig",
    "lossconfig",
    "n_embed",
    "embed_dim",
    "image_key",
    "n_labels",
    "remap",
    "beta",
    "kl_weight",
    "temperature_scheduler_config",
}


def translate_first_stage(
    node: dict, notes: list[str], shapes: dict[str, tuple[int, ...]] | None, prefix: str = ""
) -> tuple[dict, int]:
    """A first stage of theirs as (ours, the side of the images it is trained on).

    Args:
        node: their target and params.
        notes: what has no counterpart is added here.
        shapes: of the checkpoint's tensors, where there is one.
        prefix: of the model's tensors in that checkpoint.
    """
    # 1. which kind of theirs it is
    params = dict(node.get("params") or {})
    target = str(node.get("target"))
    kind = KINDS.get(target)
    if kind is None:
        refuse_continuous(target)
        raise UserError(
            f"target '{target}' is none of the published first stages{did_you_mean(target, KINDS)}"
        )
    # 2. the networks
    try:
        net = dict(params["ddconfig"])
        num_codes, dim = params["n_embed"], params["embed_dim"]
        multipliers, resolution = list(net["ch_mult"]), net["resolution"]
        translated = {
            "channels": net["ch"],
            "multipliers": multipliers,
            "blocks": net["num_res_blocks"],
            "attention": _attention_levels(net, len(multipliers), resolution),
            "latent_channels": net["z_channels"],
            "dropout": float(net.get("dropout", 0.0)),
        }
        inputs, outputs = net["in_channels"], net["out_ch"]
    except KeyError as error:
        raise UserError(
            f"{node['target']}: the YAML lacks {error}, which tensors do not tell; give the one"
            " that came with the checkpoint"
        ) from None
    _refuse_unsupported(node["target"], net, inputs, outputs)
    for name in params.keys() - UNREAD - READ:
        notes.append(f"{prefix}{name}: {params[name]!r} has no counterpart here")

    # 3. the quantizer
    weight = ((params.get("lossconfig") or {}).get("params") or {}).get("codebook_weight", 1.0)
    quantizer = _quantizer(kind, num_codes, dim, weight, params, notes)
    used = (shapes or {}).get(f"{prefix}quantize.used")
    if used or params.get("remap"):
        quantizer = {
            "target": "taming.first_stage.RemappedQuantizer",
            "params": {"quantizer": quantizer, "used": used[0] if used else params["remap"]},
        }
        notes.append(
            "codes outside the remapped set become the nearest in it; the published code draws one"
            " at random"
        )
    # 4. what it reads: label maps or pictures
    key = our_key(params.get("image_key", "image"))
    translated |= {"quantizer": quantizer, "key": key}
    if net.get("attn_type", "vanilla") == "none":
        translated["middle_attention"] = False
    if node["target"].endswith("VQSegmentationModel") or key == "segmentation":
        if params.get("n_labels", inputs) != inputs:
            raise UserError(
                f"{node['target']}: n_labels is {params['n_labels']}, but in_channels is {inputs}"
            )
        translated = {"labels": inputs, **translated, "key": "segmentation"}
        return {"target": "taming.first_stage.MaskVQGAN", "params": translated}, resolution
    translated["in_channels"] = inputs
    return {"target": "taming.first_stage.VQGAN", "params": translated}, resolution


def is_continuous(target: object) -> bool:
    """A published first stage without codes; a VAE or VQVAE of ours is none."""
    return str(target).endswith(CONTINUOUS) and not str(target).startswith("taming.first_stage.")


def refuse_continuous(target: str) -> None:
    """Raises UserError for a KL autoencoder."""
    if is_continuous(target):
        raise UserError(
            f"target '{target}' is a first stage of continuous latents: there are no codes; take a"
            " model whose first stage is a VQModel (vq-f4, vq-f8, vq-f16)"
        )


def _attention_levels(net: dict, levels: int, resolution: int) -> list[int]:
    """Theirs are resolutions, ours are levels."""
    resolutions = net.get("attn_resolutions") or []
    return [level for level in range(levels) if resolution // 2**level in resolutions]


def _refuse_unsupported(target: str, net: dict, inputs: int, outputs: int) -> None:
    if (
        net.get("double_z")
        or inputs != outputs
        or not net.get("resamp_with_conv", True)
        or net.get("tanh_out")
    ):
        raise UserError(
            f"{target}: double_z, different in_channels and out_ch, resamp_with_conv: false and"
            " tanh_out are not supported"
        )
    if net.get("attn_type", "vanilla") not in ATTENTIONS:
        raise UserError(
            f"{target}: attn_type '{net['attn_type']}' has other weights and is not supported;"
            f" {', '.join(ATTENTIONS)} are: set the one that the model was trained with"
        )


def _quantizer(
    kind: str, num_codes: int, dim: int, weight: float, params: dict, notes: list[str]
) -> dict:
    translated = {"num_codes": num_codes, "dim": dim}
    if kind == "vector":
        translated |= {
            "codebook_weight": CODEBOOK_WEIGHT * weight,
            "commitment_weight": 1.0 * weight,
        }
        return {"target": "taming.first_stage.VectorQuantizer", "params": translated}
    if kind == "ema":
        translated["commitment_weight"] = params.get("beta", 0.25) * weight
        return {"target": "taming.first_stage.EMAQuantizer", "params": translated}
    translated |= {
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
        translated |= {
            "temperature": [schedule["lr_max"], schedule["lr_min"]],
            "temperature_batches": schedule["max_decay_steps"],
        }
    return {"target": "taming.first_stage.GumbelQuantizer", "params": translated}


def translate_loss(node: dict | None, notes: list[str]) -> dict | None:
    """A loss of theirs as ours; None where theirs is there only to be left out."""
    # 1. losses without a discriminator
    target = str((node or {}).get("target"))
    params = dict((node or {}).get("params") or {})
    if node is None or target in NO_LOSSES:
        notes.append(
            "the YAML names no loss (its model was only to be used); to train, add one with"
            " loss.target=..."
        )
        return None
    if target in MASK_LOSSES:
        return {"target": "taming.first_stage.MaskLoss", "params": {"form": "bce"}}
    # 2. the adversarial one, its discriminator a node of its own
    if target not in ADVERSARIAL_LOSSES:
        raise UserError(
            f"lossconfig.target: '{target}' is none of the published"
            f" losses{did_you_mean(target, [*ADVERSARIAL_LOSSES, *MASK_LOSSES, *NO_LOSSES])}"
        )
    if params.get("disc_conditional"):
        notes.append(
            "disc_conditional: no published model calls the discriminator with a condition; it is"
            " ignored"
        )
    translated = {
        "perceptual": "lpips",
        "perceptual_weight": params.get("perceptual_weight", 1.0),
        "perceptual_blocks": 5,
        "adversarial": params.get("disc_weight", 1.0) * params.get("disc_factor", 1.0),
        "adversarial_start": params.get("disc_start", 0),
        "form": params.get("disc_loss", "hinge"),
        "discriminator": {
            "target": "taming.first_stage.PatchDiscriminator",
            "params": {
                "width": params.get("disc_ndf", 64),
                "layers": params.get("disc_num_layers", 3),
                "normalization": "act" if params.get("use_actnorm") else "batch",
                "in_channels": params.get("disc_in_channels", 3),
            },
        },
    }
    if not translated["perceptual_weight"]:
        translated["perceptual"] = "none"
    return {"target": "taming.first_stage.VQGANLoss", "params": translated}
