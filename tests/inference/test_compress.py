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
    """An unconditional prior, and one that hears masks."""
    folder = tmp_path_factory.mktemp("compression")
    first = run.train(experiment_of(first_stage_plain(max_steps=2)), folder / "first")
    masks = run.train(experiment_of(mask_stage_plain(max_steps=2)), folder / "masks")
    made = {
        "free": run.train(experiment_of(second_stage_plain(first, max_steps=2)), folder / "free")
    }
    made["masks"] = run.train(
        experiment_of(second_stage_plain(first, masks, max_steps=2)), folder / "told"
    )
    deaf = {**second_stage_plain(first, masks, max_steps=2), "condition_dropout": 0.0}
    made["deaf"] = run.train(experiment_of(deaf), folder / "deaf")
    return made


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
    found = compression.compress(model, image)
    again = compression.decompress(model, found.payload, (48, 40))
    assert all(torch.equal(a, b) for a, b in zip(found.codes, again))
    assert found.bits - 1 <= 8 * len(found.payload) <= 1.01 * found.bits + 8  # whole bytes
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
    told = capsys.readouterr().out
    assert "PNG" in told and "JPEG" in told and "WEBP" in told and "log2 K" in told
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
    header = compression.HEADER.size
    cases = {
        content[:-1]: "cut off",
        content + b"x": "added to",
        content[:10]: "cut off within",
        b"nope" + content[4:]: "not written by",
        content[: header + 3] + bytes([content[header + 3] ^ 1]) + content[header + 4 :]: "damaged",
        content[:14] + bytes([content[14] ^ 1]) + content[15:]: "damaged",
        content[:4] + b"\x09" + content[5:]: "version 9",
    }
    for damaged, told in cases.items():
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=told):
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
        compression, "decompress", lambda *given: tuple((level + 1) % 32 for level in real(*given))
    )
    with pytest.raises(UserError, match="last digits"):
        compression.decompress_file(str(runs["free"]), file, tmp_path / "y.png")


def test_a_prior_that_never_heard_silence_is_refused(runs, picture, tmp_path):
    with pytest.raises(UserError, match="condition_dropout"):
        compression.compress_file(str(runs["deaf"]), picture, tmp_path / "x.tamg")


def test_codes_of_a_folder(runs, picture, tmp_path, capsys):
    assert (
        main(["encode", str(runs["free"]), str(picture.parent), "-o", str(tmp_path / "codes.npz")])
        == 0
    )
    codes = np.load(tmp_path / "codes.npz")["picture"]
    assert (
        codes.shape == (10, 17) and codes.dtype == np.int32 and "0 to 31" in capsys.readouterr().out
    )
