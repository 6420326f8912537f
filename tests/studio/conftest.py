"""A small model behind a real server, and a client that speaks its frames."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from websockets.sync.client import connect

from taming import config
from taming.data.card import Card
from taming.formats.content import Content
from taming.formats.ours import save_safetensors
from taming.studio.model import load_model
from taming.studio.protocol import Frame, pack, unpack
from taming.studio.serve import Studio

NAMES = tuple("sky tree ground grass water building mountain foreground unknown snow".split())


def _quantizer(codes: int) -> dict:
    return {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": codes, "dim": 4},
    }


def plain_model(kind: str) -> dict:
    """A second stage on 16 px: "layout", "class" or "none"; or "first", its first stage."""
    net = {"channels": 8, "blocks": 1, "latent_channels": 8}
    first = {
        "target": "taming.first_stage.VQGAN",
        "params": {**net, "multipliers": [1, 2], "quantizer": _quantizer(16)},
    }
    if kind == "first":
        return {"model": first}
    masks = {
        "target": "taming.first_stage.MaskVQGAN",
        "params": {
            **net,
            "labels": len(NAMES),
            "multipliers": [1, 1, 2],
            "quantizer": _quantizer(8),
        },
    }
    conditioner = {
        "layout": {"target": "taming.second_stage.EncodedImage", "params": {"first_stage": masks}},
        "class": {"target": "taming.second_stage.ClassLabel", "params": {"classes": 3}},
        "none": {"target": "taming.second_stage.Unconditional"},
    }[kind]
    prior = {"target": "taming.second_stage.GPT", "params": {"layers": 1, "heads": 2, "width": 16}}
    params = {"first_stage": first, "conditioner": conditioner, "prior": prior, "size": 16}
    return {
        "model": {"target": "taming.second_stage.SecondStage", "params": params},
        "condition_dropout": 0.0 if kind == "none" else 0.1,
    }


def save_model(kind: str, folder: Path) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    experiment = config.from_plain(plain_model(kind))
    model = config.build(experiment.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    path = folder / f"{kind}.safetensors"
    stage = "first" if kind == "first" else "second"
    names = () if kind == "first" else NAMES
    content = Content(
        stage, config.to_plain(experiment), model.state_dict(), 0, {}, card=Card(labels=names)
    )
    save_safetensors(str(path), content)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: save_model(kind, folder) for kind in ("layout", "class", "none", "first")}


@pytest.fixture(scope="session")
def studio(checkpoints) -> Iterator[Studio]:
    """A running server that paints layouts."""
    server = Studio(load_model(str(checkpoints["layout"])), port=0).start()
    yield server
    server.stop()


class Client:
    """One tab."""

    def __init__(self, studio: Studio, **headers: str):
        address = studio.address.replace("http:", "ws:").replace("/?", "/socket?")
        self.socket = connect(
            address, max_size=None, additional_headers=headers, proxy=None, open_timeout=20
        )
        self.numbers = itertools.count(1)
        self.model = self.read().header["model"]

    def read(self, seconds: float = 60) -> Frame:
        content = self.socket.recv(timeout=seconds)
        assert isinstance(content, bytes)
        return unpack(content)

    def send(self, do: str, blobs: dict[str, bytes] | None = None, **header) -> int:
        number = next(self.numbers)
        self.socket.send(pack(Frame({"do": do, "id": number, **header}, blobs or {})))
        return number

    def until_the_end(self, number: int) -> list[Frame]:
        """All answers to a request; the last one says that it is over."""
        frames = []
        while True:
            frame = self.read()
            if frame.header["id"] != number:
                continue
            frames.append(frame)
            if frame.header["event"] in ("done", "failed", "cancelled"):
                return frames

    def ask(self, do: str, blobs: dict[str, bytes] | None = None, **header) -> list[Frame]:
        return self.until_the_end(self.send(do, blobs, **header))

    def draw(self, labels: np.ndarray, **header) -> list[Frame]:
        height, width = labels.shape
        blobs = {"layout": labels.tobytes(), **header.pop("blobs", {})}
        return self.ask("draw", blobs, height=height, width=width, **header)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def client(studio) -> Iterator[Client]:
    client = Client(studio)
    yield client
    client.close()


def layout(height: int = 16, width: int = 16) -> np.ndarray:
    """Sky above, grass below."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = 3
    return labels


def one(frames: list[Frame], event: str) -> Frame:
    matching = [frame for frame in frames if frame.header["event"] == event]
    assert len(matching) == 1, [frame.header for frame in frames]
    return matching[0]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))
