"""Bad commands of every kind, for every verb: each is refused in one line with exit code 2, and no
file appears or changes.
"""

import os

import pytest

from taming.cli.main import main
from tests.robustness.conftest import state

SAMPLE = "sample free.safetensors -o out"
LAYOUTS = "sample layouts.safetensors --masks pairs/segmentations -o out"
CLASSES = "sample classes.safetensors --classes 1 -o out"
EVALUATE = "evaluate first.safetensors --data pairs/images -o figures.json"

# Numbers

NO_NUMBERS = ["x", "", "nan", "inf", "-inf", "1e999", "--", "1,5", "0x10", "[1]", "None", "1 2"]
NO_COUNTS = [*NO_NUMBERS, "0", "-1", "1.5", "99999999999999999999", "1e3"]
OUTSIDE = {
    f"{SAMPLE} -n": NO_COUNTS,
    f"{SAMPLE} --batch-size": NO_COUNTS,
    f"{SAMPLE} --top-k": NO_COUNTS,
    f"{SAMPLE} --hop": NO_COUNTS,
    f"{SAMPLE} --seed": [*NO_NUMBERS, "1.5", "1e3", "9" * 20, "-" + "9" * 20],
    f"{SAMPLE} --temperature": [*NO_NUMBERS, "-1", "-0.001"],
    f"{SAMPLE} --top-p": [*NO_NUMBERS, "0", "-1", "1.01", "100"],
    f"{SAMPLE} --min-p": [*NO_NUMBERS, "-1", "1.01", "100"],
    f"{SAMPLE} --guidance": NO_NUMBERS,
    f"{CLASSES} --classifier resnet18 --accept": [*NO_NUMBERS, "0", "-1", "2"],
    f"{SAMPLE} --size": [*NO_COUNTS, "0x0", "16x0", "x", "16x", "x16", "16x16x3", "-16x16",
                         "1.5x2", "1000000x1000000", "9999999x1"],
    f"{EVALUATE} --pictures": NO_COUNTS,
    f"{EVALUATE} --train-pictures": NO_COUNTS,
    f"{EVALUATE} --batch-size": NO_COUNTS,
    f"{EVALUATE} --size": [*NO_COUNTS, "0x0", "16x", "16x16x3"],
    f"{EVALUATE} --feature-size": [*NO_COUNTS, "0x0", "16x", "16x16x3"],
    f"{EVALUATE} --temperature": [*NO_NUMBERS, "-1"],
    f"{EVALUATE} --top-k": NO_COUNTS,
    f"{EVALUATE} --seed": [*NO_NUMBERS, "1.5"],
    "sample classes.safetensors -o out --classes": ["x", "", ",", "1,1", "-1", "3", "0,99", "1.5",
                                                    "nan", "9" * 30],
    "train -b first.yaml -n z --gpus": ["x", "1.5", "nan", "-1", "0,0", "9999"],
    "train -b first.yaml -n z -s": ["x", "", "1.5", "nan"],
}  # fmt: skip


@pytest.mark.parametrize(
    "words, value", [(words, value) for words, values in OUTSIDE.items() for value in values]
)
def test_numbers(refuses, words, value):
    *rest, flag = words.split()
    refuses(
        [*rest, f"{flag}={value}" if flag.startswith("--") else flag, *([value] * (flag[1] != "-"))]
    )


# Files of another kind where a path is expected

NOWHERE = ["nothing", "", "notes.txt/x", "a" * 300, "bad/dangling.png", "new\nline", "\0"]
CHECKPOINTS = [*NOWHERE, "notes.txt", "bad/folder", "pairs", "free.tamg", "pairs/images/p0.png",
               *(f"bad/{kind}.{ending}" for ending in ("ckpt", "safetensors")
                 for kind in ("empty", "text", "noise", "dangling")),
               "bad/cut.safetensors", "bad/renamed.safetensors"]  # fmt: skip
SECOND = [*CHECKPOINTS, "first.safetensors", "masks.safetensors"]
FOLDERS = [*NOWHERE, "notes.txt", "bad/folder", "first.safetensors"]
PICTURES = [*NOWHERE, "notes.txt", "bad/folder", "first.safetensors", "bad/empty.png",
            "bad/text.png", "bad/noise.png", "bad/cut.png", "bad/renamed.png"]  # fmt: skip
COMPRESSED = [*NOWHERE, "notes.txt", "pairs", "first.safetensors", "pairs/images/p0.png",
              "bad/empty.tamg", "bad/text.tamg", "bad/noise.tamg", "bad/cut.tamg"]  # fmt: skip
CONFIGS = [*NOWHERE, "bad/folder", "bad/empty.yaml", "bad/text.yaml", "bad/noise.yaml",
           "first.safetensors", "pairs/images/p0.png", "free.tamg"]  # fmt: skip
REFERENCES = [*NOWHERE, "notes.txt", "bad/folder", "first.safetensors", "bad/noise.npz",
              "bad/empty.npz", "bad/text.npz", "pairs/images/p0.png"]  # fmt: skip
FEATURES = [*NOWHERE, "notes.txt", "bad/folder", "nothing.pth", "nothing.safetensors@3",
            "inception:nothing.pth", "resnet18:nothing.pth", "resnet18:bad/folder"]  # fmt: skip
RUNS = [*NOWHERE, "notes.txt", "pairs", "bad/folder", "first.safetensors"]
PLACES = {
    "sample @ -o out": SECOND,
    "sample @ --masks pairs/segmentations -o out": SECOND,
    "sample layouts.safetensors -o out --masks @": [*FOLDERS, *PICTURES, "pairs/images/p0.png"],
    "sample free.safetensors -o out --known @ --known-mask top": PICTURES,
    "sample free.safetensors -o out --known pairs/images/p0.png --known-mask @": [
        *PICTURES, "top:2", "top:x", "top:nan", "left:-1", "up:0.5"],
    "sample --from-png @ -o out": [*PICTURES, "pairs/images/p0.png", "pairs/segmentations/p0.png"],
    "sample free.safetensors -o out --config @": CONFIGS,
    "reconstruct @ pairs/images -o out": CHECKPOINTS,
    "reconstruct first.safetensors @ -o out": FOLDERS,
    "reconstruct masks.safetensors @ -o out": [*FOLDERS, "pairs/images"],
    "encode @ pairs/images -o out.npz": CHECKPOINTS,
    "encode first.safetensors @ -o out.npz": FOLDERS,
    "compress @ pairs/images/p0.png -o out.tamg": SECOND,
    "compress free.safetensors @ -o out.tamg": PICTURES,
    "decompress @ free.tamg -o out.png": [*SECOND, "layouts.safetensors"],
    "decompress free.safetensors @ -o out.png": COMPRESSED,
    "inspect @": CHECKPOINTS,
    "convert @ out.safetensors": CHECKPOINTS,
    "convert @ out.yaml": ["first.yaml", "bad/text.yaml", "bad/noise.yaml", "bad/empty.yaml"],
    "export @ out": CHECKPOINTS,
    "evaluate @ --data pairs/images -o figures.json": CHECKPOINTS,
    "evaluate first.safetensors -o figures.json --data @": FOLDERS,
    "evaluate -o figures.json --data pairs/images --samples @": FOLDERS,
    **{
        f"evaluate {model} --data pairs/images --only codes -o figures.json {flag} @": values
        for model, flag, values in (
            ("first.safetensors", "--samples", FOLDERS[:-1]),
            ("first.safetensors", "--train", FOLDERS[:-1]),
            ("first.safetensors", "--segmenter", CHECKPOINTS),
            ("first.safetensors", "--config", CONFIGS),
            ("first.safetensors", "--reference", REFERENCES),
            ("free.safetensors", "--reference", REFERENCES),
            ("", "--samples pairs/images --reference", REFERENCES),
            ("", "--samples pairs/images --config", ["nothing", "first.yaml"]),
            ("first.safetensors", "--features", FEATURES),
        )
    },
    "report @ -o out.html": RUNS,
    "doctor @": RUNS,
    "train -r @": RUNS,
    "train -n z -b @": CONFIGS,
    "train -n z -b first.yaml --from @": CHECKPOINTS,
    "train -n @ -b first.yaml": ["", ".", "..", "/", "\0", "notes.txt/x/..", "a" * 300],
}  # fmt: skip


@pytest.mark.parametrize(
    "words, value", [(words, value) for words, values in PLACES.items() for value in values]
)
def test_paths(refuses, words, value):
    refuses([value if word == "@" else word for word in words.split()])


# Outputs

OUTPUTS = {
    "sample free.safetensors -o @": ["", "/dev/null", "notes.txt", "notes.txt/x", "a" * 300, "\0"],
    "reconstruct first.safetensors pairs/images -o @": [
        "", "/dev/null", "notes.txt", "notes.txt/x", "pairs/images", "pairs/images/x", "pairs",
        ".", "a" * 300],
    "encode first.safetensors pairs/images -o @": [
        "", "notes.txt", "notes.txt/x.npz", "pairs", ".", "first.safetensors", "pairs/images",
        "pairs/images/p0.png", "a" * 300, ".."],
    "compress free.safetensors pairs/images/p0.png -o @": [
        "", "notes.txt", "notes.txt/x", "pairs", "free.safetensors", "pairs/images/p0.png",
        "pairs/images/p1.png", "a" * 300],
    "decompress free.safetensors free.tamg -o @": [
        "", "notes.txt", "notes.txt/x", "pairs", "free.safetensors", "free.tamg", "a" * 300],
    "convert first.safetensors @": [
        "", "notes.txt", "out.ckpt", "notes.txt/x.safetensors", "first.safetensors", "pairs",
        "first.yaml", "a" * 300 + ".safetensors"],
    "export first.safetensors @": [
        "", "/dev/null", "notes.txt", "notes.txt/x", "first.safetensors", "a" * 300],
    "evaluate first.safetensors --data pairs/images -o @": [
        "", "notes.txt", "notes.txt/x.json", "out.txt", "pairs", "a" * 300 + ".json"],
    "evaluate first.safetensors --data pairs/images -o figures.json --store-reference @": [
        "", "notes.txt", "pairs", "first.safetensors", "pairs/images/p0.png"],
    "configs intel_vqgan_64 -o @": ["", "notes.txt", "notes.txt/x", "pairs", "first.yaml"],
}  # fmt: skip


@pytest.mark.parametrize(
    "words, value", [(words, value) for words, values in OUTPUTS.items() for value in values]
)
def test_outputs(refuses, words, value):
    refuses([value if word == "@" else word for word in words.split()])


DEVICES = ["evaluate first.safetensors --data pairs/images --only codes -o",
           "convert first.safetensors", "encode first.safetensors pairs/images -o",
           "compress free.safetensors pairs/images/p0.png -o",
           "decompress free.safetensors free.tamg -o"]  # fmt: skip


@pytest.mark.parametrize("words", DEVICES)
def test_devices_are_written_into(lab, monkeypatch, capsys, words):
    """And nothing appears beside them."""
    monkeypatch.chdir(lab)
    before, devices = state(lab), sorted(os.listdir("/dev"))
    assert main([*words.split(), "/dev/null"]) == 0, capsys.readouterr().err
    assert state(lab) == before and sorted(os.listdir("/dev")) == devices
    assert not os.path.isfile("/dev/null")


# Words that don't belong together, or are none

COMBINATIONS = [
    "", "smaple", "sample", "sample a b", "sample --from-png", "sample free.safetensors --bogus",
    "sample free.safetensors --from-png sample.png", "sample free.safetensors --animate 3",
    "sample free.safetensors --masks pairs/segmentations -o out",
    "sample free.safetensors --classes 1 -o out", "sample layouts.safetensors -o out",
    "sample layouts.safetensors --images pairs/images -o out",
    "sample layouts.safetensors --masks pairs/segmentations --classes 1 -o out",
    "sample classes.safetensors -o out", "sample free.safetensors --known pairs/images/p0.png",
    "sample free.safetensors --known-mask top", "sample free.safetensors --accept 0.5",
    "sample free.safetensors --accept 0.5 --classifier resnet18",
    "sample free.safetensors --classifier resnet18",
    "sample classes.safetensors --classes 1 --accept 0.5 --classifier bogus -o out",
    "sample classes.safetensors --classes 1 --accept 0.5 --classifier resnet18 --animate",
    "sample --from-png sample.png --seed 3", "sample --from-png sample.png --size 8x8",
    "sample --from-png sample.png -n 2", "sample --from-png sample.png --masks x",
    "sample layouts.safetensors --masks pairs/images -o out",
    "sample free.safetensors --known pairs/images/p0.png --known-mask top --size 8x8 -o out",
    "sample free.safetensors -o out --allow", "sample free.safetensors -o out --allow ../mine",
    "inspect first.safetensors --allow a..b", "decompress free.safetensors free.tamg -o out.jpg",
    "decompress free.safetensors free.tamg -o out", "reconstruct", "reconstruct first.safetensors",
    "reconstruct first.safetensors a b", "encode first.safetensors pairs/images", "compress",
    "compress free.safetensors", "compress free.safetensors a", "decompress free.safetensors",
    "compress layouts.safetensors pairs/images -o out.tamg", "inspect", "inspect a b",
    "inspect first.safetensors --config nope.yaml", "inspect first.safetensors --config first.yaml",
    "convert", "convert first.safetensors", "convert first.safetensors a b",
    "convert --config first.yaml", "export", "export first.safetensors", "evaluate",
    "evaluate --data pairs/images", "evaluate --samples pairs/images",
    "evaluate first.safetensors --only bogus", "evaluate first.safetensors --only=",
    "evaluate first.safetensors --only ,", "evaluate --data pairs/images --samples pairs/images "
    "--features bogus", "evaluate first.safetensors --data pairs/images --segmenter "
    "first.safetensors", "report", "report --out x.html", "report pairs -o x.pdf", "doctor",
    "train", "train -t False -b first.yaml", "train -t maybe -b first.yaml", "train --fitting",
    "train -b first.yaml --fitting", "train -b first.yaml --config first.yaml", "train -b",
    "train -r pairs --from first.safetensors", "train first.yaml", "train -b first.yaml --bogus",
    "train -b first.yaml bogus", "--base", "--base nope.yaml -t True", "-b first.yaml --gpus",
    "configs bogus", "configs -o x.yaml", "configs a b", "demo extra", "demo --qiuck",
]  # fmt: skip


@pytest.mark.parametrize("words", COMBINATIONS[1:])
def test_combinations(refuses, words):
    refuses(words.split())


# Keys of a configuration

KEYS = [
    "trainer.max_step=3", "trainer.max_steps=three", "trainer.max_steps=-1",
    "trainer.max_steps=nan",
    "trainer.max_steps=1.5", "trainer.max_steps=", "trainer.max_steps=[1]", "trainer=3", "model=3",
    "trainer.precision=16-mixed", "trainer.accelerator=tpu9", "trainer.devices=1000",
    "trainer.devices=0", "trainer.devices=-3", "trainer.threads=1000000", "trainer.threads=-1",
    "trainer.ema=1.5", "trainer.ema=nan", "trainer.ema=-1", "trainer.gradient_clip_val=-1",
    "trainer.accumulate_grad_batches=0", "trainer.validate_every=0", "trainer.log_every=-1",
    "data.batch_size=0", "data.batch_size=-1", "data.batch_size=x", "data.workers=-1",
    "data.workers=100000", "data.train=null", "data.train.params.size=0",
    "data.train.params.size=17",
    "data.train.params.size=[16]", "data.train.params.count=-1", "data.train.target=os.system",
    "data.train.target=taming.data.Drawn", "data.train.params.bogus=1", "data=bogus", "seed=x",
    "seed=1.5", "seed=[1]", "optimizer.learning_rate=nan", "optimizer.learning_rate=-1",
    "optimizer.learning_rate=fast", "optimizer.betas=[0.9]", "optimizer.betas=[0.9,2]",
    "optimizer.warmup=-30", "optimizer.weight_decay=-100", "optimizer.final=-1",
    "optimizer.bogus=1",
    "model.target=taming.first_stage.VQGAM", "model.target=subprocess.run", "model.target=3",
    "model.target=taming.cli.main.main", "model.target=", "model.params.channels=0",
    "model.params.channels=-8", "model.params.channels=nan", "model.params.channels=[8]",
    "model.params.multipliers=[]", "model.params.multipliers=5", "model.params.multipliers=[0,1]",
    "model.params.blocks=-1", "model.params.attention=[17]", "model.params.bogus=1",
    "model.params.quantizer=null", "model.params.quantizer=3", "model.params.dropout=2",
    "model.params.quantizer.params.num_codes=0", "model.params.quantizer.params.num_codes=-1",
    "model.params.quantizer.params.dim=0", "model.params.quantizer.params.restart=-1",
    "model.params.quantizer.params.bogus=1", "loss.params.adversarial=nan",
    "model.params.quantizer.target=taming.first_stage.VQGANLoss", "loss.params.bogus=1",
    "loss.params.adversarial_start=-1", "loss.params.perceptual=bogus", "loss=3", "loss.target=x",
    "logger.bogus=1", "noise=0.1", "condition_dropout=0.5", "a=[1", "a.b.c=1", "=1", "..=1",
    "model.params.channels=${nowhere}", "variables.bogus=1", "seed=${seed}", "allow=3",
]  # fmt: skip


@pytest.mark.parametrize("override", KEYS)
def test_keys(refuses, override):
    """A note may come first, on what a new class does not take over."""
    refuses(["train", "-b", "first.yaml", "-n", "z", override], notes=True)
