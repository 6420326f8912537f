"""What each figure's definition promises, on real photographs: worse pictures are further away, and
the right figure notices the right fault.
"""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from taming.data import ImageFolder
from taming.evaluation.features import feature_network
from taming.evaluation.frechet import frechet_distance, moments
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.manifold import copying, density_coverage, nearest, precision_recall
from taming.images import to_pil

COUNT = 100  # photographs on each side


@pytest.fixture(scope="module")
def photographs():
    """Two disjoint sets that hold the four scenes evenly, the scene of each, and a network."""
    from tests.conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip(
            "../shared is not here: photographs and VGG16 are for the project's own machines"
        )
    folder = ImageFolder(
        str(SHARED / "data" / "intel_landscapes" / "images"), {"size": 64, "flip": False}
    )
    network = feature_network(str(SHARED / "weights" / "vgg16_imagenet_features_fp16.safetensors"))
    chosen = [i * len(folder) // (2 * COUNT) for i in range(2 * COUNT)]
    scenes = np.array([folder.name(i).split("_")[0] for i in chosen])
    images = torch.stack([folder[i]["image"] for i in chosen])

    def features(pictures: torch.Tensor) -> np.ndarray:
        return torch.cat([network(part)["features"] for part in pictures.split(40)]).numpy()

    return images[::2], images[1::2], scenes[1::2], features


@pytest.fixture(scope="module")
def real(photographs):
    first, second, _, features = photographs
    return features(first), features(second)


def distances(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    return frechet_distance(moments(real), moments(fake)), kernel_distance(real, fake).value


def blurred(pictures: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(
        F.interpolate(pictures, scale_factor=1 / factor, mode="area"),
        scale_factor=factor,
        mode="bilinear",
    )


def noisy(pictures: torch.Tensor, deviation: float) -> torch.Tensor:
    return (
        pictures
        + deviation * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(-1, 1)


def packed(pictures: torch.Tensor, quality: int) -> torch.Tensor:
    pictures_again = []
    for picture in pictures:
        buffer = io.BytesIO()
        to_pil(picture).save(buffer, format="JPEG", quality=quality)
        pictures_again.append(
            torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 127.5 - 1
        )
    return torch.stack(pictures_again)


@pytest.mark.parametrize(
    "spoil, degrees",
    [(blurred, (2, 4, 8)), (noisy, (0.1, 0.3, 0.9)), (packed, (15, 7, 3))],
    ids=["blur", "noise", "jpeg"],
)
@pytest.mark.slow
def test_distances_grow_with_the_degree_of_a_fault(photographs, real, spoil, degrees):
    """JPEG of quality 30 is no degree here: on 100 pictures of 64 pixels the kernel distance can't
    tell it from none (docs/evaluation.md).
    """
    _, second, _, features = photographs
    rows = [distances(*real)] + [
        distances(real[0], features(spoil(second, degree))) for degree in degrees
    ]
    for figure in zip(*rows):
        assert list(figure) == sorted(figure), (
            "real against real is the smallest, and each degree is worse than the one before"
        )


def test_dropped_scenes_are_seen_by_distances_recall_and_coverage_and_not_by_precision(
    photographs, real
):
    """The same number of pictures, of ever fewer scenes."""
    _, _, scenes, _ = photographs
    rows, names = [], sorted(set(scenes))
    for number in (4, 2, 1):
        pool = np.flatnonzero(np.isin(scenes, names[:number]))
        fake = real[1][pool[np.linspace(0, len(pool) - 1, 20).astype(int)]]
        rows.append(
            (
                *distances(real[0], fake),
                precision_recall(real[0], fake),
                density_coverage(real[0], fake),
            )
        )
    for distance in list(zip(*rows))[:2]:
        assert list(distance) == sorted(distance)
    recall, coverage, precision = (
        [f[place][name].value for f in rows]
        for place, name in ((2, "recall"), (3, "coverage"), (2, "precision"))
    )
    assert recall[0] > recall[1] > recall[2] and coverage[0] > coverage[1] > coverage[2]
    assert min(precision) > precision[0] - 0.1


def test_repeated_pictures_lower_recall_and_coverage_but_not_precision_and_density(real):
    few = np.repeat(real[1][:: COUNT // 10][:10], COUNT // 10, axis=0)
    whole, repeated = (
        {**precision_recall(real[0], fake), **density_coverage(real[0], fake)}
        for fake in (real[1], few)
    )
    assert (
        repeated["recall"].value < whole["recall"].value - 0.3
        and repeated["coverage"].value < whole["coverage"].value - 0.3
    )
    assert (
        repeated["precision"].value > whole["precision"].value - 0.25
        and repeated["density"].value > whole["density"].value - 0.35
    )


def test_copies_lie_nearer_to_the_training_pictures_than_new_photographs(photographs, real):
    first, _, _, features = photographs
    to_train = lambda x: nearest(x, real[0])[0]  # noqa: E731
    copies = features(noisy(first[:60], 0.02))
    assert copying(to_train(copies), to_train(real[1])).value > 0.95
    assert copying(to_train(real[1][:60]), to_train(real[1][60:])).value == pytest.approx(
        0.5, abs=0.15
    )
