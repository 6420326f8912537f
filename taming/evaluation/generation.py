"""What a set of samples is worth beside real pictures: distances, manifolds, and whether they were
copied.

Letters: N, M pictures; D features; K classes.
"""

from typing import Any

import numpy as np
import torch

from taming import images
from taming.data.interface import PictureSet
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
    jackknife,
    moments,
    too_few,
)
from taming.evaluation.intervals import Estimate
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.manifold import copying, density_coverage, nearest, precision_recall
from taming.evaluation.pictures import Samples
from taming.evaluation.protocol import store_reference
from taming.evaluation.session import Session

PAIRS = 8  # of nearest neighbours in the picture
MANIFOLD = 6  # pictures on each side, at least, for the five nearest neighbours of each

CANONICAL = {
    "fd": "fid",
    "kd": "kid",
    "score": "inception_score",
    "rfd": "rfid",
    "fd_infinity": "fid_infinity",
}
OTHERS = {
    "fd": "fd",
    "kd": "kd",
    "score": "classifier_score",
    "rfd": "rfd",
    "fd_infinity": "fd_infinity",
}


def evaluate(session: Session) -> None:
    """Distances of samples to real pictures, precision, recall, ..., and copying."""
    network, samples = session.network, session.samples
    if samples is None or network is None:
        return
    if len(samples) < 2 and session.model is not None:
        session.figures.missing.append("generation: 1 sample; distances between sets need two")
        return
    check_number("samples", len(samples))
    # 1. features of the samples
    rows = session.measure("features of samples", samples, lambda batch: network(batch["image"]))
    fake = np.asarray(rows["features"])
    stamp = session.stamp(features=True, dataset=samples, sampling=samples.protocol())
    if session.reference is not None:
        estimates = against_reference(session.reference, fake, network)
        session.add(estimates, {**stamp, "reference": session.request.reference})
        return
    # 2. features of the real pictures: the training pictures, where there are some
    real, source, against = real_features(session)
    stamp |= {
        "against": against,
        "against_pictures": len(source),
        "against_sha256": session.hash(source),
    }
    if session.request.store_reference and session.store.rank == 0:
        reference_stamp = session.stamp(features=True, dataset=source)
        store_reference(session.request.store_reference, moments(real), reference_stamp)
    # 3. the figures
    seed = session.request.seed
    estimates, warnings = figures(real, fake, rows.get("logits"), network, seed)
    session.figures.warnings += warnings
    session.add(estimates, stamp, f"against {against}")
    if session.train is not None:
        _beside_training(session, samples, stamp, real, held_out_features(session), fake)


def real_features(session: Session) -> tuple[np.ndarray, PictureSet, str]:
    """(features (N, D), pictures, words for them) that others are measured against: the training
    pictures, where there are some, else the pictures of the data.
    """
    if session.train is None:
        return held_out_features(session), session.data, "the pictures"
    features = _features(session, "features of training pictures", session.train)
    return features, session.train, "the training pictures"


def held_out_features(session: Session) -> np.ndarray:
    """Of the pictures of the data; those beside reconstructions are the same."""
    original = session.rows("reconstruction").get("original")
    if original is not None:
        return np.asarray(original)
    return _features(session, "features of pictures", session.data)


def _features(session: Session, name: str, dataset: PictureSet) -> np.ndarray:
    network = session.network
    assert network is not None
    rows = session.measure(
        name, dataset, lambda batch: {"features": network(batch["image"])["features"]}
    )
    return np.asarray(rows["features"])


def _beside_training(
    session: Session,
    samples: Samples,
    stamp: dict[str, Any],
    train: np.ndarray,
    data: np.ndarray,
    fake: np.ndarray,
) -> None:
    """What needs training pictures and held-out ones: the same figures of held-out pictures, and
    copying.
    """
    network, seed = session.network, session.request.seed
    assert network is not None and session.train is not None
    held_out = session.stamp(
        features=True, against="the training pictures", against_sha256=session.hash(session.train)
    )
    # 1. what a perfect model would get
    if len(data) > 1:
        best, _ = figures(train, data, None, network, seed)
        session.add(
            {f"{name}_real": value for name, value in best.items()},
            held_out,
            "held-out pictures against the training pictures: what a perfect model would get",
        )
    # 2. copying, and how much of it is the first stage's softness
    estimate, distances, indices = copied(train, data, fake, seed)
    session.add(
        {"copying": estimate},
        stamp,
        "0.5: as near to training pictures as held-out pictures are; 1: copies",
    )
    reconstructions = session.rows("reconstruction").get("features")
    if reconstructions is not None:
        session.add(
            {"copying_reconstructed": copied(train, data, np.asarray(reconstructions), seed)[0]},
            held_out,
            "of reconstructions of held-out pictures: what is above 0.5 here comes from the first"
            " stage's softness, not from memory",
        )
    # 3. the closest pairs
    closest = np.argsort(distances)[:PAIRS]
    ours = torch.stack([samples[int(i)]["image"] for i in closest])
    real = torch.stack([session.train[int(i)]["image"] for i in indices[closest]])
    if ours.shape == real.shape:
        columns = [part[i::2] for i in (0, 1) for part in (ours, real)]
        session.save("nearest.png", images.montage(columns))


def names(network: FeatureNetwork) -> dict[str, str]:
    """What the figures may be called: FID, KID and Inception score are those of Inception-2015, and
    nothing else is.
    """
    return CANONICAL if network.canonical else OTHERS


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
    """All figures of two sets of features, and warnings.

    Args:
        real, fake: (N, D), (M, D).
        logits: of the fake pictures, (M, K).
        network: that gave them.
        seed: of the intervals.
    """
    check_number("real pictures", len(real))
    check_number("samples", len(fake))
    name = names(network)
    fewest, most = sorted((len(real), len(fake)))
    estimates = {name["fd"]: frechet(real, fake, seed), name["kd"]: kernel_distance(real, fake)}
    warning = too_few(fewest, real.shape[1])
    if warning and real.shape[1] <= 1024 and most <= 20_000:
        value = frechet_extrapolated(real, fake, seed)
        estimates[name["fd_infinity"]] = Estimate(value, n=len(fake))
    if logits is not None:
        estimates[name["score"]] = classifier_score(logits)
    if fewest >= MANIFOLD:
        estimates |= precision_recall(real, fake, seed=seed)
        estimates |= density_coverage(real, fake, seed=seed)
    return estimates, [f"{name['fd']}: {warning}"] if warning else []


def against_reference(
    reference: Moments, fake: np.ndarray, network: FeatureNetwork
) -> dict[str, Estimate]:
    """The Frechet distance of features (M, D) to stored statistics, jackknifed over the samples."""
    check_number("samples", len(fake))
    if fake.shape[1] != len(reference.mean):
        raise UserError(
            f"the reference is of {len(reference.mean)} features, but this network gives"
            f" {fake.shape[1]}; make it anew with --store-reference"
        )
    blocked = BlockedMoments(fake.shape[1], min(BLOCKS, len(fake))).add(fake)
    total = blocked.total()
    value = frechet_distance(reference, total)
    values = [
        frechet_distance(reference, total.without(part))
        for part in blocked.parts
        if len(fake) - part.count > 1
    ]
    if not values:  # two samples: one alone has no covariance
        return {names(network)["fd"]: Estimate(value, n=len(fake))}
    variance, bias = jackknife(values, value)
    half = 1.96 * float(np.sqrt(variance))
    method = (
        f"jackknife over {len(values)} blocks of the samples, the reference held fixed; its"
        f" estimate of the bias is {bias:+.3g}"
    )
    low = max(0.0, value - half)
    return {names(network)["fd"]: Estimate(value, low, value + half, method, len(fake), bias)}


def copied(
    train: np.ndarray, validation: np.ndarray, fake: np.ndarray, seed: int
) -> tuple[Estimate, np.ndarray, np.ndarray]:
    """(see `manifold.copying`; the distance of each sample to its nearest training picture (M,),
    and that picture's index (M,)).

    Args:
        train, validation, fake: features.
        seed: of the interval.
    """
    distances, indices = nearest(fake, train)
    return copying(distances, nearest(validation, train)[0], seed), distances, indices
