"""Files with our mark whose content is malformed or damaged: each is refused in one line by every
verb that reads it.
"""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from taming import images
from taming.cli.main import main
from taming.inference.compress import Header

NOTHINGS = [None, [], {}, "", "x", -1, 0.5, True, 10**30, [[]], {"a": 1}]


def changed(tree, place: str, value):
    """A copy of a tree of dictionaries with one entry replaced."""
    tree = json.loads(json.dumps(tree))
    *path, last = place.split("/")
    node = tree
    for key in path:
        node = node[key]
    node[last] = value
    return tree


# .safetensors


def header_of(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: dict, rest: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


METADATA = [
    *[(place, value) for place in ("stage", "config", "config/model") for value in NOTHINGS],
    *[("config/model/target", value) for value in [*NOTHINGS, "os.system", "taming.cli.main.main"]],
    *[("config/model/params", value) for value in NOTHINGS[3:]],
    *[("config/model/params/channels", value) for value in (None, "x", -1, 0, [8], 10**30)],
    *[("config/model/params/quantizer", value) for value in NOTHINGS],
    *[
        ("config/model/params/quantizer/target", v)
        for v in ("x", "os.system", "taming.data.Subset")
    ],
    *[("config/data", value) for value in ("x", 3, [])],
    *[("batches", value) for value in (None, "x", -1, [])],
]


@pytest.mark.parametrize("place, value", METADATA)
def test_metadata_of_safetensors(lab, refuses, capsys, place, value):
    """`inspect` builds nothing, so it may describe what can't be built."""
    header, rest = header_of(lab / "first.safetensors")
    metadata = json.loads(header["__metadata__"]["taming"])
    header["__metadata__"] = {"taming": json.dumps(changed(metadata, place, value))}
    write(lab / "changed.safetensors", header, rest)
    refuses("reconstruct changed.safetensors pairs/images -o out".split())
    code, error = main(["inspect", "changed.safetensors"]), capsys.readouterr().err
    assert (code, error) == (0, "") or (code == 2 and len(error.splitlines()) == 1)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "3", "null", "{}", "[" * 5000, '{"stage": "first"}']
)
def test_text_of_safetensors(lab, refuses, text):
    header, rest = header_of(lab / "first.safetensors")
    header["__metadata__"] = {"taming": text}
    write(lab / "changed.safetensors", header, rest)
    refuses(["inspect", "changed.safetensors"])


@pytest.mark.parametrize("place", range(0, 400, 37))
def test_flipped_bytes_of_safetensors(lab, refuses, place):
    """A flipped digit of a weight still makes a file; a flipped header does not."""
    content = bytearray((lab / "first.safetensors").read_bytes())
    content[place] ^= 0xFF
    (lab / "changed.safetensors").write_bytes(content)
    refuses(["reconstruct", "changed.safetensors", "pairs/images", "-o", "out"])


# Compressed pictures


@pytest.mark.parametrize("place", range(Header.LAYOUT.size + 8))
def test_flipped_bytes_of_compressed_pictures(lab, refuses, place):
    content = bytearray((lab / "free.tamg").read_bytes())
    content[place] ^= 0xFF
    (lab / "changed.tamg").write_bytes(content)
    refuses(["decompress", "free.safetensors", "changed.tamg", "-o", "out.png"])


@pytest.mark.parametrize("field, value", [("height", 0), ("width", 0), ("threads", 0)])
def test_fields_of_compressed_pictures(lab, refuses, field, value):
    """With a checksum that is right."""
    content = (lab / "free.tamg").read_bytes()
    size = Header.LAYOUT.size
    *fields, _ = Header.LAYOUT.unpack(content[:size])
    fields[{"height": 3, "width": 4, "threads": 5}[field]] = value
    checksum = zlib.crc32(content[size:], zlib.crc32(Header.LAYOUT.pack(*fields, 0)))
    packed = Header.LAYOUT.pack(*fields, checksum)
    (lab / "changed.tamg").write_bytes(packed + content[size:])
    refuses(["decompress", "free.safetensors", "changed.tamg", "-o", "out.png"])


# Samples

RECORD = [
    *[("checkpoint", value) for value in NOTHINGS],
    *[(name, v) for name in ("sha256", "number", "batch", "threads") for v in NOTHINGS[:7]],
    *[("row", value) for value in (None, "x", -1, 1, 0.5)],
    *[("sampling", value) for value in NOTHINGS if value not in ({}, {"a": 1})],
    *[("sampling/size", value) for value in ("x", [1], [0, 4], [1, 2, 3], {})],
    *[("sampling/temperature", value) for value in ("x", -1, [], {}, None)],
    *[("sampling/top_k", value) for value in ("x", 0, 1.5, [])],
    *[("sampling/guidance", value) for value in ("x", [], None)],
    *[("config", value) for value in (3, "x", ["x"], ["nowhere", "12"])],
    *[("known", value) for value in (3, "x", [], ["x"], [["a", "b"]], [["no", "12"], ["no", ""]])],
    *[("device", value) for value in (None, "tpu", 3)],
    *[("image", value) for value in (3, [], ["nowhere", "12"])],
    *[("segmentation", value) for value in (3, [], "no base64", "AAAA")],
    *[("class", value) for value in (-1, "x", [], 1.5)],
]
ALLOWED = [("known", []), ("config", ""), ("config", [])]


@pytest.mark.parametrize("place, value", [case for case in RECORD if case not in ALLOWED])
def test_records_in_samples(lab, refuses, place, value):
    metadata = images.read_metadata(lab / "sample.png")
    images.save(torch.zeros(3, 4, 4), lab / "changed.png", changed(metadata, place, value))
    refuses(["sample", "--from-png", "changed.png", "-o", "out"])


def test_a_foreign_or_malformed_png_in_a_folder_of_samples_stays(lab, refuses):
    (lab / "other").mkdir(exist_ok=True)
    for name in ("sample-0.png", "sample-1.png"):
        (lab / "other" / name).write_bytes((lab / "pairs" / "images" / "p0.png").read_bytes())
    refuses(["sample", "free.safetensors", "-n", "2", "-o", "other"])
    refuses(["sample", "free.safetensors", "-n", "2", "-o", "other", "--overwrite"])


# Codes in an .npz, pictures in a tar

GRID = np.zeros((8, 8), np.int32)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({}, "no codes"),
        ({"../../x": GRID}, "outside of OUT"),
        ({"/elsewhere/x": GRID}, "outside of OUT"),
        ({"a\nb": GRID}, "outside of OUT"),
        ({"a": GRID + 0.5}, "float64 numbers"),
        ({"a": GRID == 0}, "bool numbers"),
        ({"a": GRID + 1j}, "complex128 numbers"),
        ({"a": GRID.astype(np.uint64) + 2**63}, "uint64 numbers"),
        ({"a": GRID[:0]}, "shape (0, 8)"),
    ],
)
def test_codes_of_a_file(lab, refuses, arrays, words):
    np.savez(lab / "changed.npz", **arrays)
    assert words in refuses(["decode", "first.safetensors", "changed.npz", "-o", "out"])


@pytest.mark.parametrize("name, content", [("a.txt", b"a lake"), ("a.png", b"")])
def test_shards_without_pictures(lab, tmp_path, capsys, monkeypatch, name, content):
    monkeypatch.chdir(lab)
    with tarfile.open(lab / "changed.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    before = set(lab.iterdir())
    out = tmp_path / "out"
    for words in ("shard changed.tar", "encode first.safetensors changed.tar"):
        code = main([*words.split(), "--size", "16", "-o", str(out)])
        assert code == 2 and not out.exists()
        assert "hold no pictures" in capsys.readouterr().err
    for index in set(lab.iterdir()) - before:
        index.unlink()


@pytest.mark.parametrize(
    "flag, words",
    [("--workers=-1", "workers -1"), ("--workers=1000000", "from 0 to"), ("--scale=inf", "scale")],
)
def test_numbers_of_an_encoding_in_views(refuses, flag, words):
    line = ["encode", "first.safetensors", "pairs/images", "--size", "16", "-o", "out", flag]
    assert words in refuses(line)
