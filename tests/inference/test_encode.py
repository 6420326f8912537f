"""Codes of whole data sets: shared out, resumed, checked against what made them, and back."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from taming.cli import main
from taming.data import Codes, Shards
from taming.data.codes import read_about
from taming.data.views import View
from taming.errors import UserError
from taming.inference.decode import decode
from taming.inference.encode import encode_set, status
from taming.inference.engine import BatchEncoder
from taming.inference.models import first_stage_of
from taming.inference.shard import shard
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, full_disk, paint_pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A first stage, seven pictures, and their shards."""
    root = tmp_path_factory.mktemp("codes")
    for name, seed in (("first", 0), ("other", 1)):
        plain = first_stage_plain(max_steps=1, pictures_every=100) | {"seed": seed}
        run.train(experiment_of(plain), root / name)
    shard(str(paint_pairs(root / "pairs", count=7)), root / "shards", samples=2)
    return root


def encode(place: Path, out: Path, first: str = "first", **options) -> str:
    options = {"views": 2, **options}
    view = {"size": [16, 16], "seed": 3}
    return encode_set(place / first, str(place / "shards" / "*.tar"), out, view, **options)


def all_codes(folder: Path) -> torch.Tensor:
    data = Codes(str(folder))
    rows = [data[(i, v)]["codes"][0] for i in range(len(data)) for v in (0, 1)]
    return torch.stack(rows)


def test_codes_are_those_that_the_model_gives_for_each_view(place, tmp_path):
    line = encode(place, tmp_path / "c")
    assert line.startswith("4 of 4 files of codes") and "7 pictures in 2 views" in line
    model = first_stage_of(place / "first")
    pictures = Shards(str(place / "shards" / "*.tar"), {"size": [16, 16], "seed": 3})
    data = Codes(str(tmp_path / "c"))
    for index in range(7):
        for view in (0, 1):
            (expected,) = model.encode(pictures[(index, view)]["image"][None])
            item = data[(index, view)]
            assert torch.equal(item["codes"][0], expected[0])
            assert item["name"] == pictures.name(index)
    assert data[(3, 4)]["codes"][0].equal(data[(3, 0)]["codes"][0]), "views cycle"


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "encode-set"])
def test_label_maps_are_not_silently_read_as_pictures(place, tmp_path, capsys, verb):
    folders = place / "pairs" / "images", place / "pairs" / "segmentations"
    out = {"reconstruct": "out", "encode": "out.npz", "encode-set": "codes"}[verb]
    for folder, remarked in zip(folders, (False, True)):
        command = [verb.removesuffix("-set"), str(place / "first"), str(folder)]
        command += ["-o", str(tmp_path / folder.name / out)]
        main(command + (["--size", "16"] if verb == "encode-set" else []))
        assert ("look like label maps" in capsys.readouterr().err) == remarked


def test_processes_share_the_files_and_make_what_one_makes(place, tmp_path):
    encode(place, tmp_path / "one")
    for number in (1, 6, 0):  # more processes than shards
        encode(place, tmp_path / "many", share=f"{number}/7")
    assert torch.equal(all_codes(tmp_path / "one"), all_codes(tmp_path / "many"))
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == [*(f"0000{n}.codes" for n in range(4)), "codes.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def _slow_encode(place: Path, out: Path) -> None:
    from taming.inference import encode as module

    original = module.write_rows

    def slowly(path, *arguments):
        if path.name == "00002.codes":
            time.sleep(60)
        original(path, *arguments)

    module.write_rows = slowly
    torch.set_num_threads(1)
    encode(place, out)


def test_what_a_killed_process_had_in_hand_another_makes(place, tmp_path, capsys):
    out = tmp_path / "c"
    process = multiprocessing.get_context("fork").Process(target=_slow_encode, args=(place, out))
    process.start()
    while not (out / ".00002.codes.claim").is_file():
        assert process.is_alive()
        time.sleep(0.02)
    text = status(out)
    assert text.startswith("2 of 4 files") and f"{process.pid} works on it" in text
    assert encode(place, out).startswith("3 of 4 files"), "the one in hand is left alone"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert encode(place, out, share="1/2").startswith("4 of 4 files")
    assert main(["encode", "--status", "-o", str(out)]) == 0
    assert "4 of 4 files of codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, words",
    [
        ({"first": "other"}, "holds codes of another first stage"),
        ({"views": 3}, "holds other codes .views: 2 there, 3 here"),
    ],
)
def test_codes_of_something_else_are_not_mixed_in(place, tmp_path, change, words):
    encode(place, tmp_path / "c")
    with pytest.raises(UserError, match=words):
        encode(place, tmp_path / "c", **change)
    (tmp_path / "c" / "codes.json").unlink()
    with pytest.raises(UserError, match="codes.json is missing"):
        status(tmp_path / "c")
    if change.get("views"):
        encode(place, tmp_path / "c", **change)
        with pytest.raises(UserError, match="was made with another first stage, view or source"):
            Codes(str(tmp_path / "c"))[0]


def test_a_full_disk_is_one_line_and_the_rest_is_made_later(place, tmp_path):
    with full_disk(700), pytest.raises(UserError, match="00000.codes' can't be written"):
        encode(place, tmp_path / "c")
    assert not list((tmp_path / "c").glob(".*")), "neither temporary files nor claims"
    assert encode(place, tmp_path / "c").startswith("4 of 4")


def test_the_way_back(place, tmp_path, capsys):
    encode(place, tmp_path / "c", views=None)
    line = decode(place / "first", tmp_path / "c", tmp_path / "d")
    assert line == f"7 pictures in '{tmp_path}/d'"
    paths = sorted((tmp_path / "d").rglob("*.png"))
    assert len(paths) == 7 and paths[0].parent.name == "00000"
    model = first_stage_of(place / "first")
    from taming.data.reading import read_image, to_tensor

    expected = model.decode(tuple(level[None] for level in Codes(str(tmp_path / "c"))[0]["codes"]))
    assert (to_tensor(read_image(paths[0])) - expected[0].clamp(-1, 1)).abs().max() < 1 / 127
    with pytest.raises(UserError, match="codes of another first stage"):
        decode(place / "other", tmp_path / "c", tmp_path / "e")
    for share in ("0/2", "1/2"):
        decode(place / "first", tmp_path / "c", tmp_path / "f", share=share)
    assert len(list((tmp_path / "f").rglob("*.png"))) == 7


@pytest.mark.slow
def test_a_file_of_codes_comes_back_too(place, tmp_path):
    source = str(place / "pairs" / "images")
    assert main(["encode", str(place / "first"), source, "-o", str(tmp_path / "c.npz")]) == 0
    decode(place / "first", tmp_path / "c.npz", tmp_path / "d")
    assert len(list((tmp_path / "d").glob("*.png"))) == 7
    np.savez(tmp_path / "bad.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="'a' has shape .3,., not .h, w."):
        decode(place / "first", tmp_path / "bad.npz", tmp_path / "e")


@pytest.mark.parametrize(
    "words",
    [
        "encode {0}/first nowhere -o {1}/c --size 16",
        "encode {0}/first {0}/pairs/images -o {1}/c",
        "encode {0}/first {0}/pairs/images -o {1}/c --size 16 --shard 2/2",
        "encode {0}/first {0}/pairs/images -o {1}/c --size 15",
        "encode {0}/first {0}/pairs/images -o {1}/c.npz --views 2",
        "encode {0}/first {0}/pairs/images -o {0}/first/config.yaml --size 16",
        "encode --status -o {1}",
        "decode {0}/first {1} -o {1}/d",
        "decode {0}/first {0}/pairs -o {1}/d",
        "shard nowhere -o {1}/s",
        "shard {0}/pairs -o {0}/first/config.yaml",
        "shard {0}/pairs -o {1}/s --samples 0",
    ],
)
def test_what_cant_be_done_is_one_line(place, tmp_path, capsys, words):
    assert main(words.format(place, tmp_path).split()) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("taming: ") and "\n" not in message


def test_the_function_of_batch_engines_gives_the_same_codes(place, tmp_path):
    paths = sorted(str(path) for path in (place / "pairs" / "images").iterdir())
    encoder = BatchEncoder(str(place / "first"), 16, batch_size=3)
    result = encoder([*paths, Path(paths[0]).read_bytes(), b"no picture", "nowhere.png"])
    assert result["codes"].shape == (10, 64) and result["codes"].dtype == np.uint16
    assert result["problem"][:8] == [""] * 8 and all(result["problem"][8:])
    assert (result["codes"][7] == result["codes"][0]).all() and not result["codes"][8:].any()
    view = View(16, flip=False, upscale=True)
    encode_set(place / "first", str(place / "pairs" / "images"), tmp_path / "c", view)
    data = Codes(str(tmp_path / "c"))
    for index in range(7):
        assert data[index]["codes"][0].flatten().tolist() == result["codes"][index].tolist()


def test_parts_have_the_ends_of_their_shards(place, tmp_path):
    encode(place, tmp_path / "c")
    assert read_about(tmp_path / "c").ends == [2, 4, 6, 7]
