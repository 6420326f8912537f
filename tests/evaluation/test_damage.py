"""Files that are damaged, foreign or hostile, requests for nothing, full disks, processes that
stop: one line that names the file, or a gap on the page; never a traceback, and nothing is run.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from taming import evaluate
from taming.cli.main import main
from taming.errors import UserError
from taming.evaluation import comparison, doctor
from taming.evaluation.features import feature_network
from taming.evaluation.frechet import moments
from taming.evaluation.generation import against_reference
from taming.evaluation.layout import confusions
from taming.evaluation.metrics import read_metrics
from taming.evaluation.protocol import Figures, read_reference, store_reference
from taming.evaluation.rows import RowStore, join_processes, measure
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, full_disk
from tests.evaluation.test_rows import Numbered, doubled

FEATURES = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())
PLAIN = {"figures": {}, "stamps": {"s": {}}, "missing": [], "warnings": []}
FIGURE = {"name": "psnr", "value": 20.5, "stamp": "s", "n": 3}


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    short = {"max_steps": 2, "validate_every": 2, "checkpoint_every": 2, "pictures_every": 2}
    folder = tmp_path_factory.mktemp("runs") / "first"
    run.train(experiment_of(first_stage_plain(**short)), folder)
    return folder


@pytest.fixture
def folders(tmp_path) -> tuple[str, str]:
    generator = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(7):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return str(tmp_path / "real"), str(tmp_path / "fake")


# metrics.csv


@pytest.mark.parametrize("cut", [2, 3, 5, 12, 18])
def test_a_last_row_that_was_cut_off_is_left_out(tmp_path, cut):
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"batch,name,value\r\n1,train/l1,0.25\r\n2,train/l1,0.125\r\n"[:-cut])
    assert read_metrics(file) == [(1, "train/l1", 0.25)]


def test_a_row_is_whole_from_its_end_of_line_on_and_marks_at_the_start_are_dropped(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"\xef\xbb\xbfbatch,name,value\r\n1,train/l1,0.25\r\n2,skipped,\r\n")
    assert read_metrics(file) == [(1, "train/l1", 0.25)]
    file.write_bytes(b"")
    assert read_metrics(file) == []


@pytest.mark.parametrize(
    "line",
    [b"one,train/l1,0.1", b"1,train/l1", b"1,train/l1,much", b"\0\0\0", b"\xff\xfe", b"-1,a,0.1",
     b"9" * 30 + b",a,0.1", b'1,"a,0.1'],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"batch,name,value\n1,train/l1,0.25\n" + line + b"\n4,train/l1,0.25\n")
    with pytest.raises(UserError, match=r"metrics\.csv' line 3"):
        read_metrics(file)


def test_a_file_of_other_columns_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(UserError, match=r"metrics\.csv' line 1: 'step,loss'"):
        read_metrics(tmp_path / "metrics.csv")


# figures.json


@pytest.mark.parametrize(
    "change",
    [
        {"figures": 3},
        {"figures": {"psnr": 3}},
        {"figures": {"psnr": {"name": "psnr"}}},
        {"figures": {"psnr": FIGURE | {"value": "much"}}},
        {"figures": {"psnr": FIGURE | {"value": None}}},
        {"figures": {"psnr": FIGURE | {"value": 10**400}}},
        {"figures": {"psnr": FIGURE | {"n": 3.5}}},
        {"figures": {"psnr": FIGURE | {"low": "a"}}},
        {"figures": {"psnr": FIGURE | {"stamp": "lost"}}},
        {"figures": {"psnr": FIGURE | {"note": ["a"]}}},
        {"stamps": []},
        {"stamps": {"s": "a"}},
        {"missing": "a"},
        {"missing": [1]},
        {"warnings": None},
    ],
)
def test_malformed_figures_are_refused(tmp_path, change):
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(PLAIN | change))
    with pytest.raises(UserError, match="holds no figures of taming evaluate"):
        Figures.read(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_no_figures_are_refused(tmp_path, content):
    (tmp_path / "figures.json").write_bytes(content)
    with pytest.raises(UserError, match=r"figures\.json"):
        Figures.read(tmp_path / "figures.json")
    with pytest.raises(UserError, match="can't be read"):
        Figures.read(tmp_path)


def test_figures_of_earlier_and_later_versions_are_read(tmp_path):
    """The first version wrote `left` and NaN; a later one may write further keys."""
    file = tmp_path / "figures.json"
    earlier = {key: value for key, value in PLAIN.items() if key != "missing"}
    low = FIGURE | {"low": float("nan"), "high": float("nan"), "interval": "none", "note": ""}
    file.write_text(json.dumps(earlier | {"left": ["fid"], "figures": {"psnr": low}}))
    figures = Figures.read(file)
    assert figures["psnr"] == 20.5 and figures.missing == ["fid"]
    assert "| psnr | 20.5 | - | 3 | s |" in figures.table()
    file.write_text(json.dumps(PLAIN | {"new": 1, "figures": {"psnr": FIGURE | {"new": 1}}}))
    assert Figures.read(file)["psnr"] == 20.5


# stored statistics


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros((2, 2))},
        {"mean": np.zeros(3)},
        {"mean": np.zeros(2, np.int64)},
        {"scatter": np.full((2, 2), np.nan)},
        {"count": np.array(1)},
        {"count": np.array([3])},
        {"count": np.array(3.5)},
        {"stamp": "[]"},
        {"stamp": "{"},
    ],
)
def test_malformed_statistics_are_refused(tmp_path, change):
    file = tmp_path / "real.npz"
    plain = {"mean": np.zeros(2), "scatter": np.eye(2), "count": np.array(3), "stamp": "{}"}
    np.savez(file, **plain)
    assert read_reference(file, {}).count == 3
    np.savez(file, **{**plain, **change})
    with pytest.raises(UserError, match="holds no reference statistics of taming evaluate"):
        read_reference(file, {})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text", "array", "lacking"])
def test_files_that_are_no_statistics_are_refused(tmp_path, content):
    file = tmp_path / "real.npz"
    if content == "array":
        np.save(tmp_path / "real.npy", np.zeros(3))
        (tmp_path / "real.npy").rename(file)
    elif content == "lacking":
        np.savez(file, mean=np.zeros(2))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match="holds no reference statistics of taming evaluate"):
        read_reference(file, {})


def test_statistics_of_other_features_are_refused(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 4))
    store_reference(tmp_path / "real.npz", moments(features), {})
    reference = read_reference(tmp_path / "real.npz", {})
    with pytest.raises(UserError, match="of 4 features, but this network gives 3"):
        against_reference(reference, features[:, :3], feature_network(FEATURES))


# rows on disk


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _cut(folder / "done.npy"),
        lambda folder: _cut(folder / "twice.values.npy"),
        lambda folder: (folder / "twice.values.npy").unlink(),
        lambda folder: (folder / "twice.values.npy").write_bytes(b"garbage"),
        lambda folder: (folder / "shapes.json").write_text("[1]"),
        lambda folder: (folder / "shapes.json").unlink(),
        lambda folder: np.save(folder / "done.npy", np.ones(3, np.uint8)),
        lambda folder: np.save(folder / "twice.values.npy", np.zeros(11, np.int64)),
    ],
)
def test_damaged_rows_are_measured_anew(tmp_path, damage):
    measure("x", Numbered(), doubled, RowStore(tmp_path))
    damage(tmp_path / "x")
    rows = measure("x", Numbered(), doubled, RowStore(tmp_path))
    np.testing.assert_array_equal(rows["twice"], 2 * np.arange(11))


def test_a_full_disk_is_one_line_and_what_is_done_is_resumed(tmp_path):
    """The disk's end is a limit on the size of files here; 5,000 codes of a picture need more."""
    store, large = RowStore(tmp_path), lambda batch: {"x": batch["image"].new_zeros(11, 5000)}
    measure("small", Numbered(), doubled, store)
    with pytest.raises(UserError, match="can't be written .File too large.; make room there"):
        with full_disk(20_000):
            measure("large", Numbered(), large, store)
    assert [path.name for path in tmp_path.iterdir()] == ["small"], "nothing fills the disk further"
    untouched = measure("small", Numbered(), lambda batch: pytest.fail("it is done"), store)
    np.testing.assert_array_equal(untouched["twice"], 2 * np.arange(11))
    assert measure("large", Numbered(), large, store)["x"].shape == (11, 5000)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and what sets that disk's size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run([*mount, "-o", "size=16k"], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes more rights")

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_an_evaluation_ends_with_the_same_figures_however_often_the_disk_is_full(
    first_stage, tmp_path, small_disk
):
    """Ten sizes of the disk, each a little larger; the last has room for all."""
    folder, resize = small_disk
    request = {"checkpoint": str(first_stage), "features": FEATURES}
    expected = evaluate(tmp_path / "f.json", **request)
    errors = []
    for size in (4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 4000):
        resize(size)
        try:
            figures = evaluate(folder / "f.json", **request)
        except UserError as error:
            errors.append(str(error))
            assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
        else:
            assert figures == expected
            (folder / "f.json").unlink()
    assert len(errors) > 2 and size == 4000
    assert all("No space left" in error and "\n" not in error for error in errors), errors


# requests


@pytest.mark.parametrize(
    "words, message",
    [
        (["--pictures", "0"], "--pictures: 0 should be a whole number of at least 1"),
        (["--train-pictures", "-3"], "-3 should be a whole number of at least 1"),
        (["--only", ""], "--only is empty"),
        (["--only", " , "], "--only"),
        (["--size", "0x16"], "0x16"),
        (["--seed", "-1"], "--seed -1 should be a whole number of at least 0"),
        (["--top-p", "nan"], "top_p nan should be"),
    ],
)
def test_a_request_for_nothing_is_refused(folders, capsys, words, message):
    real, fake = folders
    assert main(["evaluate", "--data", real, "--samples", fake, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"pictures": 0}, "--pictures 0 should be at least 1"),
        ({"only": ()}, "name at least one of reconstruction"),
        ({"size": (0, 16)}, "should be .height, width., both at least 1"),
        ({"picture": 3}, "unknown picture; did you mean 'pictures'"),
        ({"samples": None}, "evaluate needs a checkpoint"),
    ],
)
def test_the_same_in_python(folders, tmp_path, request_, message):
    real, fake = folders
    request = {"data": real, "samples": fake, "features": FEATURES} | request_
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path / "f.json", **request)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_pictures_of_different_sizes_are_refused_whatever_the_batch(folders, tmp_path, batch_size):
    real, fake = folders
    Image.new("RGB", (20, 24)).save(Path(real) / "9.png")
    with pytest.raises(UserError, match=r"'0\.png' is 16x16 and '9\.png' 24x20 .*--size HxW"):
        evaluate(
            tmp_path / "f.json", data=real, samples=fake, features=FEATURES, batch_size=batch_size
        )


def test_one_picture_has_all_figures_but_distances(first_stage, tmp_path):
    figures = evaluate(
        tmp_path / "f.json", checkpoint=str(first_stage), features=FEATURES, pictures=1
    )
    assert {"psnr", "used", "perplexity"} <= set(figures.figures) and "rfd" not in figures
    assert figures.figures["psnr"].low == figures["psnr"] == figures.figures["psnr"].high


def test_two_pictures_have_a_kernel_distance_without_an_interval(folders, tmp_path):
    real, fake = folders
    for folder in (real, fake):
        for i in range(2, 7):
            (Path(folder) / f"{i}.png").unlink()
    evaluate(tmp_path / "f.json", data=real, samples=fake, features=FEATURES)
    assert "NaN" not in (tmp_path / "f.json").read_text()
    assert Figures.read(tmp_path / "f.json").figures["kd"].low is None


def test_a_segmenter_is_not_measured_itself(tmp_path):
    plain = first_stage_plain(max_steps=1)
    plain["model"] = {
        "target": "taming.segmenter.Segmenter",
        "params": {"labels": 10, "width": 8, "depth": 2},
    }
    del plain["loss"]
    checkpoint = run.train(experiment_of(plain), tmp_path / "run")
    with pytest.raises(UserError, match="is a Segmenter; evaluate measures first and second"):
        evaluate(tmp_path / "f.json", checkpoint=str(checkpoint))


# outputs


@pytest.mark.parametrize(
    "words, message",
    [
        (["--store-reference", "real/0.png"], "exists and is no .npz file"),
        (["-o", "real.json"], "lies in 'real', where pictures are read"),
        (["-o", "fake/f.json"], "lies in 'fake', where pictures are read"),
        (["--reference", "s.npz", "--store-reference", "s.npz"], "is an input of this command"),
    ],
)
def test_outputs_do_not_become_inputs(folders, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    np.savez("s.npz", mean=np.zeros(2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main(["evaluate", "--data", "real", "--samples", "fake", *words]) == 2
    assert message in capsys.readouterr().err
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert after == before


# weights


class Trap:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("form", ["inception:{}", "resnet18:{}", "{}", "{}@3"])
def test_no_weights_file_runs_anything(tmp_path, form):
    weights, mark = tmp_path / "weights.pth", tmp_path / "it ran"
    torch.save({"conv.weight": torch.zeros(1), "trap": Trap(mark)}, weights)
    with pytest.raises(UserError, match=r"weights\.pth"):
        feature_network(form.format(weights))
    assert not mark.exists()
    torch.load(weights, weights_only=False)
    assert mark.exists(), "the trap works"


@pytest.mark.parametrize("form", ["inception:{}", "resnet18:{}", "{}"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02garbage", None])
def test_weights_of_something_else_are_one_line(tmp_path, form, content):
    weights = tmp_path / "weights.pth"
    if content is None:
        torch.save({"conv.weight": torch.zeros(1)}, weights)
    else:
        weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth") as error:
        feature_network(form.format(weights))
    assert "\n" not in str(error.value)


def test_a_home_where_nothing_can_be_written_costs_only_what_needs_a_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file" / "hub"))
    for name in ("inception", "resnet18"):
        with pytest.raises(UserError, match="can't be downloaded .*put the file there"):
            feature_network(name)
    assert feature_network(FEATURES)(torch.zeros(1, 3, 8, 8))["features"].shape == (1, 6)


# pictures and models that say nothing


def test_features_that_are_no_numbers_are_refused(folders, tmp_path):
    class Broken(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4] / 0

    real, fake = folders
    with pytest.raises(UserError, match="features of picture 0 .0.png. is NaN or infinite"):
        evaluate(tmp_path / "f.json", data=real, samples=fake, features=Broken())


def test_a_foreign_picture_among_samples_is_left_out(folders, tmp_path):
    from taming.images import save
    from taming.inference.record import Record
    from taming.second_stage.sampling import Sampling

    real, fake = folders
    for i in range(6):
        metadata = Record("model", "a" * 16, Sampling(), condition={}, number=i).metadata()
        save(Image.open(Path(fake) / f"{i}.png"), Path(fake) / f"{i}.png", metadata)
    figures = evaluate(tmp_path / "f.json", data=real, samples=fake, features=FEATURES)
    assert figures.figures["fd"].n == 6, "6.png is from elsewhere"
    assert any("1 that taming sample did not draw, such as '6.png'" in w for w in figures.warnings)


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", '{"checkpoint": 3}', '{"seed": 1}'])
def test_pictures_with_a_malformed_record_are_one_line_or_foreign(folders, tmp_path, text):
    from PIL.PngImagePlugin import PngInfo

    real, fake = folders
    texts = PngInfo()
    texts.add_text("taming", text)
    Image.open(Path(fake) / "0.png").save(Path(fake) / "0.png", pnginfo=texts)
    try:
        evaluate(tmp_path / "f.json", data=real, samples=fake, features=FEATURES)
    except UserError as error:
        assert "0.png" in str(error) and "\n" not in str(error)


def test_masks_of_another_size_and_labels_beyond_the_segmenter_are_refused():
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(UserError, match="masks are 4x4, but their pictures 4x5"):
        confusions(masks, torch.zeros(2, 4, 5, dtype=torch.int64), 3)
    for label in (3, -1):
        with pytest.raises(UserError, match=f"holds label {label}, but the segmenter knows 0 to 2"):
            confusions(masks + label, masks, 3)


def test_a_model_that_reconstructs_nan_is_refused(first_stage, tmp_path):
    from taming.evaluation.reconstruction import measurer_of
    from taming.formats.load import load

    model = load(first_stage)
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(torch.nan)
        with pytest.raises(UserError, match="the weights of this model are broken"):
            measurer_of(model, {}, None)({"image": torch.zeros(1, 3, 16, 16)})


# runs


def _without(*names: str):
    def damage(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _writing(name: str, content: bytes):
    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return damage


GAPS = {
    "no checkpoint": _without("checkpoints"),
    "no pictures": _without("pictures"),
    "no configuration": _without("config.yaml"),
    "a damaged checkpoint": _writing("checkpoints/last.ckpt", b"garbage"),
    "an empty checkpoint": _writing("checkpoints/last.ckpt", b""),
    "a damaged configuration": _writing("config.yaml", b"\xff\xfe: ["),
    "an empty configuration": _writing("config.yaml", b""),
    "a configuration of a later version": _writing("config.yaml", b"future: {key: 1}\n"),
    "a foreign picture": _writing("pictures/notes.png", b"no picture"),
    "a damaged picture": _writing("pictures/999999.png", b"no picture"),
    "damaged figures": _writing("figures.json", b"{"),
    "a damaged montage": _writing("figures/samples.png", b"no picture"),
    "no rows yet": _writing("metrics.csv", b"batch,name,value\r\n"),
    "an empty metrics.csv": _writing("metrics.csv", b""),
    "other curves": _writing("metrics.csv", b"batch,name,value\n1,future/curve,nan\n"),
    "curves of NaN": _writing(
        "metrics.csv", b"batch,name,value\n" + b"1,train/l1,nan\n" * 9 + b"2,train/l1,inf\n"
    ),
}


@pytest.fixture
def damaged(first_stage, tmp_path):
    def copy(damage) -> Path:
        shutil.copytree(first_stage, tmp_path / "copy")
        damage(tmp_path / "copy")
        return tmp_path / "copy"

    return copy


@pytest.mark.parametrize("gap", GAPS)
def test_a_report_shows_what_there_is_of_a_damaged_run(damaged, first_stage, tmp_path, gap):
    folder = damaged(GAPS[gap])
    page = comparison.write([folder, first_stage], tmp_path / "report.html").read_text()
    assert "<h2>copy</h2>" in page and "What taming doctor says" in page


def test_what_a_run_lacks_is_said(damaged, tmp_path):
    folder = damaged(GAPS["damaged figures"])
    GAPS["no checkpoint"](folder)
    page = comparison.write([folder], tmp_path / "report.html").read_text()
    assert "holds no figures of taming evaluate" in page
    assert "has no checkpoints/last.ckpt" in page


@pytest.mark.parametrize("gap", GAPS)
def test_the_doctor_of_a_damaged_run_has_one_line_or_a_diagnosis(damaged, gap):
    try:
        diagnoses = doctor.examine(damaged(GAPS[gap]))
    except UserError as error:
        assert "\n" not in str(error) and "copy" in str(error)
    else:
        assert "checkpoint" not in gap and ("NaN" not in gap or diagnoses)


@pytest.mark.parametrize("verb", ["report", "doctor"])
@pytest.mark.parametrize("kind", ["nothing", "a file", "an empty folder", "garbage"])
def test_what_is_no_run_is_one_line(damaged, tmp_path, capsys, verb, kind):
    target = tmp_path / "target"
    if kind == "a file":
        target.write_text("no run")
    elif kind == "an empty folder":
        target.mkdir()
    elif kind == "garbage":
        target = damaged(_writing("metrics.csv", b"batch,name,value\nno row\n"))
    out = ["-o", str(tmp_path / "r.html")] if verb == "report" else []
    assert main([verb, str(target), *out]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_plots_do_not_go_into_a_run(first_stage):
    with pytest.raises(UserError, match="the plots would go into the run"):
        comparison.write([first_stage], first_stage.with_suffix(".html"))


# processes


@pytest.mark.parametrize("world", ["x", "-1", "0", "2.5"])
def test_a_number_of_processes_that_is_none_is_one_line(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=f"WORLD_SIZE={world} in the environment should be"):
        join_processes()


def test_processes_that_can_not_meet_are_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="can't meet .*start them with torchrun"):
        join_processes()


@pytest.mark.slow
def test_one_process_that_stops_stops_the_other_with_one_line(folders, tmp_path):
    """The first finds a full disk; the second waits for its rows."""
    real, fake = folders
    code = (
        "import sys; from taming.cli.main import main; from taming.evaluation import rows;"
        "from taming.errors import UserError;"
        "rows._reserve = lambda *_: (_ for _ in ()).throw(UserError('no room'));"
        "sys.exit(main(sys.argv[1:]))"
    )
    torch.save(_vgg_like(), tmp_path / "vgg.pth")
    words = ["evaluate", "--data", real, "--samples", fake, "-o", str(tmp_path / "f.json")]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29547"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words, "--features", f"{tmp_path / 'vgg.pth'}@1"],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert "taming: no room" in errors[0]
    assert "taming: process 1: another process of this evaluation stopped" in errors[1]
    assert all("Traceback" not in error for error in errors), errors


def _vgg_like() -> dict[str, torch.Tensor]:
    """The first block of VGG16."""
    shapes = {"block1_conv1": (64, 3, 3, 3), "block1_conv2": (64, 64, 3, 3)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(shape), torch.zeros(shape[0])
    return state
