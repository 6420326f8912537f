"""Classes of one's own to start from: `taming new` writes a module, its test and a configuration
that trains with it.
"""

import keyword
import re
from pathlib import Path

from taming.errors import UserError
from taming.files import make_writable, write_atomically

DATASET = '''"""Pictures for taming, as an ordinary torch data set."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class {name}(Dataset):
    """Item index -> {{"image": float (3, H, W) in [-1, 1], "class": int}}. Further entries are
    possible: "segmentation" int64 (H, W), "caption" str; so are (picture, label) pairs, PIL
    pictures and 8-bit arrays.

    Args:
        count: how many pictures there are.
        size: side of a picture in pixels.
    """

    def __init__(self, count: int = 256, size: int = 32):
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        # Your pictures instead of a disc on a slope
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, self.size)] * 2, indexing="ij")
        place = torch.rand(2, generator=torch.Generator().manual_seed(index)) - 0.5
        disc = ((x - place[0]) ** 2 + (y - place[1]) ** 2 < 0.2).float() * 2 - 1
        return {{"image": torch.stack([disc, x, y]), "class": index % 2}}
'''
QUANTIZER = '''"""A quantizer for taming."""

import torch
from torch import Tensor, nn

from taming.first_stage.interface import Codes, Quantized, Quantizer


class {name}(Quantizer):
    """The nearest of K learned vectors, and the gradient straight through.

    Args:
        num_codes: K.
        dim: D, width of the latent.
        commitment: weight of the pull of latents to their vectors.
    """

    def __init__(self, num_codes: int = 64, dim: int = 8, commitment: float = 0.25):
        super().__init__()
        self.num_codes, self.dim, self.commitment = (num_codes,), dim, commitment
        self.table = nn.Embedding(num_codes, dim)

    def forward(self, latent: Tensor) -> Quantized:
        """(B, D, h, w), computed in float32 whatever autocast says."""
        with torch.autocast(latent.device.type, enabled=False):
            z = latent.float().permute(0, 2, 3, 1)
            distances = torch.cdist(z.flatten(0, 2), self.table.weight.float())
            codes = distances.argmin(dim=-1).view(z.shape[:3])
            nearest = self.embed((codes,))
            loss = (nearest - latent.detach().float()).square().mean()
            loss = loss + self.commitment * (nearest.detach() - latent.float()).square().mean()
        straight = latent + (nearest - latent).detach().to(latent.dtype)
        return Quantized(straight, (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return self.table(codes[0]).permute(0, 3, 1, 2).float()
'''
CONDITION = '''"""A condition for taming's priors."""

from torch import Tensor

from taming.second_stage.interface import Condition, Conditioner, Part, PartShape


class {name}(Conditioner):
    """How bright the picture is, as one token.

    Args:
        steps: tokens from black to white.
    """

    key = "image"  # the entry of a batch that is read

    def __init__(self, steps: int = 16):
        super().__init__()
        self.steps = steps

    def forward(self, batch: dict) -> Condition:
        image: Tensor = batch[self.key]  # (B, 3, H, W) in [-1, 1]
        brightness = (image.mean(dim=(1, 2, 3)) + 1) / 2
        tokens = (brightness * self.steps).long().clamp(0, self.steps - 1)
        return (Part(tokens[:, None], self.steps),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.steps, 1),)
'''
TESTS = {
    "dataset": """import torch
from {module} import {name}


def test_items_are_pictures():
    data = {name}(4, 16)
    assert len(data) == 4 and data[3]["image"].shape == (3, 16, 16)
    assert torch.equal(data[1]["image"], data[1]["image"])
    assert data[0]["image"].abs().max() <= 1
""",
    "quantizer": """import torch
from {module} import {name}


def test_every_latent_goes_to_its_nearest_code_and_its_gradient_through():
    quantizer = {name}(16, 4)
    latent = torch.randn(2, 4, 3, 5, requires_grad=True)
    quantized = quantizer(latent)
    codes = quantized.codes[0]
    assert codes.shape == (2, 3, 5) and 0 <= codes.min() and codes.max() < 16
    assert torch.allclose(quantized.latent, quantizer.embed(quantized.codes), atol=1e-6)
    quantized.latent.sum().backward()
    assert torch.equal(latent.grad, torch.ones_like(latent))
""",
    "condition": """import torch
from {module} import {name}


def test_tokens_follow_the_picture():
    conditioner = {name}(4)
    image = torch.stack([torch.full((3, 8, 8), -0.9), torch.full((3, 8, 8), 0.9)])
    (part,) = conditioner({{"image": image}})
    assert part.tokens.tolist() == [[0], [3]] and part.shape == conditioner.parts((8, 8))[0]
""",
}
FIRST = """# {name}: taming train -b {file}
allow: [{module}]
model:
  target: taming.first_stage.VQVAE
  params:
    width: 32
    residual_width: 16
    quantizer: {quantizer}
    likelihood: {{target: taming.first_stage.GaussianLikelihood}}
loss: {{target: taming.first_stage.LikelihoodLoss}}
data:
  batch_size: 8
  train: {train}
trainer: {{max_steps: 200}}
"""
SECOND = """# {name}: taming train -b {file}
# First: taming train -b drawn_vqvae_32
allow: [{module}]
model:
  target: taming.second_stage.SecondStage
  params:
    size: 32
    first_stage:
      target: taming.first_stage.pretrained
      params: {{checkpoint: runs/drawn_vqvae_32, config: drawn_vqvae_32}}
    conditioner: {{target: {module}.{name}, params: {{steps: 16}}}}
    prior: {{target: taming.second_stage.GPT, params: {{layers: 2, heads: 2, width: 64}}}}
condition_dropout: 0.1
data:
  batch_size: 8
  train: {{target: taming.data.DrawnLandscapes, params: {{size: 32, count: 1000}}}}
trainer: {{max_steps: 200}}
"""
CODE = {"dataset": DATASET, "quantizer": QUANTIZER, "condition": CONDITION}


def write_skeleton(kind: str, name: str, folder: str | Path = ".") -> list[Path]:
    """Writes module.py, test_module.py and module.yaml.

    Args:
        kind: dataset, quantizer or condition.
        name: of the class; the module is called the same, in small letters.
        folder: where to.

    Returns:
        The files.

    Raises:
        UserError: the name is none that Python knows, or a file is there already.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9_]{0,99}", name) or keyword.iskeyword(name):
        raise UserError(f"'{name}' is no name of a class; write it like MyPictures")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    names = {"name": name, "module": module, "file": f"{module}.yaml"}
    texts = {
        f"{module}.py": CODE[kind].format(**names),
        f"test_{module}.py": TESTS[kind].format(**names),
        f"{module}.yaml": _configuration(kind, names),
    }
    paths = [Path(folder) / file for file in texts]
    for path in paths:
        if path.exists():
            raise UserError(f"'{path}' exists; choose another name, or another folder with -o")
    make_writable(Path(folder))
    for path, text in zip(paths, texts.values()):
        write_atomically(path, lambda file, text=text: file.write_text(text, encoding="utf-8"))
    return paths


def _configuration(kind: str, names: dict[str, str]) -> str:
    if kind == "condition":
        return SECOND.format(**names)
    mine = "{{target: {module}.{name}, params: {params}}}"
    vector = "{target: taming.first_stage.VectorQuantizer, params: {num_codes: 64, dim: 8}}"
    drawn = "{target: taming.data.DrawnLandscapes, params: {size: 32, count: 1000}}"
    if kind == "dataset":
        custom = mine.format(**names, params="{count: 256, size: 32}")
        return FIRST.format(**names, quantizer=vector, train=custom)
    custom = mine.format(**names, params="{num_codes: 64, dim: 8}")
    return FIRST.format(**names, quantizer=custom, train=drawn)
