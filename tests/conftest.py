"""Small models, small data, and where the shared files are."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from taming import config
from taming.first_stage.perceptual import VGG_BLOCKS

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(
            "../shared is not here: golden values and photographs are for the project's own"
            " machines"
        )
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def signals():
    """As in a terminal, for this process and its children, also where the tests were started by
    nohup or in the background, which have SIGHUP and SIGINT ignored.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond `size` bytes. Never longer than the call that is
    tested: pytest's own output may be a file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def first_stage_plain(**trainer) -> dict:
    """A VQ-GAN with discriminator on drawn landscapes of 16 px, as a plain configuration."""
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 32, "dim": 4, "normalize": True, "restart": 2},
    }
    return {
        "model": {
            "target": "taming.first_stage.VQGAN",
            "params": {
                "channels": 8,
                "multipliers": [1, 2],
                "blocks": 1,
                "latent_channels": 8,
                "dropout": 0.1,
                "quantizer": quantizer,
            },
        },
        "loss": {
            "target": "taming.first_stage.VQGANLoss",
            "params": {
                "perceptual": "none",
                "adversarial_start": 3,
                "adversarial_ramp": 2,
                "discriminator": {
                    "target": "taming.first_stage.PatchDiscriminator",
                    "params": {"width": 8, "layers": 2},
                },
            },
        },
        "optimizer": {"warmup": 2},
        "data": {
            "batch_size": 2,
            "train": {
                "target": "taming.data.DrawnLandscapes",
                "params": {"size": 16, "count": 7, "seed": 0},
            },
            "validation": {
                "target": "taming.data.DrawnLandscapes",
                "params": {"size": 16, "count": 3, "seed": 1},
            },
        },
        "trainer": {
            "max_steps": 8,
            "validate_every": 4,
            "checkpoint_every": 2,
            "pictures_every": 8,
            "log_every": 1,
            "precision": "32-true",  # the same numbers on every processor
            **trainer,
        },
    }


def mask_stage_plain(**trainer) -> dict:
    plain = first_stage_plain(**trainer)
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 16, "dim": 4},
    }
    plain["model"] = {
        "target": "taming.first_stage.MaskVQGAN",
        "params": {
            "labels": 10,
            "channels": 8,
            "multipliers": [1, 2],
            "blocks": 1,
            "latent_channels": 8,
            "quantizer": quantizer,
        },
    }
    plain["loss"] = {"target": "taming.first_stage.MaskLoss"}
    return plain


def gpt_plain(part: dict, **params) -> dict:
    """The node of a prior over 8x8 codes."""
    shape = {"num_codes": 32, "grid": [8, 8], "parts": [part]}
    size = {"layers": 1, "heads": 2, "width": 16}
    return {"target": "taming.second_stage.GPT", "params": {**shape, **size, **params}}


def second_stage_plain(first: Path, masks: Path | None = None, **trainer) -> dict:
    """A prior on the checkpoints of the two above; without masks, an unconditional one."""
    plain = first_stage_plain(**trainer)
    del plain["loss"]
    part, conditioner = (
        {"vocabulary": 1, "length": 1},
        {"target": "taming.second_stage.Unconditional"},
    )
    if masks:
        part = {"vocabulary": 16, "grid": [8, 8]}
        conditioner = {
            "target": "taming.second_stage.EncodedImage",
            "params": {
                "first_stage": {
                    "target": "taming.first_stage.pretrained",
                    "params": {"checkpoint": str(masks)},
                }
            },
        }
    prior = gpt_plain(part, dropout=0.1)
    first_stage = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": str(first)}}
    plain["model"] = {
        "target": "taming.second_stage.SecondStage",
        "params": {"first_stage": first_stage, "conditioner": conditioner, "prior": prior},
    }
    return {**plain, "noise": 0.1, "condition_dropout": 0.2}


def experiment_of(plain: dict) -> config.Experiment:
    return config.from_plain(plain)


def write_vgg(path: Path, blocks: int) -> Path:
    """A VGG16 file of the first blocks, with random weights."""
    weights, channels = {}, 3
    for b, widths in enumerate(VGG_BLOCKS[:blocks], start=1):
        for c, width in enumerate(widths, start=1):
            scale = (2 / (9 * channels)) ** 0.5
            weights[f"block{b}_conv{c}.weight"] = scale * torch.randn(width, channels, 3, 3)
            weights[f"block{b}_conv{c}.bias"] = torch.zeros(width)
            channels = width
    save_file(weights, path)
    return path


def write_yaml(plain: dict, path: Path) -> Path:
    from omegaconf import OmegaConf

    OmegaConf.save(OmegaConf.create(plain), path)
    return path


def paint_pairs(
    root: Path, count: int = 4, size: tuple[int, int] = (24, 20), classes: int = 3
) -> Path:
    """A folder of pictures (width, height) with masks, as SegmentedImages reads it."""
    generator = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "segmentations").mkdir()
    (root / "classes.txt").write_text("\n".join(f"{i} class{i}" for i in range(classes)))
    for i in range(count):
        Image.fromarray(generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            root / "images" / f"p{i}.png"
        )
        Image.fromarray(generator.integers(0, classes, (size[1], size[0]), dtype=np.uint8)).save(
            root / "segmentations" / f"p{i}.png"
        )
    return root
