"""What a set of samples is worth beside real pictures: distances, manifolds, and whether they were
copied.
"""

import numpy as np

from taming.errors import UserError
from taming.evaluation.features import FeatureNetwork
from taming.evaluation.frechet import (
    BLOCKS,
    BlockedMoments,
    Moments,
    classifier_score,
    frechet,
    frechet_distance,
    frechet_extrapolated,
    too_few,
)
from taming.evaluation.intervals import Estimate
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.manifold import copying, density_coverage, nearest, precision_recall


def names(network: FeatureNetwork) -> dict[str, str]:
    """What the figures may be called: FID, KID and Inception score are those of Inception-2015, and
    nothing else is.
    """
    if network.canonical:
        return {
            "fd": "fid",
            "kd": "kid",
            "score": "inception_score",
            "rfd": "rfid",
            "fd_infinity": "fid_infinity",
        }
    return {
        "fd": "fd",
        "kd": "kd",
        "score": "classifier_score",
        "rfd": "rfd",
        "fd_infinity": "fd_infinity",
    }


def check_number(what: str, number: int) -> None:
    if number < 2:
        raise UserError(
            f"{what}: {number} picture{'' if number == 1 else 's'}; distances between sets need at"
            " least two"
        )


def figures(
    real: np.ndarray,
    fake: np.ndarray,
    logits: np.ndarray | None,
    network: FeatureNetwork,
    seed: int,
) -> tuple[dict[str, Estimate], list[str]]:
    """All that two sets of features (N, D), (M, D) say, and warnings."""
    check_number("real pictures", len(real))
    check_number("samples", len(fake))
    called = names(network)
    found = {called["fd"]: frechet(real, fake, seed), called["kd"]: kernel_distance(real, fake)}
    warning = too_few(min(len(real), len(fake)), real.shape[1])
    if warning and real.shape[1] <= 1024 and max(len(real), len(fake)) <= 20_000:
        found[called["fd_infinity"]] = Estimate(
            frechet_extrapolated(real, fake, seed), interval="none", n=len(fake)
        )
    if logits is not None:
        found[called["score"]] = classifier_score(logits)
    if min(len(real), len(fake)) > 5:
        found |= precision_recall(real, fake, seed=seed) | density_coverage(real, fake, seed=seed)
    return found, [f"{called['fd']}: {warning}"] if warning else []


def against_reference(
    reference: Moments, fake: np.ndarray, network: FeatureNetwork
) -> dict[str, Estimate]:
    """The Frechet distance to stored statistics, jackknifed over the samples."""
    check_number("samples", len(fake))
    blocked = BlockedMoments(fake.shape[1], min(BLOCKS, len(fake))).add(fake)
    whole = blocked.total()
    value = frechet_distance(reference, whole)
    left = [
        frechet_distance(reference, whole.without(part))
        for part in blocked.parts
        if len(fake) - part.count > 1
    ]
    half = 1.96 * float(np.sqrt((len(left) - 1) * np.var(left)))
    bias = (len(left) - 1) * (float(np.mean(left)) - value)
    told = (
        f"jackknife over {len(left)} blocks of the samples, the reference held fixed; its estimate"
        f" of the bias is {bias:+.3g}"
    )
    return {
        names(network)["fd"]: Estimate(value, max(0.0, value - half), value + half, told, len(fake))
    }


def copied(
    train: np.ndarray, validation: np.ndarray, fake: np.ndarray, seed: int
) -> tuple[Estimate, np.ndarray, np.ndarray]:
    """(see `statistics.copying`; distance of each sample to its nearest training picture (N,),
    which that is (N,)).
    """
    distances, which = nearest(fake, train)
    return copying(distances, nearest(validation, train)[0], seed), distances, which
