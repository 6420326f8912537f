"""What a configuration says out of range is refused before anything is built, for every
constructor of the room.
"""

import pytest

from taming import config
from taming.errors import UserError

VECTOR = {"num_codes": 16, "dim": 4}
NETS = {"width": 8, "residual_width": 4}


def node(name, **params):
    return {"target": f"taming.first_stage.{name}", "params": params}


GOOD = {
    "VectorQuantizer": VECTOR,
    "EMAQuantizer": VECTOR,
    "SimVQ": VECTOR,
    "GumbelQuantizer": VECTOR,
    "FSQ": {"levels": [5, 4]},
    "LFQ": {"dim": 4},
    "ResidualQuantizer": {"quantizers": [node("VectorQuantizer", **VECTOR)]},
    "RemappedQuantizer": {"quantizer": node("VectorQuantizer", **VECTOR), "used": 4},
    "VQGAN": {"channels": 8, "multipliers": [1, 2], "quantizer": node("VectorQuantizer", **VECTOR)},
    "MaskVQGAN": {
        "labels": 5,
        "channels": 8,
        "multipliers": [1, 2],
        "quantizer": node("VectorQuantizer", **VECTOR),
    },
    "VQVAE": {**NETS, "quantizer": node("VectorQuantizer", **VECTOR)},
    "VQVAE2": {**NETS, "quantizers": [node("VectorQuantizer", **VECTOR)] * 2},
    "VAE": {**NETS, "dim": 4, "likelihood": node("GaussianLikelihood")},
    "DVAE": {"width": 4, "quantizer": node("GumbelQuantizer", num_codes=16, dim=32)},
    "GaussianLikelihood": {},
    "LikelihoodLoss": {},
    "MaskLoss": {},
    "VQGANLoss": {"perceptual": "none"},
    "PatchDiscriminator": {},
    "SegmentingDiscriminator": {"labels": 3, "width": 4},
}
BAD = {
    "VectorQuantizer": {
        "num_codes": [0, 1, -1, 2**40, 1.5, "many", True, None],
        "dim": [0, -1, 2**40],
        "codebook_weight": [-1, float("nan"), float("inf"), "much"],
        "commitment_weight": [-0.1],
        "restart": [-1, 0.5],
        "normalize": [2, "no", None],
        "gradient": ["sideways", None],
        "from_data": [1],
    },
    "EMAQuantizer": {"num_codes": [1], "decay": [1, 1.5, -0.1, float("nan")], "restart": [-1, 2]},
    "SimVQ": {"num_codes": [1], "dim": [0], "commitment_weight": [-1]},
    "GumbelQuantizer": {
        "num_codes": [1],
        "temperature": [[1.0, 0.0], [1.0], [], 1.0, [1, 1, 1], [float("nan"), 1]],
        "temperature_batches": [-1],
        "kl_weight": [-1],
        "code_dim": [0],
    },
    "FSQ": {"levels": [[], [8, 1], [0], 8, [2.5], ["a"]]},
    "LFQ": {"dim": [0, 19], "temperature": [0, -1], "entropy_weight": [-1]},
    "ResidualQuantizer": {"quantizers": [[], [node("MaskLoss")], node("FSQ", levels=[3, 3])]},
    "RemappedQuantizer": {"used": [0, -5, None], "unknown": ["far", -1], "quantizer": [None]},
    "VQGAN": {
        "channels": [0, -1, 2**40],
        "multipliers": [[], [0], [1, -2], 2, [1] * 40],
        "blocks": [0, -1],
        "attention": [[-1], 1],
        "latent_channels": [0],
        "in_channels": [0],
        "dropout": [1, -0.1, 1.5],
        "quantizer": [node("MaskLoss"), None, "vector"],
    },
    "MaskVQGAN": {"labels": [0, -1], "channels": [0], "blocks": [-1]},
    "VQVAE": {"width": [0], "residual_width": [0], "blocks": [-1], "halvings": [0, -1, 99]},
    "VQVAE2": {"quantizers": [[], [node("FSQ", levels=[3, 3])], None], "halvings": [0]},
    "VAE": {"dim": [0, -1], "likelihood": [None, node("FSQ", levels=[3, 3])]},
    "DVAE": {"width": [0, 3], "blocks": [0, -1]},
    "GaussianLikelihood": {"variance": [0, -1, float("nan")]},
    "LikelihoodLoss": {"weight": [-1, float("inf")]},
    "MaskLoss": {"form": ["hinge", None, 3]},
    "VQGANLoss": {
        "perceptual_weight": [-1],
        "perceptual_blocks": [0, 6],
        "adversarial": [-0.5, float("nan")],
        "adversarial_start": [-1, 2.5, 1.5, float("nan")],
        "adversarial_ramp": [-1, 0.5],
        "form": ["hing", None],
        "discriminator": ["patch", 3, []],
    },
    "PatchDiscriminator": {
        "in_channels": [0],
        "width": [0],
        "layers": [0, -1, 99],
        "normalization": ["layer", None],
    },
    "SegmentingDiscriminator": {"labels": [0, -1, 2**40], "width": [0], "layers": [0, 99]},
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_in_range_is_built(name):
    tree = node(name, **GOOD[name])
    config.check(tree, "model")
    config.build(tree)


@pytest.mark.parametrize(
    "name, key, value",
    [
        (name, key, value)
        for name, keys in BAD.items()
        for key, values in keys.items()
        for value in values
    ],
)
def test_what_is_out_of_range_is_one_line_before_anything_is_built(name, key, value):
    with pytest.raises(UserError, match=key) as error:
        config.check(node(name, **{**GOOD[name], key: value}), "model")
    assert "\n" not in str(error.value)
