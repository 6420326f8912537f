"""Runs as processes of their own: two train what one does (gloo on the CPU); kills, full disks and
hang-ups leave a run that resumes exactly.
"""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from PIL import Image

from taming.evaluation.metrics import read_metrics
from taming.first_stage import EMAQuantizer, VectorQuantizer
from tests.conftest import first_stage_plain, mask_stage_plain, paint_pairs, write_yaml
from tests.training.conftest import assert_same

MAIN = Path(__file__).resolve().parents[2] / "main.py"


def train(folder: Path, plain: dict, name: str, *overrides: str) -> dict:
    write_yaml(plain, folder / "c.yaml")
    subprocess.run(
        [sys.executable, str(MAIN), "train", "-b", "c.yaml", "-n", name, *overrides],
        cwd=folder,
        check=True,
        timeout=200,
    )
    return {
        (b, n): v
        for b, n, v in read_metrics(folder / "runs" / name / "metrics.csv")
        if n.startswith("validation/")
    }


def followed(rank: int, world: int, folder: str) -> None:
    """Six batches through each quantizer, of which this process sees its part; what became of the
    codebooks goes into a file.
    """
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
        )
    torch.manual_seed(0)
    made = [
        EMAQuantizer(16, 4, decay=0.5, restart=0.3, from_data=True),
        VectorQuantizer(16, 4, restart=2, from_data=True),
    ]
    for batch in range(6):
        z = torch.randn(4, 4, 3, 5, generator=torch.Generator().manual_seed(batch))
        for quantizer in made:
            torch.manual_seed(batch if rank == 0 else 1000 + batch)
            quantizer.train()(z[rank * 4 // world : (rank + 1) * 4 // world])
    torch.save([quantizer.state_dict() for quantizer in made], f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_codebooks_follow_two_processes_as_they_follow_one(tmp_path):
    """Averages, restarts and the start from data."""
    followed(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(followed, (2, str(tmp_path)), nprocs=2)
    one, *two = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for ours, theirs, others in zip(one, *two):
        for name, value in ours.items():
            assert torch.allclose(value.float(), theirs[name].float(), atol=1e-5) and torch.equal(
                theirs[name], others[name]
            ), name


@pytest.mark.slow
def test_two_processes_with_half_the_batch_are_one_with_the_whole(tmp_path):
    plain = mask_stage_plain(max_steps=6, validate_every=2)
    one = train(tmp_path, plain, "one", "data.batch_size=4")
    two = train(tmp_path, plain, "two", "data.batch_size=2", "trainer.devices=2")
    assert one.keys() == two.keys()
    assert all(
        abs(one[key] - two[key]) < 2e-3 * max(1, abs(one[key]))
        for key in one
        if "perplexity" not in key[1] and "used" not in key[1]
    )


@pytest.mark.slow
def test_the_adversarial_stage_runs_and_resumes_on_two_processes(tmp_path):
    train(tmp_path, first_stage_plain(max_steps=6), "two", "trainer.devices=2")
    subprocess.run(
        [sys.executable, str(MAIN), "train", "-r", "runs/two", "trainer.max_steps=8"],
        cwd=tmp_path,
        check=True,
        timeout=200,
    )
    batches = [
        b
        for b, n, _ in read_metrics(tmp_path / "runs" / "two" / "metrics.csv")
        if n == "train/total"
    ]
    assert batches == list(range(1, 9))


def start(folder: Path, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(MAIN), "train", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def resume(folder: Path, name: str) -> None:
    words = [sys.executable, str(MAIN), "train", "-r", f"runs/{name}"]
    subprocess.run(words, cwd=folder, check=True, timeout=200, stderr=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def wait_for_batch(process: subprocess.Popen, metrics: Path, batch: int) -> None:
    wait_for(
        process, lambda: metrics.is_file() and any(b >= batch for b, _, _ in read_metrics(metrics))
    )


def sixty_batches(**trainer) -> dict:
    periods = {"checkpoint_every": 7, "validate_every": 30, "pictures_every": 60}
    return first_stage_plain(**{"max_steps": 60, **periods, **trainer})


def assert_same_run(folder: Path, name: str, other: str) -> None:
    """Metrics, weights and optimizers."""
    runs = [folder / "runs" / run for run in (name, other)]
    assert read_metrics(runs[0] / "metrics.csv") == read_metrics(runs[1] / "metrics.csv")
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs]
    for part in ("state_dict", "optimizers"):
        assert_same(states[0][part], states[1][part])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_leave_a_run_that_resumes_bit_identical(tmp_path):
    """Moments, not batches: in mid-batch, in mid-write, and every fourth time while it starts."""
    train(tmp_path, sixty_batches(max_steps=2400), "whole")
    moments = random.Random(0)
    run = tmp_path / "runs" / "cut"
    process = start(tmp_path, "-b", "c.yaml", "-n", "cut")
    wait_for(process, (run / "checkpoints" / "last.ckpt").is_file)
    for kill in range(20):
        time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, f"after {kill} kills: {process.communicate()[1]}"
        process.kill()
        process.wait()
        date = (run / "metrics.csv").stat().st_mtime_ns
        process = start(tmp_path, "-r", "runs/cut")
        if kill % 4:
            wait_for(process, lambda d=date: (run / "metrics.csv").stat().st_mtime_ns != d)
        else:
            time.sleep(moments.uniform(0, 6))
    process.kill()
    process.wait()
    resume(tmp_path, "cut")
    assert_same_run(tmp_path, "cut", "whole")
    assert not list((tmp_path / "runs" / "cut").rglob(".*.tmp"))


@pytest.mark.slow
def test_a_hang_up_saves_and_the_run_resumes_bit_identical(tmp_path):
    train(tmp_path, sixty_batches(), "whole")
    process = start(tmp_path, "-b", "c.yaml", "-n", "cut")
    wait_for_batch(process, tmp_path / "runs" / "cut" / "metrics.csv", 10)
    process.send_signal(signal.SIGHUP)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 129 and "taming train -r runs/cut" in message
    resume(tmp_path, "cut")
    assert_same_run(tmp_path, "cut", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("second", ["train", "resume"])
def test_a_second_process_in_a_run_folder_is_refused(tmp_path, second):
    every = (
        10 if second == "resume" else 100_000
    )  # a new run is refused where there is a checkpoint
    plain = first_stage_plain(
        max_steps=100_000, checkpoint_every=every, validate_every=100_000, pictures_every=100_000
    )
    write_yaml(plain, tmp_path / "c.yaml")
    process = start(tmp_path, "-b", "c.yaml", "-n", "one")
    metrics = tmp_path / "runs" / "one" / "metrics.csv"
    wait_for_batch(process, metrics, 12)
    words = ["-b", "c.yaml", "-n", "one"] if second == "train" else ["-r", "runs/one"]
    other = start(tmp_path, *words)
    message = other.communicate(timeout=60)[1]
    assert other.returncode == 2 and f"in use by process {process.pid} on" in message
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, "the first one is not disturbed"
    rows = [batch for batch, name, _ in read_metrics(metrics) if name == "train/total"]
    assert rows == list(range(1, len(rows) + 1)), "no row twice"


def small_files(size: int):
    """No file of this process may be larger."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_ten_times_of_ten(tmp_path):
    """On a small tmpfs where one may be mounted, else with a limit on the size of files: a line
    that names the file, no temporaries, and after making room the run that was not interrupted.
    """
    train(tmp_path, sixty_batches(), "whole")
    whole = tmp_path / "runs" / "whole"
    checkpoint = (whole / "checkpoints" / "last.ckpt").stat().st_size
    total = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    disk = tmp_path / "runs" / "disk"
    for number in range(10):
        disk.mkdir()
        share = number / 9
        # From less than one checkpoint to more than two
        size = int(0.8 * checkpoint + share * (total - 0.9 * checkpoint))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        limit = None if mounted else small_files(int((0.3 + 0.069 * number) * checkpoint))
        process = start(tmp_path, "-b", "c.yaml", "-n", "disk", preexec_fn=limit)
        message = process.communicate(timeout=200)[1]
        try:
            assert process.returncode in (0, 2), message
            assert "Traceback" not in message
            assert process.returncode == 0 or "can't be written" in message
            assert not list(disk.rglob(".*.tmp"))
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=1G", str(disk)], check=True)
            if (disk / "checkpoints" / "last.ckpt").is_file():
                if process.returncode:
                    resume(tmp_path, "disk")
                assert_same_run(tmp_path, "disk", "whole")
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)
            shutil.rmtree(disk)


@pytest.mark.slow
def test_an_error_on_two_processes_is_one_line(tmp_path):
    """The other process used to add 115 lines of its own."""
    paint_pairs(tmp_path / "data", count=8)
    plain = mask_stage_plain(max_steps=40, validate_every=100, checkpoint_every=100)
    plain["model"]["params"]["labels"] = 3
    params = {"root": "data", "size": 16}
    plain["data"]["train"] = {"target": "taming.data.SegmentedImages", "params": params}
    plain["data"]["validation"] = {}
    write_yaml(plain, tmp_path / "c.yaml")
    process = start(tmp_path, "-b", "c.yaml", "-n", "two", "trainer.devices=2")
    wait_for_batch(process, tmp_path / "runs" / "two" / "metrics.csv", 5)
    Image.new("L", (24, 20), 77).save(tmp_path / "data" / "segmentations" / "p1.png")
    message = process.communicate(timeout=200)[1]
    assert process.returncode == 2 and "Traceback" not in message
    assert message.count("label 77") == 1 or message.count("taming:") == 1
    assert (tmp_path / "runs" / "two" / "checkpoints" / "last.ckpt").is_file()
