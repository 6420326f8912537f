"""Pixels without a label: the tokenizer sees nothing there, and nothing is learned from them."""

import pytest
import torch

from taming.evaluation.layout import confusions
from taming.first_stage import FSQ, MaskLoss, MaskVQGAN
from taming.first_stage.inputs import label_loss, one_hot
from taming.images import IGNORE


def labels(share=0.3):
    labels = torch.randint(3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    labels[:, : int(16 * share)] = IGNORE
    return labels


def tokenizer():
    torch.manual_seed(0)
    return MaskVQGAN(3, 8, [1, 2], FSQ([4, 4]), blocks=1, latent_channels=8).eval()


def test_the_tokenizer_reads_zeros_there():
    hot = one_hot(labels(), 3)
    assert hot.shape == (2, 3, 16, 16) and torch.equal(hot.sum(1), (labels() != IGNORE).long())
    model = tokenizer()
    assert model.encode(labels())[0].shape == (2, 8, 8)
    assert model(labels()).output.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("form", ["cross_entropy", "bce"])
def test_what_is_predicted_there_does_not_count(form):
    loss, model = MaskLoss(form), tokenizer()
    reconstruction = model(labels())
    before, _ = loss.reconstruction(labels(), reconstruction)
    reconstruction.output = reconstruction.output + 9 * (labels() == IGNORE)[:, None]
    after, _ = loss.reconstruction(labels(), reconstruction)
    assert torch.allclose(before, after)
    whole, _ = loss.reconstruction(labels(share=1), reconstruction)
    assert whole == 0


@pytest.mark.parametrize("form", ["cross_entropy", "bce"])
def test_with_every_pixel_known_it_is_the_plain_mean(form):
    logits = torch.randn(2, 3, 16, 16)
    known = labels(share=0)
    model = tokenizer()
    reconstruction = model(known)
    reconstruction.output = logits
    loss, _ = MaskLoss(form).reconstruction(known, reconstruction)
    functional = torch.nn.functional
    expected = functional.cross_entropy(logits, known)
    if form == "bce":
        expected = functional.binary_cross_entropy_with_logits(logits, one_hot(known, 3).float())
    assert torch.allclose(loss, expected)
    assert torch.allclose(label_loss(logits, known), functional.cross_entropy(logits, known))


def test_figures_leave_it_out():
    counts = confusions(labels(), torch.zeros(2, 16, 16, dtype=torch.int64), 3)
    assert counts.sum() == (labels() != IGNORE).sum()
