"""Work that processes share: each part once, the parts of the dead again, whoever comes."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from taming.errors import UserError
from taming.inference.share import shard_of, share_of_process
from taming.inference.work import Claims, shared_parts

PARTS = [f"{number}.txt" for number in range(10)]


def work(folder: Path, rank: int, world: int, pause: float = 0.0, wait: bool = False) -> list[str]:
    """Makes parts; what it made."""
    made = []
    claims = Claims(folder, stale=1.0)
    for part in shared_parts(claims, PARTS, lambda p: (folder / p).is_file(), rank, world, wait):
        time.sleep(pause)
        (folder / part).write_text(str(rank))
        made.append(part)
    return made


def test_one_makes_all_its_share_first(tmp_path):
    assert sorted(work(tmp_path, 1, 3)) == PARTS
    claims = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert claims == [], "no claim stays"
    order = list(shared_parts(Claims(tmp_path), PARTS, lambda _: False, 1, 3))
    assert order[:3] == ["1.txt", "4.txt", "7.txt"] and sorted(order) == PARTS


def test_several_at_once_make_each_part_once(tmp_path):
    made: dict[int, list[str]] = {}

    def run(rank: int) -> None:
        made[rank] = work(tmp_path, rank, 3, pause=0.02)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(part for parts in made.values() for part in parts) == PARTS
    assert all(made.values())


def test_more_processes_than_parts(tmp_path):
    assert [len(work(tmp_path, rank, 20)) for rank in (15, 3)] == [10, 0]


def test_the_part_of_a_killed_process_is_made_again(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=work, args=(tmp_path, 0, 1, 60.0))
    process.start()
    while not (tmp_path / ".0.txt.claim").is_file():
        time.sleep(0.01)
    assert len(work(tmp_path, 0, 1)) == 9, "nobody takes what another works on"
    assert Claims(tmp_path).holder(tmp_path / ".0.txt.claim").endswith(f" {process.pid}")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert work(tmp_path, 0, 1) == ["0.txt"]


def test_a_claim_of_another_machine_is_void_when_nobody_renews_it(tmp_path):
    claim = tmp_path / ".0.txt.claim"
    claim.write_text("elsewhere 123")
    assert len(work(tmp_path, 0, 1)) == 9
    before = time.time() - 5
    os.utime(claim, (before, before))
    assert work(tmp_path, 0, 1) == ["0.txt"]


def test_those_who_wait_finish_what_others_leave(tmp_path):
    claim = tmp_path / ".0.txt.claim"
    claim.write_text("elsewhere 123")
    start = time.monotonic()
    assert len(work(tmp_path, 0, 1, wait=True)) == 10
    assert time.monotonic() - start > 0.5, "until its holder had been silent for long enough"


def test_a_claim_is_renewed_while_its_holder_works(tmp_path):
    with Claims(tmp_path, stale=0.4).claimed("a") as is_ours:
        assert is_ours
        time.sleep(0.8)
        with Claims(tmp_path, stale=0.4).claimed("a") as again:
            assert not again
    assert not (tmp_path / ".a.claim").exists()


# Which share


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "1/0", "1/", "/", "1/2/3", "٣/٤"])
def test_what_is_no_share_is_one_line(text):
    with pytest.raises(UserError, match="give i/n, with i from 0 to n - 1"):
        shard_of(text)


def test_shares_of_job_arrays_and_of_torchrun(monkeypatch):
    assert shard_of(None) == (0, 1) and shard_of("2/5") == (2, 5)
    with pytest.raises(UserError, match="this is no job array"):
        shard_of("slurm")
    assert shard_of("auto") == (0, 1)
    for name, value in (("ID", 13), ("MIN", 10), ("COUNT", 5)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert shard_of("slurm") == shard_of("auto") == (3, 5)
    assert shard_of(None) == (0, 1), "what is no shared work is no share of it"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    share = share_of_process("auto")
    assert (share.rank, share.world) == (7, 10)
