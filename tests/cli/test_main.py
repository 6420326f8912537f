"""The front door: help, did-you-mean, pipes, full disks, poor terminals, homeless users, and what
is a bug of ours.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import taming
from taming.cli import main
from taming.cli.main import VERBS
from taming.errors import UserError


def run(words: str, **options) -> subprocess.CompletedProcess:
    """In a process of its own, as a shell would."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run(
        [sys.executable, "-m", "taming", *words.split()], env=variables, **options
    )


def patched(monkeypatch, verb: str, action) -> None:
    monkeypatch.setitem(VERBS, verb, action)


def raising(error: BaseException):
    def action(words):
        raise error

    return action


# Help


def test_help_is_quick_and_names_every_verb():
    start = time.perf_counter()
    done = run("--help")
    assert done.returncode == 0 and time.perf_counter() - start < 2  # 0.1 s on an idle machine
    assert all(f"\n  {verb}" in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_in_full_sentences(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: taming {verb}")
    assert (VERBS[verb].__doc__ or "").splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    "verb",
    sorted(set(VERBS) - {"data", "demo", "configs", "doctor", "keys", "new", "report", "train"}),
)
def test_every_verb_that_loads_takes_allow(verb, capsys):
    main([verb, "--help"])
    assert "--allow PKG" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, hint",
    [
        ("smaple landscapes", "did you mean 'sample'?"),
        ("sample landscapes --temprature 1", "did you mean '--temperature'?"),
        ("evaluate --dta x", "did you mean '--data'?"),
        ("compress a b --ouput c -o d", "did you mean '--out'?"),
        ("configs intel_vqgan", "did you mean 'intel_vqgan_64'?"),
        ("train --bsae x", "did you mean '--base'?"),
    ],
)
def test_did_you_mean(words, hint, capsys):
    assert main(words.split()) == 2
    assert hint in capsys.readouterr().err


# Configurations that come with the program


def test_configs_are_listed_printed_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("intel_vqgan_64 "))
    assert "VQ-GAN for landscapes" in line
    assert main(["configs", "intel_vqgan_64"]) == 0
    text = capsys.readouterr().out
    assert main(["configs", "intel_vqgan_64", "-o", "mine.yaml"]) == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == text
    assert main(["configs", "intel_vqgan_64", "-o", "mine.yaml"]) == 2
    assert main(["configs", "-o", "x.yaml"]) == 2
    assert os.listdir(tmp_path) == ["mine.yaml"]


# From Python


def test_what_there_is_from_python():
    import pydoc

    assert {"load", "train", "sample", "evaluate", "Sampling"} <= set(dir(taming))
    text = pydoc.plain(pydoc.render_doc(taming))
    assert "Trains a first stage" in text and "Draws pictures of any size" in text
    for name in taming.__all__:
        assert getattr(taming, name).__doc__, name


def test_train_and_sample_from_python(tmp_path, monkeypatch):
    from tests.conftest import first_stage_plain, second_stage_plain

    monkeypatch.chdir(tmp_path)
    first = taming.train(first_stage_plain(max_steps=1), "first", ["seed=3"])
    last = taming.train(second_stage_plain(first, max_steps=1), "prior")
    again = taming.train([], "prior", ["trainer.max_steps=2"], resume=True)
    assert again == last and taming.load(last).prior.grid == (8, 8)
    sheet = taming.sample(last, "drawn", samples=2, seed=5, size=(8, 12))
    assert sheet.is_file() and (tmp_path / "drawn" / "sample-1.png").is_file()
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        taming.sample(last, "drawn", temprature=1)


# Pipes, disks, terminals


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -m taming configs intel_vqgan_64 | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.startswith("#")


def test_a_reader_that_is_gone_is_no_mistake(monkeypatch, capsys):
    patched(monkeypatch, "doctor", raising(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr("os.dup2", lambda *descriptors: None)
    assert main(["doctor", "x"]) == 141 and capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_onto_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("configs", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 2
    assert done.stderr.startswith("taming: ") and "No space left" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_terminals_without_umlauts(tmp_path, variables):
    done = run("sample größe.ckpt", env=variables, cwd=tmp_path)
    assert done.returncode == 2 and "does not exist" in done.stderr
    assert "Traceback" not in done.stderr and "gr" in done.stderr
    assert run("configs", env=variables, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("home", ["/nonexistent", "/proc", ""])
def test_nobody_needs_a_home(tmp_path, home):
    variables = {"HOME": home, "XDG_CACHE_HOME": home, "TORCH_HOME": home, "MPLCONFIGDIR": ""}
    done = run("inspect landscapes", env=variables, cwd=tmp_path)
    assert done.returncode == 0 and "second stage" in done.stdout
    assert done.stderr == ""


def test_a_folder_of_a_shipped_models_name_is_not_in_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landscapes").mkdir()
    assert main(["inspect", "landscapes"]) == 0
    assert "second stage" in capsys.readouterr().out


# What is whose fault


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device", "runs/x"), "'runs/x': No space left on device"),
        (PermissionError(13, "Permission denied", "out"), "'out': Permission denied"),
        (MemoryError("Unable to allocate 9 TiB"), "9 TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "memory"),
        (UserError("several\n  lines"), "several lines"),
        (UserError("Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most "
                   "recent call last):\n  File x\ntaming.errors.UserError: a mask is cut"),
         "taming: a mask is cut"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys, error, words):
    patched(monkeypatch, "doctor", raising(error))
    assert main(["doctor", "x"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("taming: ") and words in text and len(text.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "error", [ValueError("shapes"), KeyError("x"), RuntimeError("size mismatch"), OSError("odd")]
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    patched(monkeypatch, "doctor", raising(error))
    with pytest.raises(type(error)):
        main(["doctor", "x"])


def test_deep_nesting_in_a_file_is_the_files_fault(monkeypatch, capsys):
    import json

    patched(monkeypatch, "doctor", lambda words: json.loads("[" * 100_000))
    assert main(["doctor", "x"]) == 2
    assert "nested too deeply" in capsys.readouterr().err


def test_interrupted(monkeypatch, capsys):
    patched(monkeypatch, "doctor", raising(KeyboardInterrupt()))
    assert main(["doctor", "x"]) == 130
    assert capsys.readouterr().err.startswith("taming: interrupted")


def test_a_zero_byte_in_an_argument_is_refused(capsys):
    assert main(["sample", "a\0b"]) == 2
    assert "zero byte" in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_sampling(tmp_path, times):
    """One line, pictures that are written are complete, and the same command draws the rest."""
    words = "sample landscapes -n 2000 --batch-size 1 --masks m.png -o out".split()
    Image.new("L", (64, 64)).save(tmp_path / "m.png")
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "taming", *words]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "out" / "m-0.png").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in error, error
    assert times == 2 or error.strip().splitlines()[-1].startswith("taming: interrupted")
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".png" and Image.open(path).size == (64, 64)


def test_a_disk_that_fills_up_while_sampling(tmp_path):
    """One line, no halves, and the same command resumes; here the limit on a file's size is met."""
    Image.new("L", (64, 64)).save(tmp_path / "m.png")
    words = "-m taming sample landscapes --masks m.png --size 48x48 -n 2 -o out"
    command = f"ulimit -f 1; exec {sys.executable} {words}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("taming: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and "File too large" in lines[0] and ".png" in lines[0]
    assert [path.suffix for path in (tmp_path / "out").iterdir() if "tmp" in path.name] == []
    assert run(words.removeprefix("-m taming "), cwd=tmp_path).returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "m-0.png", "m-1.png", "sheet.png"]  # fmt: skip
