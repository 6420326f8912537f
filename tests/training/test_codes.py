"""The cache of codes: used while it holds, computed anew when it does not; and codes that were made
before the training.
"""

import errno
import shutil

import pytest
import torch

from taming.data.codes import Codes, read_about
from taming.errors import UserError
from taming.inference import encode
from taming.training import run
from tests.conftest import experiment_of
from tests.training.conftest import assert_same, content, temporaries


@pytest.fixture
def computations(monkeypatch) -> list:
    """Files of codes that were made."""
    calls = []
    original = encode.Encoding.rows

    def rows(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(encode.Encoding, "rows", rows)
    return calls


def test_the_cache_is_used_again_until_something_it_depends_on_changes(
    trained, tmp_path, computations
):
    _, plains = trained
    run.train(experiment_of(plains["cached"]), tmp_path / "a")
    assert not computations
    changed = {**plains["cached"], "data": {**plains["cached"]["data"], "views": 1}}
    run.train(experiment_of(changed), tmp_path / "b")
    assert len(computations) == 1


def test_codes_are_as_small_as_they_can_be(trained):
    """16 bits a code, and no more bytes than that but for a header and the names."""
    root, _ = trained
    for folder in (root / "cache").glob("codes-*"):
        about = read_about(folder)
        numbers = sum(h * w for h, w in about.grids) + sum(h * w for _, (h, w) in about.parts)
        size = about.ends[-1] * (about.views or 1) * numbers * 2
        assert size < sum((folder / file).stat().st_size for file in about.files) < size + 2000


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_computed_anew(trained, tmp_path, computations, capsys, damage):
    root, plains = trained
    plain = {**plains["cached"], "data": {**plains["cached"]["data"], "cache": str(tmp_path)}}
    run.train(experiment_of(plain), tmp_path / "a")
    computations.clear()
    for path in tmp_path.glob("codes-*/*.codes"):
        data = bytearray(path.read_bytes())
        data[-300] ^= 4
        cases = {"cut": data[:-200], "flipped": data, "empty": b""}
        if damage == "other":
            torch.save({"views": 1, "codes": [torch.zeros(3)], "tokens": []}, path)
        else:
            path.write_bytes(cases[damage])
    run.train(experiment_of(plain), tmp_path / "b")
    assert (
        len(computations) == 2 and "is damaged; its codes are computed" in capsys.readouterr().err
    )
    assert_same(content(tmp_path / "b")["rows"], content(root / "cached")["rows"])


def test_a_full_disk_is_one_line_before_training_starts(trained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    _, plains = trained
    plain = {**plains["cached"], "data": {**plains["cached"]["data"], "cache": str(tmp_path / "c")}}
    monkeypatch.setattr("taming.data.arrays.np.ascontiguousarray", full)
    with pytest.raises(UserError, match="00000.codes' can't be written .*No space"):
        run.train(experiment_of(plain), tmp_path / "run")
    assert not temporaries(tmp_path)


def with_codes(plain: dict, train: str, validation: str) -> dict:
    """The same configuration on codes that exist."""
    data = {key: value for key, value in plain["data"].items() if key not in ("views", "cache")}
    for name, folder in (("train", train), ("validation", validation)):
        data[name] = {"target": "taming.data.Codes", "params": {"folder": str(folder)}}
    return {**plain, "data": data}


def test_training_on_codes_is_training_on_the_pictures(trained, tmp_path):
    """What `taming encode` wrote, named in the configuration: the same run to the last bit."""
    root, plains = trained
    folders = [f for f in (root / "cache").glob("codes-*") if read_about(f).views in (2, None)]
    train, validation = sorted(folders, key=lambda f: read_about(f).views is None)
    run.train(experiment_of(with_codes(plains["cached"], train, validation)), tmp_path / "run")
    assert_same(content(tmp_path / "run")["rows"], content(root / "cached")["rows"])
    assert_same(content(tmp_path / "run")["state_dict"], content(root / "cached")["state_dict"])


def test_codes_of_another_first_stage_are_refused(trained, tmp_path):
    root, plains = trained
    shutil.copytree(next((root / "cache").glob("codes-*")), tmp_path / "codes")
    about = (tmp_path / "codes" / "codes.json").read_text()
    digest = read_about(tmp_path / "codes").first_stage
    (tmp_path / "codes" / "codes.json").write_text(about.replace(digest, "0" * 16))
    plain = with_codes(plains["fly"], tmp_path / "codes", tmp_path / "codes")
    with pytest.raises(UserError, match="codes of another first stage .0000000000000000. than"):
        run.train(experiment_of(plain), tmp_path / "run")


def test_a_code_that_no_codebook_has_is_one_line(trained, tmp_path):
    root, _ = trained
    shutil.copytree(next((root / "cache").glob("codes-*")), tmp_path / "codes")
    path = next((tmp_path / "codes").glob("*.codes"))
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(data)
    with pytest.raises(UserError, match="holds code 65535, but there are"):
        for index in range(7):
            Codes(str(tmp_path / "codes"))[index]


def test_a_missing_file_is_named_with_its_cure(trained, tmp_path):
    root, _ = trained
    shutil.copytree(next((root / "cache").glob("codes-*")), tmp_path / "codes")
    next((tmp_path / "codes").glob("*.codes")).unlink()
    with pytest.raises(UserError, match="lacks 1 of 1 files of codes, first '00000.codes'; finish"):
        Codes(str(tmp_path / "codes"))
    with pytest.raises(UserError, match="holds no codes"):
        Codes(str(tmp_path / "elsewhere"))
