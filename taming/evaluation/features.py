"""Networks that turn pictures into features, with everything that a protocol has to say about them.

Only Inception-2015's pool features make a figure that may be called FID, KID or Inception score;
the file's hash decides, not its name.
"""

import hashlib
import io
import re
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError, did_you_mean
from taming.first_stage.perceptual import VGG_BLOCKS, VGGDistance
from taming.images import to_uint8
from taming.weights import read_weights

# How the SHA-256 of the weights that everybody uses begins; their file is named for it
INCEPTION_HASH = "6726825d"
# Torch-fidelity's name, pytorch-fid's
INCEPTION_FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
WITHOUT = (
    "without it: reconstruction (PSNR, SSIM, ST-LPIPS), codes and likelihood, or --features FILE"
    " with other weights"
)
Size = tuple[int, int]


class FeatureNetwork(nn.Module):
    """Pictures (B, 3 or 1, H, W) in [-1, 1], rounded to the 8 bits that they are stored with ->
    {"features": (B, D) float32} and, where the network classifies, "logits" (B, K).

    Args:
        name: of the network and its file.
        layer: where the features are taken.
        sha256: of the weights.
        size: (H, W) that pictures are resized to first; None takes them as they are.
        resize: how.
    """

    canonical = False  # whether this is Inception-2015

    def __init__(self, name: str, layer: str, sha256: str, size: Size | None, resize: str):
        super().__init__()
        self.name, self.layer, self.sha256 = name, layer, sha256
        self.size, self.resize = size, resize

    def stamp(self) -> dict:
        """What a stamp says of the features."""
        return {
            "features": self.name,
            "features_sha256": self.sha256,
            "layer": self.layer,
            "resize": self.resize,
            "feature_size": list(self.size) if self.size else "as given",
        }

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return {name: value.float() for name, value in self.read(to_uint8(images)).items()}

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """Of uint8 (B, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")

    def fitted(self, images: Tensor) -> Tensor:
        """uint8 -> float in [0, 255], of `size`."""
        images = images.float()
        if self.size and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images


class Inception(FeatureNetwork):
    """The Inception of FID: torch-fidelity's network, whose resizing to 299 x 299 is TensorFlow
    1's.
    """

    def __init__(self, path: Path):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        digits = sha256(path)
        canonical = digits.startswith(INCEPTION_HASH)
        name = "inception-2015" if canonical else f"inception with other weights ({path.name})"
        super().__init__(name, "pool3 (2048)", digits, (299, 299), "bilinear, TensorFlow 1")
        self.canonical = canonical
        # Torch-fidelity unpickles whatever it is given, so it is given what we wrote ourselves
        file = io.BytesIO()
        torch.save(read_weights(path), file)
        file.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=file
            )
        except (RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise _other_weights(path, "FID's Inception", error) from None
        self.eval().requires_grad_(False)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = self.network(images)
        return {"features": features, "logits": logits}


class Classifier(FeatureNetwork):
    """A torchvision classifier: what goes into its last linear layer, resized and normalised as its
    weights expect (without the crop).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, path: Path | None = None, size: Size | None = None):
        from torchvision import models

        weights = models.get_model_weights(name).DEFAULT
        transform = weights.transforms()
        network, path = models.get_model(name), path or _hub_file(weights.url, name)
        state = read_weights(path)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise _other_weights(path, f"torchvision's {name}", error) from None
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers or not hasattr(transform, "crop_size"):
            raise UserError(
                f"torchvision's {name} has no linear layer to take features from; take resnet50 or"
                " vgg16"
            )
        super().__init__(
            f"torchvision {name} ({path.name})",
            "before the last linear layer",
            sha256(path),
            size or (transform.crop_size[0],) * 2,
            "bilinear",
        )
        self.network, self.inputs = network.eval().requires_grad_(False), {}
        layers[-1].register_forward_pre_hook(
            lambda _, inputs: self.inputs.update(features=inputs[0])
        )
        for buffer, values in (("mean", transform.mean), ("deviation", transform.std)):
            scale = torch.tensor(values).view(1, 3, 1, 1) * 255
            self.register_buffer(buffer, scale, persistent=False)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.network((self.fitted(images) - self.mean) / self.deviation)
        return {"features": self.inputs.pop("features").flatten(1), "logits": logits}


class VGGFile(FeatureNetwork):
    """VGG16's convolutions from a file (see VGGDistance): the mean over positions of the last map
    of a block, 1 to 5.
    """

    def __init__(self, path: Path, block: int = 5, size: Size | None = None):
        super().__init__(
            f"VGG16 ({path.name})",
            f"block{block}_conv{len(VGG_BLOCKS[block - 1])}, mean over positions",
            sha256(path),
            size,
            "bilinear",
        )
        network = VGGDistance(path, block).eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": self.network.maps(self.fitted(images) / 127.5 - 1)[-1].mean(dim=(2, 3))}


class ModuleFeatures(FeatureNetwork):
    """Any module from pictures (B, 3, H, W) in [-1, 1] to features (B, D), or to maps (B, D, h, w),
    which are averaged.
    """

    def __init__(self, network: nn.Module, size: Size | None = None):
        super().__init__(type(network).__name__, "output", digest(network), size, "bilinear")
        self.network = network.eval()

    def read(self, images: Tensor) -> dict[str, Tensor]:
        features = self.network(self.fitted(images) / 127.5 - 1)
        return {"features": features.mean(dim=(2, 3)) if features.ndim == 4 else features}


def feature_network(features: str | nn.Module, size: Size | None = None) -> FeatureNetwork:
    """The network that `--features` names.

    Args:
        features: `inception` (from torch's cache, or downloaded) or `inception:FILE`; a torchvision
            name such as `resnet50`, or `resnet50:FILE`; a VGG16 file (.safetensors), or `FILE@3`
            for another block than the last; or a module.
        size: (H, W) that pictures are resized to first.

    Raises:
        UserError: names the file that is missing and where it goes.
    """
    if isinstance(features, FeatureNetwork):
        return features
    if isinstance(features, nn.Module):
        return ModuleFeatures(features, size)
    name, file, block = parse_features(features)
    if name == "inception":
        if size:
            raise UserError(
                "--feature-size: Inception reads 299x299, whatever comes in; leave it out"
            )
        return Inception(file or _inception_file())
    if file and block:
        return VGGFile(file, block, size)
    return Classifier(name, file, size)


def parse_features(features: str) -> tuple[str, Path | None, int | None]:
    """(name, file if one is given, block of VGG16 if it is one) of what `--features` names.

    Raises:
        UserError: it is nothing that `feature_network` takes, or the file does not exist.
    """
    from torchvision import models

    name, _, file = features.partition(":")
    if name == "inception" or name in models.list_models(models):
        return name, _existing(file) if file else None, None
    match = re.fullmatch(r"(.*\.(?:safetensors|pt|pth))(?:@([1-5]))?", features)
    if match:
        return "vgg16", _existing(match[1]), int(match[2] or 5)
    raise UserError(
        f"--features {features}: neither inception, nor a torchvision model, nor a weights file"
        + did_you_mean(name, ["inception", "resnet50", "vgg16"])
    )


def _existing(file: str) -> Path:
    if not Path(file).is_file():
        raise UserError(
            f"weights file '{file}' does not exist; give its path, or measure {WITHOUT}"
        )
    return Path(file)


def _other_weights(path: Path, network: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(f"'{path}' does not hold the weights of {network} ({reason})")


def _inception_file() -> Path:
    for name in INCEPTION_FILES:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        if cached.is_file():
            return cached
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return _hub_file(URL_INCEPTION_V3, "Inception-2015")


def _hub_file(url: str, what: str) -> Path:
    """The file of a URL, from torch's cache or downloaded into it."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), progress=False)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"{what}: the weights {cached.name} are not in '{cached.parent}' and can't be"
                f" downloaded ({reason}); put the file there; or measure {WITHOUT}"
            ) from None
    return cached


def digest(network: nn.Module) -> str:
    """Of a module's weights."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def sha256(path: str | Path) -> str:
    """Of a file, all 64 digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None
