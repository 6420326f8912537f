"""Folders of samples: any size, restartable, shared out, repeatable from a PNG."""

import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from taming import config, images
from taming.cli.main import main
from taming.data.reading import read_image, to_tensor
from taming.errors import UserError
from taming.formats.content import Content
from taming.formats.load import load, read_checkpoint
from taming.formats.ours import save_safetensors
from taming.inference import memory, sample
from taming.inference.conditions import batch_of, conditions_of, files_of
from taming.inference.job import jobs_of
from taming.inference.record import read_record
from taming.second_stage import SecondStage
from taming.second_stage.rejection import class_score, mask_score, rejection_sample
from taming.second_stage.sampling import Sampling


def quantizer(codes):
    return {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": codes, "dim": 4},
    }


def plain(masks=True, classes=False):
    net = {"channels": 8, "blocks": 1, "latent_channels": 8}
    first = {
        "target": "taming.first_stage.VQGAN",
        "params": {**net, "multipliers": [1, 2], "quantizer": quantizer(16)},
    }
    stage = {
        "target": "taming.first_stage.MaskVQGAN",
        "params": {**net, "labels": 3, "multipliers": [1, 1, 2], "quantizer": quantizer(8)},
    }
    conditioner, part = (
        {"target": "taming.second_stage.EncodedImage", "params": {"first_stage": stage}},
        {"vocabulary": 8, "grid": [4, 4]},
    )
    if classes:
        conditioner, part = (
            {"target": "taming.second_stage.ClassLabel", "params": {"classes": 3}},
            {"vocabulary": 3, "length": 1},
        )
    prior = {"num_codes": 16, "grid": [8, 8], "parts": [part], "layers": 1, "heads": 2, "width": 16}
    params = {
        "first_stage": first,
        "conditioner": conditioner,
        "prior": {"target": "taming.second_stage.GPT", "params": prior},
    }
    return {
        "model": {"target": "taming.second_stage.SecondStage", "params": params},
        "condition_dropout": 0.1,
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two models of random weights, three masks and a picture."""
    monkeypatch.chdir(tmp_path)
    for name, options in (("masks", {}), ("classes", {"classes": True})):
        experiment = config.from_plain(plain(**options))
        model = config.build(experiment.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        save_safetensors(
            f"{name}.safetensors",
            Content("second", config.to_plain(experiment), model.state_dict(), 0, {}),
        )
    os.mkdir("layouts")
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 3, (16, 16), dtype=np.uint8)).save(
            f"layouts/m{i}.png"
        )
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(
        "picture.png"
    )
    return tmp_path


def run(*arguments, out="out"):
    return main(["sample", *arguments, "-o", out])


def pixels(path):
    return np.array(Image.open(path))


def test_any_size_from_the_command_line(here):
    assert (
        run(
            "masks.safetensors",
            "--masks",
            "layouts/m0.png",
            "--size",
            "29x45",
            "--guidance",
            "2",
            "--top-p",
            "0.9",
            "--min-p",
            "0.01",
        )
        == 0
    )
    assert Image.open("out/m0-0.png").size == (45, 29)
    assert run("classes.safetensors", "--classes", "0,2", "--size", "7x5", out="small") == 0
    assert Image.open("small/class2-0.png").size == (5, 7)


def test_only_what_is_missing_is_drawn_again(here, capsys):
    arguments = ("masks.safetensors", "--masks", "layouts", "-n", "2", "--batch-size", "4")
    assert run(*arguments) == 0
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in here.glob("out/m*.png")}
    assert len(before) == 6
    os.remove("out/m1-0.png")
    assert run(*arguments) == 0
    assert "5 of 6 pictures are there already" in capsys.readouterr().err
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in here.glob("out/m*.png")}
    assert [name for name in before if before[name][1] != after[name][1]] == ["m1-0.png"]
    drawn = np.abs(
        pixels("out/m1-0.png").astype(int) - np.array(Image.open(io.BytesIO(before["m1-0.png"][0])))
    )
    # Alone in its batch now: the same codes, and pixels up to the last digit
    assert drawn.max() <= 1
    assert run(*arguments, "--seed", "1") == 2
    assert "drawn with seed 0 instead of 1" in capsys.readouterr().err
    assert run(*arguments, "--seed", "1", "--overwrite") == 0
    # More of the same keeps what is there
    assert run("masks.safetensors", "--masks", "layouts", "-n", "3", "--seed", "1") == 0
    assert "6 of 9 pictures are there already" in capsys.readouterr().err


def test_a_png_is_drawn_again_bitwise(here, capsys):
    assert (
        run(
            "masks.safetensors",
            "--masks",
            "layouts",
            "--batch-size",
            "2",
            "--temperature",
            "0.9",
            "--top-k",
            "5",
            "--seed",
            "3",
        )
        == 0
    )
    for name in ("m0-0", "m1-0", "m2-0"):
        assert run("--from-png", f"out/{name}.png", out="again") == 0
        assert np.array_equal(pixels(f"again/{name}.png"), pixels(f"out/{name}.png"))
        record = read_record(f"again/{name}.png")
        assert record.sampling == Sampling(seed=3, temperature=0.9, top_k=5)
    assert run("--from-png", "out/m0-0.png", out="out") == 2
    assert run("--from-png", "out/m0-0.png", "--seed", "4", out="third") == 2
    assert "only -o, --overwrite" in capsys.readouterr().err
    with open("masks.safetensors", "ab") as file:
        file.write(b" ")
    assert run("--from-png", "out/m0-0.png", out="third") == 2
    assert "not the file any more" in capsys.readouterr().err


def test_a_png_says_what_auto_meant_where_it_was_drawn(here, monkeypatch):
    """Else it would be drawn otherwise by a processor that auto means something else for."""
    monkeypatch.setattr("taming.precision.fast_bfloat16", lambda device: True)
    assert run("masks.safetensors", "--masks", "layouts/m0.png", "--precision", "auto") == 0
    assert read_record("out/m0-0.png").sampling.precision == "bf16-mixed"


def test_a_png_repeats_guided_known_and_odd_ones_and_notes_changed_files(here, capsys):
    known = ("--known", "picture.png", "--known-mask", "top")
    assert run("masks.safetensors", "--masks", "layouts/m0.png", "--guidance", "2", *known) == 0
    assert run("masks.safetensors", "--masks", "layouts", "--size", "13x19", out="odd") == 0
    assert run("classes.safetensors", "--classes", "0,2", "-n", "2", out="classes") == 0
    for name in ("out/m0-0", "odd/m1-0", "classes/class2-1"):
        assert run("--from-png", f"{name}.png", out="again") == 0
        assert np.array_equal(pixels(f"again/{name.split('/')[1]}.png"), pixels(f"{name}.png"))
        os.remove(f"again/{name.split('/')[1]}.png")
    # Not done: that one had a known part
    assert run("masks.safetensors", "--masks", "layouts/m0.png", "--guidance", "2") == 2
    Image.new("RGB", (16, 16)).save("picture.png")
    assert run("masks.safetensors", "--masks", "layouts/m0.png", "--guidance", "2", *known) == 2
    assert run("--from-png", "out/m0-0.png", out="again") == 2
    assert "picture.png' is not the file any more" in capsys.readouterr().err


def test_long_metadata_come_back(here):
    about = {"text": "".join(chr(65 + i % 26) for i in range(1_700_000))}
    images.save(torch.zeros(3, 4, 4), here / "long.png", about)
    assert images.read_metadata(here / "long.png") == about


@pytest.mark.parametrize("ranks", ["01", "10", "0110"])
def test_processes_share_the_pictures_out(here, monkeypatch, ranks):
    """Whenever each begins, whatever the other has drawn by then: all pictures, each once, and the
    sheet by whoever comes last.
    """
    names = []
    monkeypatch.setattr(
        sample.images,
        "save",
        lambda image, path, metadata=None, save=images.save: (
            names.append(path.name),
            save(image, path, metadata),
        ),
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ranks:
        monkeypatch.setenv("RANK", rank)
        assert run("masks.safetensors", "--masks", "layouts", "-n", "2") == 0
    assert sorted(set(names[:6])) == [f"m{i}-{k}.png" for i in range(3) for k in range(2)]
    assert set(names[6:]) == {"sheet.png"}


@pytest.mark.parametrize(
    "mask, part", [("top", np.s_[:8]), ("left:0.25", np.s_[:, :4]), ("file", np.s_[8:, 8:])]
)
def test_known_parts_stay(here, mask, part, monkeypatch):
    if mask == "file":
        drawn = np.zeros((16, 16), np.uint8)
        drawn[part] = 255
        Image.fromarray(drawn).save("keep.png")
        mask = "keep.png"
    decoded, decode = [], SecondStage.decode
    monkeypatch.setattr(
        SecondStage,
        "decode",
        lambda self, codes: (decoded.append(codes[0].clone()), decode(self, codes))[1],
    )
    known = ("--known", "picture.png", "--known-mask", mask)
    assert run("masks.safetensors", "--masks", "layouts/m0.png", *known) == 0
    assert (
        run("masks.safetensors", "--masks", "layouts/m0.png", "--seed", "1", *known, out="other")
        == 0
    )
    original = load("masks.safetensors").first_stage.encode(
        to_tensor(read_image(here / "picture.png"))[None]
    )[0]
    where = torch.zeros(16, 16, dtype=torch.bool)
    where[part] = True
    stays = where.view(8, 2, 8, 2).all(dim=3).all(dim=1)
    for codes in decoded:
        assert torch.equal(codes[0][stays], original[0][stays])
    assert not torch.equal(decoded[0][0][~stays], decoded[1][0][~stays])


def test_a_known_picture_of_another_size_is_refused(here, capsys):
    Image.new("RGB", (20, 16)).save("wide.png")
    Image.new("L", (16, 16)).save("keep.png")
    assert (
        run(
            "masks.safetensors",
            "--masks",
            "layouts",
            "--size",
            "16x16",
            "--known",
            "wide.png",
            "--known-mask",
            "top",
        )
        == 2
    )
    assert "16x20, but the picture to draw is 16x16" in capsys.readouterr().err
    assert (
        run(
            "masks.safetensors",
            "--masks",
            "layouts",
            "--known",
            "wide.png",
            "--known-mask",
            "keep.png",
        )
        == 2
    )
    assert "keep.png' is 16x16, but --known 'wide.png' is 20x16" in capsys.readouterr().err


def test_animation_grows_row_by_row(here):
    assert run("masks.safetensors", "--masks", "layouts/m0.png", "--animate") == 0
    film = Image.open("out/m0-0.gif")
    assert film.n_frames >= 8 and film.size == (16, 16)
    behind = images.to_pil(
        images.colour_labels(torch.from_numpy(pixels("layouts/m0.png")).long()[None], 3)[0]
    )
    first = np.array(film.convert("RGB"))
    # One row of codes, then the layout (a GIF's palette aside)
    assert np.abs(first[2:].astype(int) - np.array(behind)[2:]).mean() < 3
    os.remove("out/m0-0.gif")
    assert run(
        "masks.safetensors", "--masks", "layouts/m0.png", "--animate"
    ) == 0 and os.path.exists("out/m0-0.gif")
    assert (
        run(
            "masks.safetensors",
            "--masks",
            "layouts/m0.png",
            "--size",
            "13x19",
            "--animate",
            out="odd",
        )
        == 0
    )
    assert Image.open("odd/m0-0.gif").size == (19, 13)


def test_what_does_not_fit_into_memory_is_said_before(here, capsys, monkeypatch):
    monkeypatch.setattr(memory, "_free_memory", lambda: 1e9)
    assert run("masks.safetensors", "--masks", "layouts", "--size", "20000x20000") == 2
    assert "GB are free" in capsys.readouterr().err and not list(here.glob("out/*"))


def test_a_full_disk_leaves_whole_files(here, capsys, monkeypatch):
    save, count = Image.Image.save, []

    def full(self, path, *arguments, **options):
        count.append(path)
        if len(count) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    # Nothing but PNGs is saved here
    assert run("classes.safetensors", "--classes", "0", "-n", "4") == 2
    assert "No space left" in capsys.readouterr().err
    assert sorted(p.name for p in here.glob("out/*")) == ["class0-0.png", "class0-1.png"]
    monkeypatch.setattr(Image.Image, "save", save)
    assert run("classes.safetensors", "--classes", "0", "-n", "4") == 0
    assert "2 of 4 pictures are there already" in capsys.readouterr().err


def test_folders_and_classes_that_would_confuse_are_refused(here, capsys):
    for words, message in (
        (("masks.safetensors", "--masks", "."), "lies in '.'"),
        (("classes.safetensors", "--classes", "1,1"), "each class once"),
        (("classes.safetensors", "--classes", ","), "each class once"),
        (("classes.safetensors", "--classes", "1", "--temperature", "nan"), "temperature nan"),
        (("classes.safetensors", "--classes", "1", "--guidance", "nan"), "guidance nan"),
        (
            (
                "classes.safetensors",
                "--classes",
                "1",
                "--known",
                "picture.png",
                "--known-mask",
                "top:-0.5",
            ),
            "'-0.5' is not a share",
        ),
    ):
        assert run(*words) == 2
        assert message in capsys.readouterr().err


def test_unknown_classes_and_missing_guidance_are_refused(here, capsys):
    assert run("classes.safetensors", "--classes", "0,7") == 2
    assert "class 7" in capsys.readouterr().err
    content = read_checkpoint("classes.safetensors")
    content.config["condition_dropout"] = 0.0
    save_safetensors("no_dropout.safetensors", content)
    assert run("no_dropout.safetensors", "--classes", "0", "--guidance", "2") == 2
    assert "condition_dropout" in capsys.readouterr().err


def test_the_best_of_several_is_taken(here):
    model = load("classes.safetensors")
    batch, counts = {"class": torch.tensor([0, 2])}, []

    class Brightness(torch.nn.Module):
        """Class 2 is bright, class 0 dark."""

        def forward(self, pictures):
            bright = pictures.mean(dim=(1, 2, 3))
            counts.append(len(pictures))
            return torch.stack([-bright, torch.zeros_like(bright), bright], dim=1)

    best = rejection_sample(
        model, batch, class_score(Brightness(), batch["class"]), accept=0.25, seed=5
    )
    everything = torch.stack([model.sample(batch, seed=5, first=c << 32) for c in range(4)]).mean(
        dim=(2, 3, 4)
    )
    assert counts == [1] * 8
    assert torch.allclose(
        best.mean(dim=(1, 2, 3)),
        torch.stack([everything[:, 0].min(), everything[:, 1].max()]),
        atol=1e-6,
    )
    assert torch.equal(
        rejection_sample(
            model, batch, class_score(Brightness(), batch["class"]), accept=1.0, seed=5
        ),
        model.sample(batch, seed=5),
    )
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    first = mask_score(lambda pictures: pictures, labels)(
        torch.tensor([[[[1.0, 0], [1, 1]], [[0, 1], [0, 0]]]]), 0
    )
    assert torch.equal(first, torch.tensor([0.75]))


def test_arrays_are_listed_where_depth_maps_are_expected(tmp_path):
    for name in ("a.npy", "b.png"):
        (tmp_path / name).touch()
    assert [name for name, _ in files_of(str(tmp_path), (".png", ".npy"))] == ["a", "b"]
    assert [name for name, _ in files_of(str(tmp_path))] == ["b"]


def test_a_job_holds_the_file_of_a_layout_and_makes_its_labels_anew(here):
    """Layouts of a large folder would not fit into memory as tensors."""
    model, sampling = load("masks.safetensors"), Sampling(size=(64, 64))
    Image.fromarray(np.full((64, 64), 1, np.uint8)).save("flat.png")
    conditions = conditions_of(model, here / "out", sampling, "flat.png", None, None)
    (job,) = jobs_of(here / "out", conditions, 1)
    assert len(job.condition["segmentation"]) < 400
    batch = batch_of(model, job.condition, sampling)
    assert torch.equal(batch["segmentation"], torch.ones(1, 64, 64, dtype=torch.int64))


# Small sizes


@pytest.mark.parametrize("side", range(1, 9))
def test_any_size_holds_for_the_smallest_too(here, side):
    height, width = side, 9 - side
    out, size = f"out{side}", ("--size", f"{height}x{width}")
    assert run("masks.safetensors", "--masks", "layouts/m0.png", *size, out=out) == 0
    assert run("classes.safetensors", "--classes", "1", *size, out=out) == 0
    for name in ("m0-0", "class1-0"):
        assert Image.open(f"{out}/{name}.png").size == (width, height)


# Nothing that is there is lost


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "masks.safetensors --masks layouts -o layouts/drawn",
        "masks.safetensors --masks layouts -o layouts --overwrite",
        "classes.safetensors --classes 0 --known class0-0.png --known-mask top -o . --overwrite",
        "classes.safetensors --classes 0 --known picture.png --known-mask class0-0.png -o .",
        "classes.safetensors --classes 0 -o . --overwrite",
        "classes.safetensors --classes 0 -o picture.png",
        "classes.safetensors --classes 0 -o classes.safetensors",
        "classes.safetensors --classes 2 --animate -o .",
        "--from-png out/class1-0.png -o out --overwrite",
        "--from-png class0-0.png -o out",
    ],
)
def test_samples_never_take_the_place_of_other_files(here, capsys, words):
    Image.open("picture.png").save("class0-0.png")
    Image.open("picture.png").save("class2-0.gif")
    assert run("classes.safetensors", "--classes", "1") == 0
    before = contents(here)
    capsys.readouterr()
    assert main(["sample", *words.split()]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert contents(here) == before


@pytest.mark.parametrize("words", ["layouts -o .", "layouts/m0.png -o layouts --overwrite"])
def test_samples_may_lie_beside_what_they_are_drawn_from(here, words):
    before = contents(here)
    assert main(["sample", "masks.safetensors", "--masks", *words.split()]) == 0
    assert before.items() <= contents(here).items()


def test_a_users_contact_sheet_stays(here, capsys):
    """--overwrite is about samples."""
    os.mkdir("mine")
    Image.open("picture.png").save("mine/sheet.png")
    before = contents(here)
    assert run("classes.safetensors", "--classes", "1", out="mine") == 2
    assert "sheet.png" in capsys.readouterr().err and contents(here) == before
    assert run("classes.safetensors", "--classes", "1") == 0
    assert run("classes.safetensors", "--classes", "2") == 0  # our own sheet is drawn again


# The door for Python


@pytest.mark.parametrize(
    "options, word",
    [
        ({"samples": 0}, "0 samples"),
        ({"samples": 2**21}, "samples"),
        ({"samples": "many"}, "'many' samples"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 1.5}, "batch_size 1.5"),
        ({"classes": ["cat"]}, "'cat'"),
        ({"classes": [0, 0]}, "each class once"),
        ({"classes": []}, "each class once"),
        ({"known": ("picture.png", "middle")}, "known-mask"),
        ({"known": "picture.png"}, "say what of it stays"),
        ({"extend": "right:8"}, "needs --known"),
        ({"seam": -1}, "seam -1"),
        ({"size": (0, 4)}, "size"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"sampling": Sampling(top_k=0)}, "top_k"),
    ],
)
def test_wrong_arguments_in_python_are_refused(here, options, word):
    with pytest.raises(UserError, match=word):
        sample.sample("classes.safetensors", "out", **{"classes": [1], **options})
    assert not os.path.exists("out")


def test_paths_may_be_paths(here):
    known = (here / "picture.png", "top")
    sheet = sample.sample(here / "classes.safetensors", here / "out", classes=[1], known=known)
    assert sheet == here / "out" / "sheet.png" and sheet.is_file()


# torchrun's environment


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "x"},
        {"RANK": "9"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": "0"},
        {"LOCAL_RANK": "first"},
    ],
)
def test_an_environment_of_no_torchrun_is_refused(here, monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run("classes.safetensors", "--classes", "1") == 2
    error = capsys.readouterr().err
    assert any(f"{name}={value}" in error for name, value in variables.items()), error
    assert not os.path.exists("out")
