"""Fine-tuning: updates of low rank begin as nothing and end merged, frozen parts stay to the bit,
codes keep their meaning, label lists are matched by name, and training stops where nothing is
gained.
"""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from taming import config
from taming.cli.main import main
from taming.config.experiment import Tuning
from taming.data.card import Card
from taming.errors import UserError
from taming.first_stage import VQVAE, EMAQuantizer
from taming.formats.content import Content
from taming.formats.load import load, read_checkpoint
from taming.formats.ours import save_safetensors
from taming.training.fine_tune import request_of, with_labels
from taming.training.tuning import frozen_quantizers, has_updates, merged, tune
from tests.inference.test_sample import plain
from tests.training.conftest import at_batch

FEW = ["trainer.max_steps=2", "trainer.validate_every=1", "trainer.checkpoint_every=1"]
FEW += ["data.views=null", "data.batch_size=2", "trainer.ema=null"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return config.build(config.from_plain(plain()).model)


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    """A second stage for masks of three labels, and ten pictures with masks of four classes."""
    monkeypatch.chdir(tmp_path)
    experiment = config.from_plain(plain())
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    content = Content("second", config.to_plain(experiment), weights, 0, {})
    content.card = Card(("sky", "tree", "water"), size=(16, 16), data="noise")
    save_safetensors("small.safetensors", content)
    for folder in ("images", "segmentations"):
        (tmp_path / "my data" / folder).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(10):
        image, mask = draw.integers(0, 255, (20, 24, 3)), draw.integers(0, 4, (20, 24))
        name = f"p{number}.png"
        Image.fromarray(image.astype(np.uint8)).save(f"my data/images/{name}")
        Image.fromarray(mask.astype(np.uint8)).save(f"my data/segmentations/{name}")
    (tmp_path / "my data" / "classes.txt").write_text("tree\nsky\nWater\nroad\n")
    return tmp_path


def test_updates_begin_as_nothing_and_end_merged(model):
    codes, batch = torch.zeros(1, 8, 8, dtype=torch.int64), {"segmentation": torch.zeros(1, 16, 16)}
    batch["segmentation"] = batch["segmentation"].long()
    condition = model.conditioner(batch)
    before, names = model.prior(codes, condition), set(model.state_dict())
    tune(model, Tuning(lora=2))
    assert torch.equal(model.prior(codes, condition), before)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning and all(name.endswith((".down", ".up")) for name in learning)
    with torch.no_grad():
        for name in learning:
            model.get_parameter(name).add_(0.1)
    after = model.prior(codes, condition)
    assert not torch.allclose(after, before)
    state = model.state_dict()
    assert has_updates(state) and set(merged(state)) == names
    other = config.build(config.from_plain(plain()).model)
    other.load_state_dict(merged(state))
    assert torch.allclose(other.prior(codes, condition), after, atol=1e-5)


def test_parts_learn_and_the_rest_is_frozen(model):
    first = model.first_stage.requires_grad_(True)
    assert frozen_quantizers(first) == []
    tune(first, Tuning(parts=["decoder", "post_quant_conv"]))
    learning = {name.split(".")[0] for name, p in first.named_parameters() if p.requires_grad}
    assert learning == {"decoder", "post_quant_conv"}
    assert frozen_quantizers(first) == [first.quantizer]
    with pytest.raises(UserError, match="no 'decodr'; did you mean 'decoder'"):
        tune(first, Tuning(parts=["decodr"]))
    with pytest.raises(UserError, match="takes? a smaller rank"):
        tune(model, Tuning(lora=512))


def test_a_prior_goes_on_with_updates_and_resumes_exactly(here):
    words = ["train", "--from", "small.safetensors", "variables.root=my data"]
    words += ["variables.same={road: water}", *FEW, "tuning.lora=2"]
    assert main([*words, "-n", "a"]) == 0
    whole = read_checkpoint("runs/a/model.safetensors")
    before = read_checkpoint("small.safetensors")
    assert whole.weights.keys() == before.weights.keys() and whole.card.labels == before.card.labels
    assert "noise; then 9 pictures of SegmentedImages in a folder 'my data'" == whole.card.data
    for name, tensor in before.weights.items():
        moved = not torch.equal(whole.weights[name].float(), tensor.float())
        assert not moved or name.startswith("priors.") and name.endswith("weight"), name
    assert main([*words, "trainer.max_steps=1", "-n", "b"]) == 0
    assert main(["train", "-r", "runs/b/prior", "trainer.max_steps=2"]) == 0
    again, once = (read_checkpoint(f"runs/{name}/prior/checkpoints/last.ckpt") for name in "ba")
    assert all(torch.equal(again.weights[n], once.weights[n]) for n in once.weights)
    model = load("runs/a/model.safetensors")
    assert model.sample(np.zeros((16, 16), np.uint8)).shape == (1, 3, 16, 16)


def test_a_decoder_alone_keeps_the_codes(here):
    words = ["train", "--from", "small.safetensors", "variables.root=my data", "--decoder-only"]
    words += [*FEW, "variables.same={road: water}", "loss.params.perceptual=none", "-n", "d"]
    assert main(words) == 0
    before, after = load("small.safetensors"), load("runs/d/model.safetensors")
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(before.first_stage.encode(image)[0], after.first_stage.encode(image)[0])
    codes = before.first_stage.encode(image)
    assert not torch.allclose(before.first_stage.decode(codes), after.first_stage.decode(codes))
    states = before.priors.state_dict(), after.priors.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states)))


def test_new_labels_are_added_behind_the_others(here, capsys):
    words = ["train", "--from", "small.safetensors", "variables.root=my data", *FEW, "-n", "n"]
    assert main(words) == 0
    assert "new labels: road" in capsys.readouterr().err
    model = load("runs/n/model.safetensors")
    assert model.card.labels == ("sky", "tree", "water", "road")
    assert model.conditioner.labels == 4
    assert model.sample(np.full((16, 16), 3, np.uint8)).shape == (1, 3, 16, 16)


def test_a_wider_label_list_changes_nothing_for_the_old_ones(here):
    labels = torch.randint(3, (1, 16, 16))
    second = with_labels(read_checkpoint("small.safetensors"), ["sky", "tree", "water", "road"])
    save_safetensors("wide.safetensors", second)
    model, wider = load("small.safetensors"), load("wide.safetensors")
    codes, same = (one.conditioner.tokenizer.encode(labels)[0] for one in (model, wider))
    assert torch.equal(codes, same)


def as_it_is(tmp_path):
    """The same model reading masks without a tokenizer, as the shipped one does."""
    tree = plain()
    params = tree["model"]["params"]
    node = {"target": "taming.second_stage.LabelMap", "params": {"count": 3, "factor": 2}}
    params["conditioner"] = node
    prior = {"layers": 1, "heads": 2, "width": 16, "condition": "added"}
    params["prior"] = {"target": "taming.second_stage.GPT", "params": prior}
    params["size"] = 16
    torch.manual_seed(0)
    experiment = config.from_plain(tree)
    weights = config.build(experiment.model).state_dict()
    content = Content("second", config.to_plain(experiment), weights, 0, {})
    content.card = Card(("sky", "tree", "water"), size=(16, 16))
    save_safetensors("map.safetensors", content)
    return content


def test_a_prior_that_reads_labels_itself_learns_new_ones(here, capsys):
    before = as_it_is(here)
    name = "priors.0.added.map.tables.0.weight"
    words = ["train", "--from", "map.safetensors", "variables.root=my data", *FEW, "-n", "n"]
    assert main([*words, "tuning.lora=2"]) == 0
    assert "new labels: road" in capsys.readouterr().err
    after = read_checkpoint("runs/n/model.safetensors")
    table = after.weights[name].float()
    assert len(table) == len(before.weights[name]) + 1
    mean = before.weights[name][:3].mean(dim=0)
    assert not torch.allclose(table[3], mean, atol=1e-6)  # beside the updates, the new row learns
    model = load("runs/n/model.safetensors")
    assert model.card.labels == ("sky", "tree", "water", "road")
    assert model.sample(np.full((16, 16), 3, np.uint8)).shape == (1, 3, 16, 16)


def test_training_stops_where_nothing_is_gained(here, monkeypatch, capfd):
    monkeypatch.setattr(
        "taming.training.second_stage.SecondStageTraining.figures", lambda self, sums: {"nll": 1.0}
    )
    words = ["train", "--from", "small.safetensors", "variables.root=my data"]
    words += ["variables.same={road: water}", *FEW, "trainer.max_steps=9", "tuning.patience=2"]
    assert main([*words, "-n", "s"]) == 0
    assert "stopped at batch 3: no gain" in capfd.readouterr().err
    assert read_checkpoint("runs/s/prior/checkpoints/last.ckpt").batches == 3
    assert read_checkpoint("runs/s/model.safetensors").batches == 1


def test_the_same_command_resumes_what_was_interrupted(here, monkeypatch, capfd):
    words = ["train", "--from", "small.safetensors", "variables.root=my data", *FEW]
    words += ["variables.same={road: water}", "stages=masks,prior", "-n"]
    assert main([*words, "whole"]) == 0
    with monkeypatch.context() as patch:  # in the second stage; the first is not trained again
        at_batch(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert main([*words, "cut"]) == 130
    said = capfd.readouterr().err
    assert "runs/cut/prior/checkpoints/last.ckpt'. The same command resumes" in said
    assert main([*words, "cut"]) == 0
    whole, cut = (read_checkpoint(f"runs/{name}/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut.weights[name]) for name, tensor in whole.weights.items())
    assert not [*(here / "runs" / "cut").glob("before_*")]
    assert main([*words, "cut"]) == 2
    assert "holds a model already" in capfd.readouterr().err


def test_the_first_stage_in_a_second_stage_stands_for_one(here):
    first = load("small.safetensors", stage="first")
    assert type(first).__name__ == "VQGAN"
    for part, kind in (("pictures", "VQGAN"), ("masks", "MaskVQGAN")):
        node = {"checkpoint": "small.safetensors", "part": part}
        node = {"target": "taming.first_stage.pretrained", "params": node}
        assert type(config.build(node)).__name__ == kind


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "variables.root=DIR"),
        (["variables.root=x", "stages=prio"], "did you mean 'prior'"),
        (["variables.root=x", "variables.size=3"], "fine-tuning knows variables.root"),
    ],
)
def test_requests_that_say_too_little_are_one_line(words, message):
    with pytest.raises(UserError, match=message):
        request_of("small", "runs/x", words)


def test_what_can_not_be_tuned_is_one_line(here, capsys):
    (here / "bare pictures").mkdir()
    start = ["train", "--from", "small.safetensors"]
    for words, message in (
        ([*start, "variables.root=nowhere"], "no such folder"),
        (
            [*start, "variables.root=bare pictures"],
            "taming segment 'bare pictures/images' -o 'bare pictures/segmentations' --for small",
        ),
        (["train", "--decoder-only", "-b", "drawn_vqvae_32"], "give --from too"),
        (["train", "-b", "drawn_vqvae_32", "tuning.lora=2", "-n", "t"], "name one with --from"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_a_codebook_of_moving_averages_is_not_frozen_because_it_has_no_gradient():
    quantizer = EMAQuantizer(num_codes=8, dim=4, restart=0.1)
    first = VQVAE(8, 8, quantizer)
    assert frozen_quantizers(first) == []
    first.freeze_codes()
    assert frozen_quantizers(first) == [quantizer]
