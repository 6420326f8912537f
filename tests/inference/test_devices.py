"""Verbs take the model and what it reads to the device that is there, several pictures at a time.

No GPU was at hand: `cpu:0` stands in for one. It computes as `cpu` does, so that what is forgotten
on the way back from a GPU does not show here.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from taming.data.reading import read_image, to_tensor
from taming.evaluation.evaluate import evaluate
from taming.first_stage import VQGAN
from taming.first_stage.interface import Autoencoder
from taming.inference.decode import decode
from taming.inference.encode import encode_folder, encode_set
from taming.inference.reconstruct import reconstruct_folder
from taming.inference.share import Share
from tests.formats.samples import write_small

ELSEWHERE = torch.device("cpu:0")


@pytest.fixture
def place(tmp_path) -> Path:
    """A first stage, and pictures of two sizes."""
    write_small(tmp_path / "m.safetensors")
    (tmp_path / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(16, 24)] * 3 + [(24, 16)] * 2):
        pixels = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


@dataclass
class Moves:
    """What went to the device: models, and tensors; and how many pictures were read at once."""

    models: int = 0
    tensors: int = 0
    batches: list[int] = field(default_factory=list)


@pytest.fixture
def moves(monkeypatch) -> Moves:
    seen = Moves()

    def read(model, x, original=VQGAN._run_encoder):
        assert seen.models and seen.tensors > len(seen.batches), "moved before it is read"
        seen.batches.append(len(x))
        return original(model, x)

    def move(self, *arguments, original=nn.Module.to, **options):
        seen.models += isinstance(self, VQGAN) and ELSEWHERE in arguments
        return original(self, *arguments, **options)

    def move_tensor(self, *arguments, original=Tensor.to, **options):
        seen.tensors += len(arguments) == 1 and isinstance(arguments[0], torch.device)
        return original(self, *arguments, **options)

    monkeypatch.setattr(VQGAN, "_run_encoder", read)
    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr(Tensor, "to", move_tensor)
    here = Share(0, 1, ELSEWHERE)
    for room in ("inference.encode", "inference.decode", "inference.reconstruct"):
        monkeypatch.setattr(f"taming.{room}.share_of_process", lambda _=None: here)
    monkeypatch.setattr("taming.evaluation.session.share_of_process", lambda _=None: here)
    return seen


def test_encode_and_decode(place, moves):
    model, pictures = str(place / "m.safetensors"), place / "pictures"
    encode_folder(model, pictures, place / "c.npz")
    assert moves.batches == [3, 2] and moves.models == 1
    encode_set(model, str(pictures), place / "codes", 16)
    assert moves.batches[-1] == 5 and moves.models == 2
    before = moves.tensors
    decode(model, place / "codes", place / "out")
    assert moves.models == 3 and moves.tensors > before


def test_codes_in_a_file_do_not_depend_on_what_they_were_encoded_with(place):
    encode_folder(str(place / "m.safetensors"), place / "pictures", place / "c.npz")
    codes, model = np.load(place / "c.npz"), small_model(place)
    assert sorted(codes) == list("01234")
    for name in codes:
        picture = to_tensor(read_image(place / "pictures" / f"{name}.png"))[None]
        assert np.array_equal(codes[name], model.encode(picture)[0][0].numpy())


def small_model(place: Path) -> Autoencoder:
    import taming

    return taming.load(place / "m.safetensors")


def test_reconstruct(place, moves):
    reconstruct_folder(str(place / "m.safetensors"), place / "pictures", place / "out")
    assert moves.batches == [3, 2] and moves.models == 1


def test_evaluate(place, moves):
    figures = evaluate(
        place / "figures.json",
        checkpoint=str(place / "m.safetensors"),
        data=str(place / "pictures"),
        size=(16, 16),
        only=("codes", "path"),
        batch_size=4,
    ).figures
    assert moves.models == 2 and 4 in moves.batches
    assert {"used", "psnr_perturbed"} <= figures.keys()
