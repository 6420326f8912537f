"""Runs as processes of their own: two train what one does (gloo on the CPU), and a kill leaves a
run that goes on exactly.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from taming.evaluation.metrics import read_metrics
from taming.first_stage import EMAQuantizer, VectorQuantizer
from tests.conftest import first_stage_plain, mask_stage_plain, write_yaml

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


@pytest.mark.slow
def test_kill_9_and_resume_give_the_metrics_of_a_run_that_was_left_alone(tmp_path):
    plain = first_stage_plain(
        max_steps=60, checkpoint_every=10, validate_every=30, pictures_every=60
    )
    train(tmp_path, plain, "whole")
    process = subprocess.Popen(
        [sys.executable, str(MAIN), "train", "-b", "c.yaml", "-n", "cut"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "runs" / "cut" / "metrics.csv"
    while not (metrics.is_file() and any(batch >= 25 for batch, _, _ in read_metrics(metrics))):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run(
        [sys.executable, str(MAIN), "train", "-r", "runs/cut"],
        cwd=tmp_path,
        check=True,
        timeout=200,
    )
    assert read_metrics(metrics) == read_metrics(tmp_path / "runs" / "whole" / "metrics.csv")
