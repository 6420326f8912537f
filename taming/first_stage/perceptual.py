"""How different two images look, by the features of a frozen network: LPIPS (Zhang et al. 2018,
arXiv 1801.03924), its shift-tolerant variant ST-LPIPS (Ghildyal and Liu 2022, arXiv 2207.13686), or
plain VGG16 features from a file, behind one call.
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError, did_you_mean
from taming.weights import read_weights

LPIPS_FILES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
SMALLEST = {"vgg": 16, "alex": 31}  # pixels, which the last pooling leaves something of
VGG_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def perceptual_distance(kind: str, blocks: int = 3) -> nn.Module | None:
    """A frozen module (x, y) -> (B,), zero for equal images; x, y (B, 3, H, W) in [-1, 1]. There is
    no fallback from one kind to another.

    Args:
        kind: `lpips` (needs torchvision's VGG16: from its cache or a download), `lpips-alex`
            (likewise AlexNet), `stlpips` (weights come with the package), the path of a VGG16
            weights file, or `none`.
        blocks: how many of the five blocks of a weights file are compared.

    Returns:
        None for `none`.

    Raises:
        UserError: unknown kind, or weights that are not there.
    """
    if kind == "none":
        return None
    if kind in ("lpips", "lpips-alex"):
        network = _lpips("vgg" if kind == "lpips" else "alex")
    elif kind == "stlpips":
        network = _stlpips()
    elif Path(kind).suffix in (".safetensors", ".pt", ".pth"):
        network = VGGDistance(kind, blocks)
    else:
        raise UserError(
            f"loss.params.perceptual: '{kind}' is none of lpips, stlpips, none or the path of a"
            " .safetensors file" + did_you_mean(kind, ["lpips", "stlpips", "none"])
        )
    return network.eval().requires_grad_(False)


class VGGDistance(nn.Module):
    """Squared distance of channel-normalised VGG16 features, mean over positions, summed over the
    last layer of each of the first blocks. Without LPIPS's learned heads: not LPIPS.

    Args:
        path: of a file with `block{1..5}_conv{1..3}.{weight,bias}` for images in BGR with the
            ImageNet mean taken off (the Oxford layout).
        blocks: how many of its five blocks are read.
    """

    mean: Tensor

    def __init__(self, path: str | Path, blocks: int = 3):
        super().__init__()
        if not Path(path).is_file():
            raise UserError(
                f"perceptual: weights file '{path}' does not exist; give the path of a VGG16 file,"
                " or stlpips, lpips or none"
            )
        weights = read_weights(path)
        if not 1 <= blocks <= len(VGG_BLOCKS):
            raise UserError(
                f"loss.params.perceptual_blocks: {blocks} is not between 1 and {len(VGG_BLOCKS)}"
            )
        self.blocks = nn.ModuleList()
        channels = 3
        for b, widths in enumerate(VGG_BLOCKS[:blocks], start=1):
            block = nn.ModuleList()
            for c, width in enumerate(widths, start=1):
                conv = nn.Conv2d(channels, width, 3, padding=1)
                _load(conv, weights, f"block{b}_conv{c}", path)
                block.append(conv)
                channels = width
            self.blocks.append(block)
        mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The last map of each block, of images (B, 3, H, W) in [-1, 1]."""
        _check_size(image, 2 ** (len(self.blocks) - 1), "fewer perceptual_blocks")
        h = ((image + 1) * 127.5).flip(1) - self.mean
        maps = []
        for b, block in enumerate(self.blocks):
            if b:
                h = F.max_pool2d(h, 2)
            for conv in block.children():
                h = F.relu(conv(h), inplace=True)
            maps.append(h)
        return maps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x, y = x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)
        with torch.no_grad():
            targets = self.maps(x)
        distance = x.new_zeros(len(x))
        for a, b in zip(targets, self.maps(y)):
            distance = distance + UnitDistance.apply(a, b).mean(dim=(1, 2))
        return distance


class UnitDistance(torch.autograd.Function):
    """|a - b|^2 of vectors brought to length 1, (B, h, w) of maps (B, C, h, w), in float32, for
    their differences are small; the gradient of the second alone, in 2 of 5 parts of the time that
    autograd takes for it.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        (a, _), (b, length) = _unit(a), _unit(b)
        ctx.save_for_backward(a, b, length)
        return torch.linalg.vector_norm(a - b, dim=1).square_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # type: ignore
        """2 (b - a), without its part along b, over the length of b."""
        if torch.is_grad_enabled():
            raise RuntimeError("this distance has no second derivative")
        a, b, length = ctx.saved_tensors
        scale = 2 * gradients[0][:, None] / length
        return None, (b * ((a * b).sum(dim=1, keepdim=True) * scale)).addcmul_(a, -scale)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1, zeros stay what they are; and the lengths."""
    x = x.float()
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=1e-10)
    return x / length, length


class LibraryDistance(nn.Module):
    """A library's metric, its (B, 1, 1, 1) output flattened to (B,)."""

    def __init__(self, network: nn.Module, smallest: int):
        super().__init__()
        self.network, self.smallest = network, smallest

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        _check_size(x, self.smallest, "the path of a VGG16 weights file")
        return self.network(x, y).float().flatten(1).mean(dim=1)


def _lpips(net: str) -> nn.Module:
    import lpips

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LibraryDistance(lpips.LPIPS(net=net, verbose=False), SMALLEST[net])
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"perceptual: lpips needs {LPIPS_FILES[net]} in {folder}, and it can't be downloaded"
            f" ({getattr(error, 'reason', error)}); put the file there, or set"
            " loss.params.perceptual to stlpips, to the path of a VGG16 weights file, or to none"
        ) from None


def _stlpips() -> nn.Module:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from stlpips_pytorch import stlpips

        return LibraryDistance(stlpips.LPIPS(net="alex", variant="shift_tolerant"), 24)


def _load(conv: nn.Conv2d, weights: dict[str, Tensor], name: str, path: str | Path) -> None:
    """The layer of this name in a VGG16 file."""
    state = {}
    for key, parameter in conv.named_parameters():
        tensor = weights.get(f"{name}.{key}")
        if tensor is None or tensor.shape != parameter.shape:
            raise UserError(
                f"'{path}' holds no {name}.{key} of shape {tuple(parameter.shape)}; a VGG16 feature"
                " file has block1_conv1 ... block5_conv3"
            )
        if not tensor.isfinite().all():
            raise UserError(f"'{path}': {name}.{key} holds numbers that are not finite")
        state[key] = tensor.float()
    conv.load_state_dict(state)


def _check_size(image: Tensor, smallest: int, cure: str) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < smallest:
        raise UserError(
            f"perceptual: images of {height}x{width} are too small for this network; take at least"
            f" {smallest}x{smallest}, or {cure}, or none"
        )
