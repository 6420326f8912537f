"""Compressed pictures: what comes back, what is refused, what other machines can read."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from taming.cli.main import main
from taming.errors import UserError
from taming.formats.load import load
from taming.inference import compress as compression
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain, second_stage_plain


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An unconditional prior, one conditioned on masks, and one without condition_dropout."""
    folder = tmp_path_factory.mktemp("compression")
    first = run.train(experiment_of(first_stage_plain(max_steps=2)), folder / "first")
    masks = run.train(experiment_of(mask_stage_plain(max_steps=2)), folder / "masks")
    paths = {
        "free": run.train(experiment_of(second_stage_plain(first, max_steps=2)), folder / "free")
    }
    paths["masks"] = run.train(
        experiment_of(second_stage_plain(first, masks, max_steps=2)), folder / "masks_prior"
    )
    strict = {**second_stage_plain(first, masks, max_steps=2), "condition_dropout": 0.0}
    paths["strict"] = run.train(experiment_of(strict), folder / "strict")
    return paths


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (19, 34, 3), dtype=np.uint8)).save(
        path
    )
    return path


@pytest.mark.parametrize("name", ["free", "masks"])
def test_codes_come_back_and_take_what_the_prior_says(runs, name):
    model = load(runs[name])
    image = torch.rand(1, 3, 48, 40) * 2 - 1
    compressed = compression.compress(model, image)
    again = compression.decompress(model, compressed.payload, (48, 40))
    assert all(torch.equal(a, b) for a, b in zip(compressed.codes, again))
    assert (
        compressed.bits - 1 <= 8 * len(compressed.payload) <= 1.01 * compressed.bits + 8
    )  # whole bytes
    with torch.no_grad():
        small = image[..., :16, :16]
        codes = model.first_stage.encode(small)
        assert (
            abs(
                compression.compress(model, small).bits
                + float(model.log_prob(codes, compression.null_condition(model, (16, 16))))
                / np.log(2)
            )
            < 0.01
        )


def test_verbs(runs, picture, tmp_path, capsys):
    assert main(["compress", str(runs["free"]), str(picture), "-o", str(tmp_path / "x.tamg")]) == 0
    table = capsys.readouterr().out
    assert "PNG" in table and "JPEG" in table and "WEBP" in table and "log2 K" in table
    assert (
        main(
            [
                "decompress",
                str(runs["free"]),
                str(tmp_path / "x.tamg"),
                "-o",
                str(tmp_path / "y.png"),
            ]
        )
        == 0
    )
    assert Image.open(tmp_path / "y.png").size == (34, 19)
    assert (
        main(
            [
                "reconstruct",
                str(runs["free"]),
                str(picture.parent),
                "-o",
                str(tmp_path.parent / "again"),
            ]
        )
        == 0
    )
    same = np.asarray(Image.open(tmp_path / "y.png")).astype(int) - np.asarray(
        Image.open(tmp_path.parent / "again" / "picture.png")
    ).astype(int)
    assert abs(same).max() <= 1


def test_damaged_files_are_refused(runs, picture, tmp_path):
    file = tmp_path / "x.tamg"
    compression.compress_file(str(runs["free"]), picture, file)
    content = file.read_bytes()
    header = compression.Header.LAYOUT.size
    cases = {
        content[:-1]: "cut off",
        content + b"x": "added to",
        content[:10]: "cut off within",
        b"nope" + content[4:]: "not written by",
        content[: header + 3] + bytes([content[header + 3] ^ 1]) + content[header + 4 :]: "damaged",
        content[:14] + bytes([content[14] ^ 1]) + content[15:]: "damaged",
        content[:4] + b"\x09" + content[5:]: "version 9",
    }
    for damaged, message in cases.items():
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            compression.decompress_file(str(runs["free"]), file, tmp_path / "y.png")
    file.write_bytes(content)
    with pytest.raises(UserError, match="another checkpoint"):
        compression.decompress_file(str(runs["masks"]), file, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


def test_other_codes_than_went_in_are_noticed(runs, picture, tmp_path, monkeypatch):
    """As where a machine's last digits differ."""
    file = tmp_path / "x.tamg"
    compression.compress_file(str(runs["free"]), picture, file)
    real = compression.decompress
    monkeypatch.setattr(
        compression,
        "decompress",
        lambda *arguments: tuple((level + 1) % 32 for level in real(*arguments)),
    )
    with pytest.raises(UserError, match="last digits"):
        compression.decompress_file(str(runs["free"]), file, tmp_path / "y.png")


def test_a_prior_trained_without_condition_dropout_is_refused(runs, picture, tmp_path):
    with pytest.raises(UserError, match="condition_dropout"):
        compression.compress_file(str(runs["strict"]), picture, tmp_path / "x.tamg")


def test_codes_of_a_folder(runs, picture, tmp_path, capsys):
    assert (
        main(["encode", str(runs["free"]), str(picture.parent), "-o", str(tmp_path / "codes.npz")])
        == 0
    )
    codes = np.load(tmp_path / "codes.npz")["picture"]
    assert (
        codes.shape == (10, 17) and codes.dtype == np.int32 and "0 to 31" in capsys.readouterr().out
    )


# Other machines


def test_the_bytes_of_earlier_versions():
    """Files that are out in the world are read."""
    header = compression.Header(b"12345678", 19, 34, 4, 5, 6)
    fields = (b"tamg", 1, b"12345678", 19, 34, 4, 5, 6)
    layout = struct.Struct("<4sB8sHHBIII")
    checksum = zlib.crc32(b"bytes", zlib.crc32(layout.pack(*fields, 0)))
    assert header.packed(b"bytes") == layout.pack(*fields, checksum)


def test_more_threads_than_a_byte_holds(runs, picture, tmp_path, monkeypatch):
    """As on machines with hundreds of cores: fewer are used, and the file says how many."""
    counts = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 384)
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    compression.compress_file(runs["free"], picture, tmp_path / "x.tamg")
    header, _ = compression.read_file(tmp_path / "x.tamg")
    assert header.threads == 255 and counts == [255, 384]
    compression.decompress_file(runs["free"], tmp_path / "x.tamg", tmp_path / "y.png")
    assert Image.open(tmp_path / "y.png").size == (34, 19)


@pytest.mark.parametrize("field", ["height", "width", "threads"])
def test_a_header_of_nothing_is_malformed(tmp_path, field):
    """Its checksum is right."""
    values = {"height": 1, "width": 1, "threads": 1, field: 0}
    header = compression.Header(checkpoint=b"12345678", length=0, codes=0, **values)
    (tmp_path / "x.tamg").write_bytes(header.packed(b""))
    with pytest.raises(UserError, match="malformed"):
        compression.read_file(tmp_path / "x.tamg")


def test_bytes_at_random_are_codes_or_refused(runs):
    model, generator = load(runs["free"]), np.random.default_rng(0)
    for length in (0, 1, 7, 64):
        try:
            codes = compression.decompress(model, generator.bytes(length), (16, 16))
            assert codes[0].shape == (1, 8, 8)
        except UserError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (3, 2), (8, 5)])
def test_small_pictures_come_back(runs, tmp_path, size):
    path = tmp_path / "small.png"
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    compression.compress_file(runs["free"], path, tmp_path / "x.tamg")
    compression.decompress_file(runs["free"], tmp_path / "x.tamg", tmp_path / "y.png")
    assert Image.open(tmp_path / "y.png").size == size[::-1]


# The door for Python


@pytest.mark.parametrize(
    "image, word",
    [
        (torch.zeros(2, 3, 8, 8), "one image at a time"),
        (torch.zeros(3, 8, 8), "one image at a time"),
        (torch.zeros(1, 3, 0, 8), "one image at a time"),
        (torch.zeros(1, 1, 8, 8), "3, H, W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), "int32"),
        (torch.full((1, 3, 8, 8), torch.nan), "NaN|nan|finite"),
        (torch.full((1, 3, 8, 8), 255.0), "255"),
        (np.zeros((1, 3, 8, 8), np.float32), "ndarray"),
        (Image.new("RGB", (8, 8)), "to_tensor"),
        ([[0.0]], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_is_refused_in_python(runs, image, word):
    with pytest.raises(UserError, match=word):
        compression.compress(load(runs["free"]), image)


# Nothing that is there is lost


@pytest.mark.parametrize(
    "words",
    [
        "compress RUN picture.png -o picture.png",
        "compress RUN picture.png -o other.png",
        "compress RUN picture.png -o RUN",
        "compress RUN picture.png -o notes.txt",
        "compress RUN picture.png -o .",
        "decompress RUN x.tamg -o x.tamg",
        "decompress RUN x.tamg -o notes.txt",
        "decompress RUN x.tamg -o RUN",
        "encode RUN . -o RUN",
        "encode RUN . -o picture.png",
        "encode RUN . -o notes.txt",
        "reconstruct RUN sub -o .",
        "reconstruct RUN . -o sub",
        "reconstruct RUN . -o .",
        "reconstruct RUN sub -o notes.txt",
    ],
)
def test_outputs_never_take_the_place_of_other_files(
    runs, picture, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    picture.rename("picture.png")
    (tmp_path / "sub").mkdir()
    for name in ("other.png", "sub/p.png"):
        Image.open("picture.png").save(name)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "last.ckpt").write_bytes(runs["free"].read_bytes())
    compression.compress_file("last.ckpt", "picture.png", "x.tamg")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(words.replace("RUN", "last.ckpt").split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("taming: ") and len(error.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("verb", ["compress", "decompress", "encode"])
def test_devices_stay_devices(runs, picture, tmp_path, verb):
    compression.compress_file(runs["free"], picture, tmp_path / "x.tamg")
    source = {"compress": picture, "decompress": tmp_path / "x.tamg", "encode": tmp_path}[verb]
    assert main([verb, str(runs["free"]), str(source), "-o", "/dev/null"]) == 0
    assert not os.path.isfile("/dev/null")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("verb", ["compress", "encode"])
def test_a_full_disk_is_one_line(runs, picture, tmp_path, capsys, verb):
    source = picture if verb == "compress" else tmp_path
    capsys.readouterr()
    assert main([verb, str(runs["free"]), str(source), "-o", "/dev/full"]) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and len(error.strip().splitlines()) == 1
