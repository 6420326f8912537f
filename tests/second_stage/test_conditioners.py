"""Conditions beyond masks and classes: edges, small pictures, style, text, two together."""

import pytest
import torch
import torch.nn.functional as F

from taming.data import DrawnLandscapes
from taming.data.captions import captions_of
from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import (
    GPT,
    ClassLabel,
    Edges,
    EncodedImage,
    LowResolution,
    SecondStage,
    Style,
    Text,
    Together,
    sample,
)
from taming.second_stage.filters import combined, guiding
from taming.second_stage.interface import Part
from taming.second_stage.sampling import Sampling
from taming.training.second_stage import drop_conditions


def tokenizer(channels: int = 3, key: str = "image", factor: int = 2) -> VQGAN:
    multipliers = [1] * (1 + factor // 2)
    quantizer = VectorQuantizer(num_codes=16, dim=4)
    return VQGAN(8, multipliers, quantizer, 1, latent_channels=8, in_channels=channels, key=key)


def second(conditioner, **changes) -> SecondStage:
    model = SecondStage(tokenizer(), conditioner, GPT(1, 2, 16), size=16)
    model.condition_dropout = 0.1
    return model.eval()


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    scenes = DrawnLandscapes(size, count)
    return torch.stack([scenes[i]["image"] for i in range(count)])


CONDITIONERS = {
    "edges": lambda: Edges(tokenizer(1, "edges")),
    "low resolution": lambda: LowResolution(tokenizer(), 2),
    "low resolution, enlarged": lambda: LowResolution(tokenizer(), 4, enlarge=True),
    "style": lambda: Style(tokenizer(), 8),
    "together": lambda: Together(Edges(tokenizer(1, "edges")), ClassLabel(3)),
}


@pytest.mark.parametrize("name", CONDITIONERS)
def test_a_condition_has_the_shape_that_it_declares(name):
    conditioner = CONDITIONERS[name]()
    batch = {"image": images(), "class": torch.tensor([0, 2])}
    condition = conditioner(batch)
    assert tuple(part.shape for part in condition) == conditioner.parts((16, 16))
    assert len(conditioner.groups) == len(condition)
    assert conditioner.picture(batch) is not None


@pytest.mark.parametrize("name", CONDITIONERS)
@pytest.mark.parametrize("size", [(16, 16), (14, 10), (24, 40)])
def test_pictures_of_any_size_are_drawn(name, size):
    model = second(CONDITIONERS[name]())
    batch = {"class": torch.tensor([1])}
    image = F.interpolate(images(1), size)
    factor = {"low resolution": 2, "low resolution, enlarged": 4}.get(name)
    if factor:
        if size[0] % factor or size[1] % factor:
            with pytest.raises(UserError, match="divisible"):
                model.sample({"image": image})
            image = F.interpolate(image, [side - side % factor for side in size])
        batch["low_resolution"] = F.avg_pool2d(image, factor)
    else:
        batch["image"] = image
    drawn = model.sample(batch, size=None if name != "style" else size)
    assert drawn.shape[-2:] == image.shape[-2:]


def test_edges_that_are_there_are_not_computed():
    conditioner, image = Edges(tokenizer(1, "edges")), images()
    computed = conditioner({"image": image})[0].tokens
    drawn = conditioner.complete({"image": image})["edges"]
    assert torch.equal(conditioner({"edges": drawn, "image": -image})[0].tokens, computed)


def test_a_style_does_not_know_the_layout():
    """Codes moved to other places are the same style."""
    conditioner = Style(tokenizer(), 8)
    first = conditioner.first_stage
    codes = torch.randint(16, (1, 4, 4))
    first.encode = lambda image: (codes,)
    tokens = conditioner({"image": images(1)})[0].tokens
    codes = codes.flip(-1).transpose(1, 2)
    assert torch.equal(conditioner({"image": images(1)})[0].tokens, tokens)


def test_a_style_of_a_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError):
        Style(tokenizer(), 7)


@pytest.fixture(scope="module")
def text() -> Text:
    pytest.importorskip("tokenizers")
    conditioner = Text(length=12, vocabulary=300)
    conditioner.prepare(lambda: captions_of(DrawnLandscapes(16, 40)))
    return conditioner


def decoded(conditioner: Text, tokens: torch.Tensor) -> str:
    """By the definition of byte pairs, without the library."""
    words = [b"", *(bytes([byte]) for byte in range(256))]
    for one, other in conditioner.pairs.tolist():
        words.append(words[one] + words[other] if one > 0 else b"")
    return b"".join(words[token] for token in tokens.tolist()).decode()


@pytest.mark.parametrize("words", ["a lake below mountains", "A  Lake\nat dusk", "ein Größe 湖 🏔"])
def test_tokens_stand_for_the_text(text, words):
    text = Text(length=64, vocabulary=300) if "湖" in words else text
    tokens = text({"caption": [words]})[0].tokens[0]
    assert decoded(text, tokens).strip() == " ".join(words.lower().split())


def test_frequent_words_are_few_tokens(text):
    tokens = text({"caption": ["at noon", "zqxjk v"]})[0].tokens
    counts = (tokens > 0).sum(1)
    assert counts[0] < 5 and counts[1] >= 7


def test_a_vocabulary_is_kept_by_a_checkpoint(text):
    other = Text(length=12, vocabulary=300)
    before = other({"caption": "a lake"})[0].tokens
    other.load_state_dict(text.state_dict())
    after = other({"caption": "a lake"})[0].tokens
    assert torch.equal(after, text({"caption": "a lake"})[0].tokens)
    assert not torch.equal(after, before)
    other.prepare(lambda: pytest.fail("it has learned already"))


@pytest.mark.parametrize(
    "batch, words",
    [
        ({"caption": ["a lake " * 40]}, "has .* tokens, but this prior knows 12"),
        ({"caption": [" \n"]}, "not empty"),
        ({"caption": [3]}, "should be a text"),
        ({"caption": []}, "should be texts"),
        ({"image": 1}, "conditioned on 'caption', but the batch has image"),
    ],
)
def test_texts_that_cannot_be_read(text, batch, words):
    with pytest.raises(UserError, match=words):
        text(batch)


def test_long_captions_of_large_sets_are_cut():
    pytest.importorskip("tokenizers")
    tokens = Text(length=4, vocabulary=257, longer="cut")({"caption": "a long text"})[0].tokens
    assert tokens.shape == (1, 4) and bool((tokens > 0).all())


def test_two_conditions_and_either_alone():
    both = Together(EncodedImage(tokenizer(key="image")), ClassLabel(3))
    batch = {"image": images(), "class": torch.tensor([0, 2])}
    condition = both(batch)
    assert [part.group for part in condition] == [0, 1]
    alone = both({"class": batch["class"], "size": (16, 16)})
    assert torch.equal(alone[0].tokens, condition[0].null().tokens)
    assert torch.equal(alone[1].tokens, condition[1].tokens)
    alone = both({"image": batch["image"]})
    assert torch.equal(alone[1].tokens, condition[1].null().tokens)
    with pytest.raises(UserError, match="conditioned on image and class, but the batch has depth"):
        both({"depth": 1})
    with pytest.raises(UserError, match="so is the size"):
        both({"class": batch["class"]})


def test_one_entry_is_no_two_conditions():
    with pytest.raises(UserError, match="two entries"):
        Together(ClassLabel(3), ClassLabel(4))


def test_either_condition_is_enough_to_draw():
    model = second(Together(EncodedImage(tokenizer(key="image")), ClassLabel(3)))
    assert model.sample({"class": torch.tensor([1])}, size=(8, 12)).shape == (1, 3, 8, 12)
    assert model.sample({"image": images(1)}).shape == (1, 3, 16, 16)


def test_two_strengths_are_what_the_paper_says():
    first, other = (Part(torch.tensor([[n]]), 5, group=n) for n in (0, 1))
    sampling = Sampling(guidance=2.0, guidance_second=3.0)
    joined = guiding((first, other), sampling)
    assert joined[0].tokens.flatten().tolist() == [0, 0, 5]  # both, first alone, nothing
    assert joined[1].tokens.flatten().tolist() == [1, 5, 5]
    logits = torch.tensor([[7.0], [3.0], [1.0]])
    assert combined(logits, sampling).item() == 1 + 2 * (3 - 1) + 3 * (7 - 3)


def test_one_strength_for_both_is_guidance_as_ever():
    model = second(Together(EncodedImage(tokenizer(key="image")), ClassLabel(3)))
    condition = model.conditioner({"image": images(), "class": torch.tensor([0, 2])})
    grid = (4, 4)
    one = sample(model.prior, condition, grid, guidance=2.5)
    two = sample(model.prior, condition, grid, guidance=2.5, guidance_second=2.5)
    assert torch.equal(one, two)
    other = sample(model.prior, condition, grid, guidance=2.5, guidance_second=-4.0)
    assert not torch.equal(one, other)


def test_a_second_strength_needs_a_second_condition():
    with pytest.raises(UserError, match="has one; leave it out"):
        second(ClassLabel(3)).sample({"class": torch.tensor([0])}, guidance_second=2.0)


def test_each_condition_is_dropped_alone_too():
    torch.manual_seed(0)
    parts = tuple(Part(torch.zeros(4000, 1).long(), 5, group=n) for n in (0, 1))
    first, other = (part.tokens[:, 0] == 5 for part in drop_conditions(parts, (0, 1), 0.2))
    both = float((first & other).double().mean())
    assert float(first.double().mean()) == pytest.approx(0.36, abs=0.03)
    assert float(other.double().mean()) == pytest.approx(0.36, abs=0.03)
    assert both == pytest.approx(0.2 + 0.8 * 0.04, abs=0.03)
    alone = drop_conditions(parts[:1], (0,), 0.2)[0].tokens == 5
    assert float(alone.double().mean()) == pytest.approx(0.2, abs=0.03)
