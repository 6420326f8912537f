"""What a condition is worth."""

import pytest
import torch

from taming.data import DrawnLandscapes
from taming.data.batches import collate
from taming.evaluation.condition import OtherConditions, condition_of_item, nats_per_code
from taming.evaluation.likelihood import measurer_of
from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import GPT, ClassLabel, LowResolution, SecondStage


def tokenizer() -> VQGAN:
    quantizer = VectorQuantizer(num_codes=16, dim=4)
    return VQGAN(8, [1, 2], quantizer, 1, latent_channels=8)


def test_each_picture_gets_the_condition_of_the_next():
    scenes = DrawnLandscapes(16, 3)
    others = OtherConditions(scenes, ClassLabel(6))
    for i in range(3):
        assert torch.equal(others[i]["image"], scenes[i]["image"])
        assert others[i]["class"] == scenes[(i + 1) % 3]["class"]


def test_a_condition_that_follows_from_the_picture_is_swapped_too():
    scenes = DrawnLandscapes(16, 3)
    conditioner = LowResolution(tokenizer(), 2)
    others = OtherConditions(scenes, conditioner)
    small = torch.nn.functional.avg_pool2d(scenes[1]["image"], 2)
    assert torch.equal(others[0]["low_resolution"], small)
    assert torch.equal(others[0]["image"], scenes[0]["image"])
    assert condition_of_item(scenes[0], ClassLabel(6)) == {"class": scenes[0]["class"]}


def test_a_prior_that_learned_its_condition_gives_three_numbers():
    """Codes that are the class: with it certain, without it a coin, with another's wrong."""
    model = SecondStage(tokenizer(), ClassLabel(2), GPT(1, 2, 16), size=4)
    classes = torch.tensor([0, 1])
    codes = classes[:, None, None].expand(2, 2, 2).contiguous()
    model.first_stage.encode = lambda image: (codes,)
    optimizer = torch.optim.Adam(model.prior.parameters(), 3e-2)
    for step in range(150):
        condition = model.conditioner({"class": classes})
        condition = tuple(part.null() for part in condition) if step % 2 else condition
        optimizer.zero_grad()
        (-model.prior.log_prob(codes, condition).mean()).backward()
        optimizer.step()
    batch = collate([{"image": torch.zeros(3, 4, 4), "class": n} for n in (0, 1)])
    with torch.no_grad():
        true, without = (measurer_of(model.eval(), null)(batch) for null in (False, True))
        wrong = measurer_of(model)(batch | {"class": classes.flip(0)})
    numbers = [
        float(nats_per_code({k: v.numpy() for k, v in rows.items()}, 1).mean())
        for rows in (true, without, wrong)
    ]
    assert numbers[0] < 0.05
    assert numbers[1] == pytest.approx(torch.log(torch.tensor(2.0)).item() / 4, abs=0.06)
    assert numbers[2] > 4 * numbers[1]
