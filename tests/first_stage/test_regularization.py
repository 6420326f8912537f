import pytest
import torch
from torch import nn

from taming.first_stage import PatchDiscriminator, VQGANLoss
from taming.first_stage.regularization import AUGMENTATIONS, LeCAM, augmented, gradient_penalty


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w everywhere."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image):
        return (image * self.weight).sum(dim=(1, 2, 3))


def test_the_gradient_penalty_of_a_linear_discriminator_is_half_its_squared_norm():
    linear = Linear(torch.randn(3, 4, 5))
    penalty = gradient_penalty(linear, torch.rand(6, 3, 4, 5))
    assert penalty.item() == pytest.approx(linear.weight.square().sum().item() / 2, rel=1e-5)
    penalty.backward()
    assert torch.allclose(linear.weight.grad, linear.weight, rtol=1e-4)


def test_the_penalty_reaches_every_kind_of_discriminator_and_no_picture():
    image = torch.rand(2, 3, 24, 24)
    for normalization in ("batch", "act", "group"):
        loss = VQGANLoss(
            "none",
            penalty=2.0,
            discriminator=PatchDiscriminator(width=4, layers=2, normalization=normalization),
        )
        loss.adversary(image, torch.rand_like(image))[0].backward()
        assert all(p.grad.isfinite().all() for p in loss.discriminator.parameters())
        assert image.grad is None


def test_lecam_pulls_real_logits_to_the_mean_of_fakes_and_fakes_to_that_of_reals():
    lecam = LeCAM().train()
    for _ in range(600):
        lecam(torch.full((4,), 2.0), torch.full((4,), -1.0))
    assert lecam.real_mean == pytest.approx(2, abs=0.02)
    assert lecam.fake_mean == pytest.approx(-1, abs=0.02)
    lecam.eval()
    assert float(lecam(torch.tensor([-1.0]), torch.tensor([2.0]))) == pytest.approx(0, abs=1e-2)
    real = torch.tensor([2.0], requires_grad=True)
    lecam(real, torch.tensor([2.0])).backward()
    assert real.grad > 0


def test_its_means_are_saved_with_the_loss_and_only_where_it_is_used():
    assert "lecam.real_mean" in VQGANLoss("none", lecam=0.1).state_dict()
    assert not any("lecam" in name for name in VQGANLoss("none").state_dict())


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_an_augmentation_changes_each_picture_in_its_own_way_and_passes_the_gradient(kind):
    torch.manual_seed(1)
    image = (torch.rand(1, 3, 32, 24) * 2 - 1).expand(6, -1, -1, -1).clone().requires_grad_()
    changed = augmented(image, [kind])
    assert changed.shape == image.shape
    assert not torch.equal(changed[0], changed[1])
    gradient = torch.autograd.grad(changed.square().sum(), image)[0]
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    if kind != "colour":  # what is not cut off or covered is as it was
        values = image.detach().flatten().tolist()
        assert set(changed.detach().flatten().tolist()) <= {*values, 0.0, -0.0}


def test_without_augmentation_a_picture_stays_as_it_is():
    image = torch.rand(2, 3, 8, 8)
    assert augmented(image, []) is image


def test_groups_judge_a_picture_alone_and_batch_normalization_does_not():
    pictures = torch.rand(4, 3, 24, 24)
    for normalization, alone in (("group", True), ("batch", False)):
        torch.manual_seed(0)
        judge = PatchDiscriminator(width=8, layers=2, normalization=normalization).train()
        same = torch.allclose(judge(pictures)[:2], judge(pictures[:2]), atol=1e-5)
        assert same == alone
