"""Memory that a process of the command line frees stays its own, unless the user says otherwise."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from taming import allocator
from taming.allocator import keep_freed_memory

BLOCKS = """
import resource
import torch
from taming.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

print(keep_freed_memory())
for _ in range(10):  # glibc needs a few, because it aligns each of them
    start = faults()
    torch.ones(16 << 20)  # 64 MiB
    print(faults() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_the_next_block_has_the_pages_of_the_one_before():
    faults = {}
    for name, environment in {"stays": {}, "given back": {"MALLOC_CHECK_": "0"}}.items():
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "GLIBC"))}
        done = subprocess.run(
            [sys.executable, "-c", BLOCKS],
            env={**own, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        changed, *_, last = done.stdout.split()
        assert changed == str(name == "stays")
        faults[name] = int(last)
    assert faults["stays"] < 100 < faults["given back"]


GIVEN = """
import torch
from pathlib import Path
from threading import Thread
from taming.allocator import give_back_memory, keep_freed_memory

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

def fill():
    global between
    blocks = [torch.ones(8 << 20) for _ in range(8)]  # 32 MiB each
    between = torch.ones(64 << 10)

keep_freed_memory()
start = pages()
thread = Thread(target=fill)
thread.start(), thread.join()
print((pages() - start) >> 8)
give_back_memory()
print((pages() - start) >> 8)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_all_threads_keep_theirs_and_free_memory_is_given_back_when_asked_for():
    """Also what lies before a block in use: else the next picture seems to have no room."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", GIVEN], env=own, capture_output=True, text=True, check=True
    )
    held, left = map(int, done.stdout.split())  # MiB
    assert held > 200 and left < 60


def test_versions_that_refuse_large_thresholds_never_map(monkeypatch):
    said = []
    monkeypatch.setattr(
        allocator, "_function", lambda name: lambda *a: said.append(a) or a[0] != -3
    )
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    assert keep_freed_memory()
    assert said[-1] == (allocator.MMAP_MAX, 0)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: 1 / 0)
    for name in ("MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not keep_freed_memory()


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_other_systems_go_on_as_they_are(monkeypatch, error):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)

    def missing(name):
        raise error

    monkeypatch.setattr(allocator.ctypes, "CDLL", missing)
    assert not keep_freed_memory()
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
