"""The paper's experiments: published sizes on the meta device, and two batches on tiny fakes."""

import csv
import math

import pytest
import torch

from taming import config
from taming.training.run import train
from tests.data import fakes

ENCODER, DECODER = (
    29_298_176,
    42_449_795,
)  # of f = 16 with three channels, counted in its checkpoint
PRIORS = {  # layers, width, vocabulary, length: from the published YAML, else the paper's table 8
    "cin_imagenet_256": (48, 1536, 16384, 257),
    "imagenet_unconditional_256": (24, 1024, 1024, 256),
    "ffhq_256": (24, 1664, 1024, 256),
    "celebahq_256": (24, 1664, 1024, 256),
    "faceshq_256": (24, 1024, 1024, 512),
    "sflckr_256": (24, 1024, 1024, 512),
    "ade20k_256": (28, 1024, 4096, 512),
    "coco_stuff_256": (32, 1280, 8192, 512),
    "drin_256": (24, 1024, 1024, 512),
    "imagenet_super_resolution_256": (12, 1024, 1024, 512),
    "imagenet_edges_256": (24, 1024, 1024, 512),
    "deepfashion_256": (18, 768, 1024, 512),
    "coco_scenes_256": (40, 1408, 8192, 348),
    "openimages_scenes_256": (36, 1536, 8192, 348),
}
TOKENIZERS = {  # channels in and out, K
    "vqgan_imagenet_f16_1024": (3, 1024),
    "vqgan_imagenet_f16_16384": (3, 16384),
    "vqgan_faceshq_f16_1024": (3, 1024),
    "vqgan_ffhq_f16_1024": (3, 1024),
    "vqgan_celebahq_f16_1024": (3, 1024),
    "vqgan_sflckr_f16_1024": (3, 1024),
    "vqgan_ade20k_f16_4096": (3, 4096),
    "vqgan_coco_f16_8192": (3, 8192),
    "vqgan_openimages_f16_8192": (3, 8192),
    "vqgan_deepfashion_f16_1024": (3, 1024),
    "vqgan_keypoints_f16_1024": (3, 1024),
    "vqgan_depth_f16_1024": (1, 1024),
    "vqgan_edges_f16_1024": (1, 1024),
    "masks_sflckr_f16_1024": (182, 1024),
    "masks_coco_f16_1024": (183, 1024),
    "masks_ade20k_f16_1024": (151, 1024),
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def built(name: str) -> torch.nn.Module:
    experiment = config.load(name)
    with torch.device("meta"):
        return config.build(experiment.model, experiment.allow)


def quick(names, few):
    """Of networks of one kind a few are built each time, all of them in the slow tests."""
    return [pytest.param(n, marks=() if n in few else pytest.mark.slow) for n in names]


@pytest.mark.parametrize(
    "name", quick(PRIORS, {"cin_imagenet_256", "ffhq_256", "coco_scenes_256", "sflckr_256"})
)
def test_a_prior_has_the_published_parameters(name):
    layers, width, vocabulary, length = PRIORS[name]
    block = 12 * width**2 + 13 * width  # attention 4 d^2 + 4 d, MLP 8 d^2 + 5 d, norms 4 d
    expected = layers * block + 2 * width + 2 * vocabulary * width + length * width
    assert count(built(name).priors) == expected


@pytest.mark.parametrize(
    "name",
    quick(TOKENIZERS, {"vqgan_imagenet_f16_1024", "vqgan_edges_f16_1024", "masks_coco_f16_1024"}),
)
def test_a_tokenizer_has_the_published_parameters(name):
    model, (channels, codes) = built(name), TOKENIZERS[name]
    kernel = 9 * 128  # of the first and the last convolution
    assert count(model.encoder) == ENCODER + (channels - 3) * kernel
    assert count(model.decoder) == DECODER + (channels - 3) * (kernel + 1)
    assert model.num_codes == (codes,) and model.stride == 16
    assert count(model.quantizer) == codes * 256


def test_the_gumbel_tokenizer_has_the_published_tensors():
    """126 and 168 of them, and a projection to 8,192 logits."""
    model = built("vqgan_openimages_f8_8192")
    assert (len(model.encoder.state_dict()), len(model.decoder.state_dict())) == (126, 168)
    assert model.stride == 8 and model.num_codes == (8192,)


# Two batches on tiny fakes

NARROW = {"channels": 8, "latent_channels": 8, "blocks": 1, "attention": []}
SMALL = {"layers": 1, "heads": 2, "width": 16, "dropout": 0.0}
ROOTS = {
    "ImageNet": fakes.imagenet,
    "DRIN": fakes.drin,
    "FFHQ": fakes.ffhq,
    "CelebAHQ": fakes.celebahq,
    "ADE20K": fakes.ade20k,
    "COCO": fakes.coco,
    "SFLCKR": fakes.sflckr,
    "OpenImages": fakes.openimages,
    "PairedImages": fakes.paired,
    "ImageFolder": fakes.paired,
}


def shrunk(node, root):
    """The same tree, narrow, for pictures of 32 px in `root`; tokenizers untrained."""
    if isinstance(node, list):
        return [shrunk(entry, root) for entry in node]
    if not isinstance(node, dict):
        return node
    name = str(node.get("target", "")).rpartition(".")[2]
    params = node.get("params") or {}
    if name == "pretrained":
        return shrunk(config.load(params["config"]).model, root)
    node = {key: shrunk(value, root) for key, value in node.items()}
    params = node.get("params") or {}
    if name in ("VQGAN", "MaskVQGAN"):
        params |= NARROW
    if name == "CompVisGPT":
        params |= SMALL
    if name == "VQGANLoss":
        params |= {"perceptual": "none"}
    if name == "SecondStage":
        params |= {"size": 32}
    if "view" in params:
        params |= {"view": {"size": 32, "upscale": True}}
    if name == "FacesHQ":
        params |= {"celebahq": f"{root}/CelebAHQ", "ffhq": f"{root}/FFHQ"}
    elif "root" in params:
        params["root"] = f"{root}/{name}"
    if name in ("ImageFolder", "SFLCKR", "PairedImages"):
        params["split"] = [params["split"][0], 0.5]
    if name == "OpenImages":
        params |= {"classes": None, "fewest": 0}
    if name == "DRIN":
        params |= {"classes": 1000}
    return node


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, make in ROOTS.items():
        make(folder / name)
    return folder


QUICK = {"coco_scenes_256", "faceshq_256"}
NAMES = [*PRIORS, *TOKENIZERS, "vqgan_openimages_f8_8192"]


@pytest.mark.parametrize("name", quick(NAMES, QUICK))
def test_two_batches_on_tiny_fakes(name, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = config.to_plain(config.load(name))
    tree = {key: shrunk(plain[key], root) for key in ("model", "loss") if plain.get(key)}
    data = {part: shrunk(plain["data"][part], root) for part in ("train", "validation")}
    trainer = {"max_steps": 2, "validate_every": 2, "checkpoint_every": 2, "pictures_every": 100}
    experiment = config.from_plain(
        {**tree, "data": {**data, "batch_size": 2}, "trainer": {**trainer, "accelerator": "cpu"}}
    )
    train(experiment, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    rows = csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())
    values = [float(row["value"]) for row in rows]
    assert values and all(map(math.isfinite, values))
