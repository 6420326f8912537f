"""What large data sets cost, simulated: an index of 100 M samples, the order, reading from shards
and from a folder, codes at the speed of a training, all in ratios of one run.

    python benchmarks/bench_scale.py [--samples 100000000] [--grids 10000000] [--folder FOLDER]

Needs about 60 bytes of disk a sample, 512 a grid. Memory is this process's own (RssAnon): mapped
files are the system's cache, which it takes back when it needs to.
"""

import argparse
import io
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from taming.data import Codes, ImageFolder, Shards
from taming.data.codes import About, Rows, write_rows
from taming.data.permutation import ShardOrder
from taming.data.shard_index import ShardIndex, write_index
from taming.data.tar import ROLES, Part, scan
from taming.first_stage.interface import FirstStage
from taming.inference.encode import Encoding
from taming.inference.models import first_stage_of
from taming.inference.shard import shard
from taming.inference.share import Share

IN_A_SHARD = 10_000


def _walk(action: Callable[[int], object], items: Iterable[int]) -> None:
    for item in items:
        action(item)


def private_memory() -> float:
    """MB of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def synthetic_part(number: int) -> Part:
    """A shard of samples of a picture and a caption, as img2dataset writes them."""
    count = IN_A_SHARD
    sizes = np.zeros((count, len(ROLES)), np.uint32)
    sizes[:, 0], sizes[:, 3] = 30_000, 60
    starts = np.zeros((count, len(ROLES)), np.int64)
    starts[:, 0] = 512 + np.arange(count) * 31_744
    starts[:, 3] = starts[:, 0] + 30_720
    names = b"".join(b"%09d" % (number * count + k) for k in range(count))
    return Part(names, np.full(count, 9), starts, sizes, "", 317_450_240, "")


def index(folder: Path, samples: int) -> None:
    shards = samples // IN_A_SHARD
    path = folder / "big.index"
    template = synthetic_part(0)
    # One part for all: only the numbers of bytes matter here
    parts = [template] * shards
    names = [f"{number:05d}.tar" for number in range(shards)]
    before = private_memory()
    written = seconds(lambda: write_index(path, names, "x", parts))
    opened = seconds(lambda: ShardIndex(path))
    made = ShardIndex(path)
    places = np.random.default_rng(0).integers(0, len(made), 20_000).tolist()
    looked = seconds(lambda: [(made.place(i, "image"), made.name(i)) for i in places])
    print(
        f"index of {len(made)} samples in {shards} shards: {path.stat().st_size / 1e9:.2f} GB,"
        f" merged and written in {written:.1f} s, opened in {opened * 1e3:.1f} ms;"
        f" {looked / len(places) * 1e6:.1f} us to look up a random sample;"
        f" {private_memory() - before:.0f} MB of memory more than before"
    )
    for window in (None, 16):
        order = ShardOrder(made.counts, 0, 0, window)
        step = seconds(partial(_walk, order, range(50_000))) / 50_000
        setup = seconds(partial(ShardOrder, made.counts, 0, 1, window))
        print(f"order, window {window}: {step * 1e6:.1f} us a step, {setup * 1e3:.0f} ms an epoch")
    path.unlink()


def pictures(folder: Path, count: int = 400) -> None:
    """JPEGs of 256 px, from a folder and from shards, decoded and cropped."""
    source = folder / "pictures"
    source.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        small = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((288, 288), Image.Resampling.BICUBIC)
        image.save(source / f"{number:06d}.jpg", quality=90)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    shard(str(source), folder / "shards", samples=100)
    scanned = seconds(lambda: scan(str(folder / "shards" / "00000.tar")))
    sets = {
        "folder": ImageFolder(str(source), 256),
        "shards": Shards(str(folder / "shards" / "*.tar"), 256),
    }
    rates = {}
    for name, data in sets.items():
        order = ShardOrder([count], 0, 0, None)
        items = [order(i) for i in range(count)]
        best = min(seconds(partial(_walk, data.__getitem__, items)) for _ in range(3))
        rates[name] = count / best
    print(
        f"pictures/s on one core: {rates['folder']:.0f} from a folder, {rates['shards']:.0f} from"
        f" shards ({rates['shards'] / rates['folder']:.2f}x); {scanned / 100 * 1e6:.0f} us a member"
        " to make an index"
    )


def tokenizing(folder: Path, count: int = 400) -> None:
    """The shipped model over the shards at 64 px, by one process and by two, a thread each."""
    context = multiprocessing.get_context("spawn")
    rates = {}
    for world in (1, 2):
        shutil.rmtree(folder / "tokens", ignore_errors=True)
        barrier, times = context.Barrier(world + 1), context.Queue()
        processes = [
            context.Process(target=_encode, args=(folder, rank, world, barrier, times))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        barrier.wait()
        rates[world] = count / max(times.get() for _ in processes)
        for process in processes:
            process.join()
    print(
        f"tokenizing: {rates[1]:.0f} pictures/s by one process, {rates[2]:.0f} by two"
        f" ({rates[2] / rates[1]:.2f}x)"
    )


def _encode(folder: Path, rank: int, world: int, barrier, times) -> None:
    torch.set_num_threads(1)
    model = first_stage_of("landscapes")
    assert isinstance(model, FirstStage)
    data = Shards(str(folder / "shards" / "*.tar"), 64)
    job = Encoding(model, data, batch_size=32)
    share = Share(rank, world, torch.device("cpu"))
    barrier.wait()
    times.put(seconds(lambda: job.write_all(folder / "tokens", share)))


def read_only(folder: Path, count: int = 400) -> None:
    """The reading alone, without decoding."""
    data = Shards(str(folder / "shards" / "*.tar"), 256)
    paths = sorted((folder / "pictures").iterdir())
    tars = seconds(lambda: [data._members(i) for i in range(count)]) / count
    files = seconds(lambda: [io.BytesIO(path.read_bytes()) for path in paths]) / count
    print(f"reading alone: {files * 1e6:.0f} us a file, {tars * 1e6:.0f} us a sample of a shard")


def codes(folder: Path, grids: int, batch: int = 64) -> None:
    """Grids of 16 x 16 codes of 1024, read in the order of a training."""
    shutil.rmtree(folder / "codes", ignore_errors=True)
    (folder / "codes").mkdir()
    parts = grids // IN_A_SHARD
    ends = [(number + 1) * IN_A_SHARD for number in range(parts)]
    about = About("x", "", [1024], [[16, 16]], [], "", None, "", ends)
    about.write(folder / "codes")
    generator = np.random.default_rng(0)
    table = generator.integers(0, 1024, (IN_A_SHARD, 1, 16, 16), dtype=np.uint16)
    names = [f"{number:09d}" for number in range(IN_A_SHARD)]
    written = seconds(
        lambda: [
            write_rows(folder / "codes" / file, about, Rows([table], [], names))
            for file in about.files
        ]
    )
    size = sum(path.stat().st_size for path in (folder / "codes").iterdir())
    before = private_memory()
    data = Codes(str(folder / "codes"))
    order = data.order(0, 0)
    count, memory = 200 * batch, []
    rates = []
    for start in range(0, 5 * count, count):
        places = range(start, start + count)
        rates.append(count / seconds(partial(_walk, lambda i: data[(order(i), 0)], places)))
        memory.append(private_memory() - before)
    print(
        f"{len(data)} grids of 256 codes: {size / 1e9:.2f} GB, written in {written:.0f} s; read in"
        f" random order: {min(rates):.0f} to {max(rates):.0f} grids/s on one core; memory"
        f" {', '.join(f'{m:.0f}' for m in memory)} MB more after each {count}"
    )
    shutil.rmtree(folder / "codes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--grids", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_scale"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures(arguments.folder)
    read_only(arguments.folder)
    tokenizing(arguments.folder)
    index(arguments.folder, arguments.samples)
    codes(arguments.folder, arguments.grids)


if __name__ == "__main__":
    main()
