"""Discriminators beside the patches: on frozen features, and one that sorts pixels by labels."""

import pytest
import torch
import torch.nn.functional as F

from taming.errors import UserError
from taming.first_stage import (
    VQGAN,
    ProjectedDiscriminator,
    SegmentingDiscriminator,
    VectorQuantizer,
    VQGANLoss,
)
from taming.images import IGNORE
from tests.conftest import write_vgg


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return str(write_vgg(tmp_path_factory.mktemp("vgg") / "vgg.safetensors", blocks=3))


def test_only_the_heads_of_a_projected_discriminator_learn_and_are_saved(features):
    judge = ProjectedDiscriminator(features, width=8, blocks=3)
    learns = {name.split(".")[0] for name, p in judge.named_parameters() if p.requires_grad}
    assert learns == {"heads"}
    saved = {name.split(".")[0] for name in judge.state_dict()}
    assert saved == {"heads", "across_channels", "across_scales"}, "the frozen network is a file's"
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    assert judge(image).shape == (2, 3, 16, 16)


def test_every_block_and_every_pixel_reaches_the_finest_map(features):
    """Coarse features are mixed into the finer ones, so that each head sees all scales."""
    judge = ProjectedDiscriminator(features, width=8, blocks=3).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    moved = image.clone()
    moved[..., 0, 0] = -moved[..., 0, 0]
    finest, other = judge.mixed(image)[0], judge.mixed(moved)[0]
    changed = (finest - other).abs().amax(dim=1)[0] > 1e-6
    # Two 3x3 convolutions of the first block reach two pixels; the third block at a quarter of the
    # size, and its mixing upwards, many more
    assert changed[6:14, 6:14].any()


def test_frozen_features_are_of_like_size_in_all_blocks(features):
    judge = ProjectedDiscriminator(features, width=64, blocks=3)
    maps = judge.mixed(torch.rand(4, 3, 32, 32) * 2 - 1)
    sizes = [float(m.square().mean().sqrt()) for m in maps]
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.parametrize("kind", ["projected", "segmenting"])
def test_it_learns_to_tell_pictures_from_blurred_ones(kind, features):
    torch.manual_seed(0)
    if kind == "projected":
        judge = ProjectedDiscriminator(features, width=8, blocks=2)
    else:
        judge = SegmentingDiscriminator(2, width=8, layers=2)
    loss = VQGANLoss("none", discriminator=judge)
    optimizer = torch.optim.Adam([p for p in judge.parameters() if p.requires_grad], 3e-3)
    for _ in range(40):
        real = torch.rand(8, 3, 16, 16) * 2 - 1
        labels = torch.zeros(8, 16, 16, dtype=torch.int64)
        optimizer.zero_grad()
        loss.adversary(real, F.avg_pool2d(real, 3, 1, 1), labels)[0].backward()
        optimizer.step()
    real = torch.rand(8, 3, 16, 16) * 2 - 1
    assert judge(real).mean() > 0 > judge(F.avg_pool2d(real, 3, 1, 1)).mean()


def test_a_segmenting_discriminator_wants_the_labels_of_the_picture():
    """Its gradient moves a picture towards what the layout says: after learning that label 1 is
    bright, a grey pixel of label 1 should become brighter, one of label 0 darker.
    """
    torch.manual_seed(0)
    judge = SegmentingDiscriminator(2, in_channels=1, width=8, layers=2)
    loss = VQGANLoss("none", discriminator=judge)
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    for _ in range(60):
        labels = torch.randint(2, (4, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        real = (labels * 1.6 - 0.8)[:, None] + 0.1 * torch.randn(4, 1, 16, 16)
        fake = torch.rand(4, 1, 16, 16) * 0.6 - 0.3
        optimizer.zero_grad()
        loss.adversary(real, fake, labels)[0].backward()
        optimizer.step()
    labels = torch.arange(16).ge(8).long().expand(1, 16, 16).contiguous()
    grey = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge.generator_loss(grey, labels), grey)
    assert gradient[0, 0][labels[0] == 1].mean() < 0 < gradient[0, 0][labels[0] == 0].mean()


def test_pixels_without_a_label_do_not_count_and_rare_labels_count_as_much():
    judge = SegmentingDiscriminator(3)
    classes = torch.randn(1, 4, 2, 8)
    labels = torch.zeros(1, 2, 8, dtype=torch.int64)
    labels[0, 0, 0] = 1
    labels[0, 1] = IGNORE
    nll = -classes.log_softmax(dim=1)
    expected = (nll[0, 1, 0, 0] + nll[0, 0, 0, 1:].mean()) / 2
    assert torch.allclose(judge._sorted(classes, labels), expected, atol=1e-6)


def test_labels_reach_it_from_the_batch_in_training(tmp_path):
    from taming.training import run
    from tests.conftest import experiment_of, first_stage_plain

    plain = first_stage_plain(max_steps=2)
    plain["loss"]["params"] |= {
        "adversarial": 0.5,
        "adversarial_start": 0,
        "discriminator": {
            "target": "taming.first_stage.SegmentingDiscriminator",
            "params": {"labels": 10, "width": 4, "layers": 2},
        },
    }
    run.train(experiment_of(plain), tmp_path / "run")
    assert "train/discriminator" in (tmp_path / "run/metrics.csv").read_text()


def test_moving_a_picture_away_from_its_labels_is_refused():
    with pytest.raises(UserError, match="translation would move pictures away"):
        VQGANLoss("none", augment=["translation"], discriminator=SegmentingDiscriminator(3))


def test_sides_and_labels_that_do_not_fit_are_one_line():
    judge = SegmentingDiscriminator(3, layers=3)
    with pytest.raises(UserError, match="multiples of 8, not 12x16"):
        judge(torch.rand(1, 3, 12, 16))
    with pytest.raises(UserError, match="labels: 3, but a picture has label 7"):
        judge.generator_loss(torch.rand(1, 3, 8, 8), torch.full((1, 8, 8), 7))


def test_the_decoder_reads_disturbed_codes_and_the_encoder_learns_as_before():
    torch.manual_seed(0)
    model = VQGAN(8, [1, 2], VectorQuantizer(16, 4), blocks=1, latent_channels=8)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    plain = model(image)
    same = model.perturbed_reconstruction(image, lambda codes: codes)
    assert torch.allclose(same.output, plain.output, atol=1e-6)
    other = model.perturbed_reconstruction(image, lambda codes: ((codes[0] + 1) % 16,))
    assert torch.equal(other.codes[0], plain.codes[0]), "what is counted as used is its own"
    expected = model.decode(((plain.codes[0] + 1) % 16,))
    assert torch.allclose(other.output, expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(other.output.sum(), model.encoder.conv_in.weight)
    assert gradient.abs().max() > 0
