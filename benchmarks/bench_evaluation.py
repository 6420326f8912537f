"""What taming evaluate costs: pictures per second of each part, and time and peak memory of the
figures over 50,000 synthetic features.

    python benchmarks/bench_evaluation.py --vgg FILE [--data DIR] [--threads 2]
    python benchmarks/bench_evaluation.py --only memory

Networks have random weights where none are given: their speed is the same.
"""

import argparse
import multiprocessing
import resource
import statistics as stats
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import taming
from taming.data import DrawnLandscapes
from taming.evaluation import likelihood, reconstruction
from taming.evaluation.features import VGGFile, feature_network
from taming.evaluation.frechet import frechet
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.manifold import density_coverage, nearest, precision_recall
from taming.evaluation.pictures import Pictures
from taming.segmenter import Segmenter

BATCH = 32
COUNT, DIM = 50_000, 2048


def rate(function, batch: dict, rounds: int = 3) -> float:
    """Pictures per second, the median of some rounds after one that warms up."""
    times = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            start = time.perf_counter()
            function(batch)
            times.append(time.perf_counter() - start)
    return len(next(iter(batch.values()))) / stats.median(times[1:])


def parts(vgg: str | None, data: str | None) -> None:
    from torchvision import models

    drawn = DrawnLandscapes(64, BATCH, seed=9)
    batch = {
        key: torch.stack([drawn[i][key] for i in range(BATCH)]) for key in ("image", "segmentation")
    }
    model = taming.load("landscapes")
    judge = Segmenter(10, 24)
    perceptual, _ = reconstruction.distances(("stlpips",))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "resnet.pth"
        torch.save(models.resnet50().state_dict(), weights)
        resnet = feature_network(f"resnet50:{weights}")
    jobs = {
        "reconstruction: VQ-GAN of `landscapes`, PSNR, SSIM": reconstruction.measurer_of(
            model.first_stage, {}, None
        ),
        "the same with ST-LPIPS": reconstruction.measurer_of(model.first_stage, perceptual, None),
        "likelihood: 256 codes, GPT of `landscapes`": likelihood.measurer_of(model),
        "samples: the same GPT, guidance 1": lambda b: model.sample(b, seed=0),
        "segmenter, width 24": lambda b: judge(b["image"]),
        "features: resnet50, 224 px": lambda b: resnet(b["image"]),
    }
    if vgg:
        for size in (64, 128, 224):
            network = VGGFile(Path(vgg), 5, (size, size))
            jobs[f"features: VGG16, {size} px"] = lambda b, network=network: network(b["image"])
    jobs["features: Inception-2015's network, 299 px"] = inception()
    print(
        f"\n| pictures of 64 px, batches of {BATCH}, {torch.get_num_threads()} threads | pictures/s"
        " |\n| --- | --- |"
    )
    for name, function in jobs.items():
        print(f"| {name} | {rate(function, batch):.3g} |", flush=True)
    if data:
        folder = Pictures(data, (64, 64))
        start = time.perf_counter()
        for i in range(100):
            folder[i]
        print(
            "| reading, resizing and cropping photographs, one thread |"
            f" {100 / (time.perf_counter() - start):.3g} |"
        )


def inception():
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    with tempfile.TemporaryDirectory() as folder:
        torch.save({}, Path(folder) / "empty.pth")
        network = Random(
            "inception", ["2048"], feature_extractor_weights_path=str(Path(folder) / "empty.pth")
        ).eval()
    return lambda b: network(((b["image"] + 1) * 127.5).to(torch.uint8))


def synthetic(folder: str) -> list[Path]:
    paths = [Path(folder) / f"{name}.npy" for name in ("real", "fake")]
    for seed, path in enumerate(paths):
        array = np.lib.format.open_memmap(path, "w+", np.float32, (COUNT, DIM))
        generator = np.random.default_rng(seed)
        for start in range(0, COUNT, 1000):
            array[start : start + 1000] = (
                generator.standard_normal((1000, DIM), dtype=np.float32) + 0.1 * seed
            )
        array.flush()
    return paths


FIGURES = {
    "nothing: interpreter and libraries": lambda real, fake: None,
    "Frechet distance with its jackknife": lambda real, fake: frechet(real, fake),
    "kernel distance with its jackknife": lambda real, fake: kernel_distance(real, fake),
    "precision and recall": lambda real, fake: precision_recall(real, fake),
    "density and coverage": lambda real, fake: density_coverage(real, fake),
    "nearest training picture of each sample": lambda real, fake: nearest(fake, real),
}


def one(name: str, paths: list[Path], threads: int, queue) -> None:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    FIGURES[name](*(np.load(path, mmap_mode="r") for path in paths))
    queue.put(
        (time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
    )


def memory(threads: int) -> None:
    """Each figure in a process of its own."""
    print(
        f"\n| {COUNT:,} + {COUNT:,} pictures of {DIM} features on disk, {threads} threads | seconds"
        " | peak memory, GiB |\n| --- | --- | --- |"
    )
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        paths = synthetic(folder)
        for name in FIGURES:
            queue = context.Queue()
            process = context.Process(target=one, args=(name, paths, threads, queue))
            process.start()
            seconds, peak = queue.get()
            process.join()
            print(f"| {name} | {seconds:.0f} | {peak:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vgg", help="a VGG16 feature file")
    parser.add_argument("--data", help="a folder of photographs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("parts", "memory"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only != "memory":
        parts(arguments.vgg, arguments.data)
    if arguments.only != "parts":
        memory(arguments.threads)


if __name__ == "__main__":
    main()
