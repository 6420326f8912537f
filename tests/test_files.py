"""One atomic write: what is on disk is complete or as it was, devices and links stay what they are,
and what goes wrong is one line.
"""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taming import files
from taming.errors import UserError
from taming.files import (
    check_output,
    file_hash,
    make_writable,
    read_text,
    run_lock,
    size_and_date,
    write_atomically,
)

ROOT = Path(__file__).resolve().parents[1]


def write_text(path, text="new"):
    write_atomically(path, lambda file: file.write_text(text))


def temporaries(folder):
    return [p for p in folder.rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".write")]


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new" and not temporaries(tmp_path)


def test_a_name_of_255_bytes_is_a_name(tmp_path):
    write_text(tmp_path / ("ü" * 125 + ".txt"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), UserError("no")])
def test_a_write_that_fails_leaves_the_old_file_and_raises_what_it_raised(tmp_path, error):
    (tmp_path / "f").write_text("old")

    def write(file):
        file.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "f", write)
    assert (tmp_path / "f").read_text() == "old" and not temporaries(tmp_path)


def test_threads_do_not_write_over_each_other(tmp_path):
    def write(text):
        for _ in range(50):
            write_text(tmp_path / "f", text * 10_000)
            texts.add((tmp_path / "f").read_text())

    texts = set()
    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {"a" * 10_000, "b" * 10_000} and not temporaries(tmp_path)


# What is no regular file


def test_a_device_stays_a_device():
    write_text("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_one_line():
    with pytest.raises(UserError, match="'/dev/full' can't be written .*No space left"):
        write_text("/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe")
    reader.join()
    assert received == ["new"] and (tmp_path / "pipe").is_fifo()


def test_standard_output_is_a_file_too():
    code = (
        "from taming.files import *; write_atomically('/dev/stdout', lambda f: f.write_text('x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout == b"x"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "f", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    write_text(link)
    assert link.is_symlink() and target.read_text() == "new" and not temporaries(tmp_path)


def test_a_link_to_a_device_writes_into_the_device(tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    write_text(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and os.readlink(tmp_path / "link") == "/dev/null"


# What goes wrong is one line, and nothing is lost


def into_missing_folder(folder):
    (folder / "link").symlink_to(folder / "unmounted" / "f")
    return folder / "link"


def in_a_circle(folder):
    (folder / "link").symlink_to("link")
    return folder / "link"


def under_a_file(folder):
    (folder / "file").write_text("old")
    return folder / "file" / "deep" / "f"


def a_folder(folder):
    (folder / "f").mkdir()
    return folder / "f"


@pytest.mark.parametrize(
    "place, message",
    [
        (into_missing_folder, "can't be written"),
        (in_a_circle, "can't be written"),
        (under_a_file, "file' is a file, not a folder"),
        (a_folder, "is a folder"),
        (lambda folder: "", "no name for a file"),
        (lambda folder: folder / "..", "no name for a file"),
        (lambda folder: folder / ("x" * 300), "File name too long"),
        (lambda folder: "/proc/f/g", "can't be written"),
    ],
)
def test_a_place_that_takes_no_file_is_one_line(tmp_path, place, message):
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as raised:
        write_text(path)
    assert "\n" not in str(raised.value) and sorted(tmp_path.rglob("*")) == before


def test_a_file_keeps_its_permissions(tmp_path):
    write_text(tmp_path / "f")
    (tmp_path / "f").chmod(0o600)
    write_text(tmp_path / "f", "newer")
    assert (tmp_path / "f").read_text() == "newer"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write anything
    with pytest.raises(UserError, match="read-only.*is whole"):
        write_text(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "old"


WRITERS = {
    "text": "lambda f: f.write_text('x' * 3_000_000)",
    "torch": "lambda f: torch.save({'a': torch.zeros(700_000)}, f)",
    "safetensors": "lambda f: safetensors.torch.save_file({'a': torch.zeros(700_000)}, f)",
    "numpy": "lambda f: numpy.savez(open(f, 'wb'), a=numpy.zeros(400_000))",
    "picture": "lambda f: Image.fromarray(numpy.random.randint(0, 255, (1000, 1000, 3),"
    " dtype='uint8')).save(f, format='PNG')",
}
PROGRAM = """
import sys, resource, numpy, safetensors.torch, torch
from PIL import Image
from taming.errors import UserError
from taming.files import write_atomically
if sys.argv[2] != "-":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
for name, write in WRITERS.items():
    try:
        write_atomically(sys.argv[1], write)
    except UserError as error:
        print(name, error)
""".replace("WRITERS", "{" + ", ".join(f"'{name}': {code}" for name, code in WRITERS.items()) + "}")


def refusals(folder, limit):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "f"), limit],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_refusals(folder, limit: str, reason: str) -> None:
    """Every writer fails in one line that says so, and leaves the old file whole."""
    (folder / "f").write_text("old")
    lines = refusals(folder, limit)
    assert [line.split()[0] for line in lines] == list(WRITERS)
    assert all(reason in line and "is whole; make room" in line for line in lines), lines
    assert (folder / "f").read_text() == "old" and not temporaries(folder)


def test_a_limit_on_the_size_of_files_is_one_line_for_every_writer(tmp_path):
    check_refusals(tmp_path, "1000000", "File too large")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_for_every_writer(small_disk):
    check_refusals(small_disk, "-", "No space left")
    write_text(small_disk / "g", "x" * 1_500_000)  # nothing holds the disk


# Folders, hashes, outputs


@pytest.mark.parametrize("name", ["file", "file/deeper"])
def test_a_folder_that_is_a_file_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="file' is a file; choose another"):
        make_writable(tmp_path / name)


def test_a_folder_that_takes_no_file_is_one_line():
    with pytest.raises(UserError, match="not writable"):
        make_writable("/proc/here")


def test_making_writable_leaves_nothing(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_equal_files_have_equal_hashes(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (file_hash(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 16 and int(a, 16) >= 0
    with pytest.raises(UserError, match="can't be read"):
        file_hash(tmp_path / "missing")


def test_size_and_date_tell_files_apart(tmp_path):
    (tmp_path / "a").write_text("four")
    size, date = size_and_date(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(0, date + 1000))
    assert size == 4 and size_and_date(tmp_path / "a") == (4, date + 1000)
    assert size_and_date(tmp_path / "missing") == (0, 0)


@pytest.mark.parametrize("text", ["grün\n".encode(), "\ufeffgrün\n".encode()])
def test_text_is_utf8_without_marks(text, tmp_path):
    (tmp_path / "a.txt").write_bytes(text)
    assert read_text(tmp_path / "a.txt") == "grün\n"
    (tmp_path / "a.txt").write_bytes(b"one\ntwo " + "grün".encode("latin-1"))
    with pytest.raises(UserError, match="a.txt', line 2, is not UTF-8; save"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(UserError, match="can't be read"):
        read_text(tmp_path / "missing")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Inputs of all kinds, seen from the working folder."""
    for name in ("p/a.png", "p/sub/b.png", "run/checkpoints/last.ckpt", "notes.txt", "old.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    (tmp_path / "same.png").symlink_to("p/a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "out, inputs, endings, message",
    [
        ("p/a.png", ["p/a.png"], (), "is an input"),
        ("same.png", ["p/a.png"], (), "is an input"),
        ("p/../p/a.png", ["p/a.png"], (), "is an input"),
        ("run/checkpoints/last.ckpt", ["run/checkpoints/last.ckpt", "p"], (), "is an input"),
        ("p", ["p/sub"], (), "holds the input"),
        (".", ["p/sub"], (), "holds the input"),
        ("p", ["p"], (), "is an input"),
        (".", ["old.png"], (), "holds the input"),
        ("notes.txt", ["p/a.png"], (".png",), "is no .png file"),
        ("p/a.png", [], (".tamg",), "is no .tamg file"),
    ],
)
def test_outputs_that_destroy_something_are_refused(tree, out, inputs, endings, message):
    with pytest.raises(UserError, match=message):
        check_output(out, inputs, endings)


@pytest.mark.parametrize(
    "out, inputs, endings",
    [
        (None, ["p"], ()),
        ("new", ["p", "landscapes"], ()),
        ("p/out", ["p"], ()),
        ("run", ["run/checkpoints/last.ckpt"], ()),
        ("old.png", ["p/a.png"], (".png",)),
        ("new.txt", ["p/a.png"], (".png",)),
        ("/dev/null", ["p/a.png"], (".png",)),
    ],
)
def test_other_outputs_are_accepted(tree, out, inputs, endings):
    check_output(out, inputs, endings)


# The lock of a run


def test_a_run_is_one_process_at_a_time(tmp_path):
    code = f"from taming.files import run_lock\nwith run_lock({str(tmp_path)!r}): print('free')"
    with run_lock(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
            with run_lock(tmp_path):
                pass
        other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        assert f"process {os.getpid()} on".encode() in other.stderr
    with run_lock(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError):
        with run_lock(tmp_path):
            raise ZeroDivisionError
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_killed_process_leaves_neither_a_lock_nor_half_a_file(tmp_path):
    code = f"""
import os
from taming.files import run_lock, write_atomically
with run_lock({str(tmp_path)!r}):
    write = lambda file: file.touch() or os.kill(os.getpid(), 9)
    write_atomically({str(tmp_path / "sub" / "f")!r}, write)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert len(temporaries(tmp_path)) == 1
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock.holder").read_text()
        assert not temporaries(tmp_path)
