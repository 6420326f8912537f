"""Drawn landscapes: exact masks, functions of seed and index, alike at every size."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data import DrawnDepth, DrawnLandscapes, landscapes
from taming.data.painting import CLASSES, SCENES, draw
from taming.errors import UserError


def test_scenes_are_functions_of_seed_and_index():
    a, b = draw(3, 5, 48, 80), draw(3, 5, 48, 80)
    assert all(np.array_equal(x, y) for x, y in zip(a[:2], b[:2])) and a[2:] == b[2:]
    for other in (draw(3, 6, 48, 80), draw(4, 5, 48, 80)):
        assert not np.array_equal(other[0], a[0])


@pytest.mark.parametrize("size", [16, 64, [32, 100], [100, 32], "32x100"])
def test_any_size(size):
    item = DrawnLandscapes(size, 3)[1]
    expected = {16: (16, 16), 64: (64, 64), "32x100": (32, 100)}.get(str(size)) or size
    expected = (size, size) if isinstance(size, int) else expected
    assert tuple(item["segmentation"].shape) == tuple(item["image"].shape[1:]) == tuple(expected)
    assert item["image"].min() >= -1 and item["image"].max() <= 1 and item["caption"]


@pytest.mark.parametrize("size, count", [(15, 5), ([16, 8], 5), (16, 0), ([16], 5), ("16x", 5)])
def test_what_can_not_be_drawn_is_refused(size, count):
    with pytest.raises(UserError, match="size"):
        DrawnLandscapes(size, count)


def test_all_classes_and_scenes_occur_and_masks_follow_the_picture():
    items = [DrawnLandscapes(24, 40)[i] for i in range(40)]
    labels = torch.cat([item["segmentation"].unique() for item in items]).unique()
    assert len(labels) == len(CLASSES)
    assert {item["class"] for item in items} == set(range(len(SCENES)))
    # Colour explains the label: within a picture, pixels of one label vary less than all pixels
    within, total = 0.0, 0.0
    for item in items:
        image = item["image"].flatten(1)
        total += image.var(dim=1).sum()
        for label in item["segmentation"].unique():
            part = image[:, item["segmentation"].flatten() == label]
            within += part.var(dim=1, correction=0).sum() * part.shape[1] / image.shape[1]
    assert within < 0.5 * total


def test_a_scene_looks_alike_at_twice_the_size():
    small, large = (draw(0, 4, size, size)[0].astype(float) for size in (48, 96))
    other = draw(0, 5, 48, 48)[0].astype(float)
    half = Image.fromarray(large.astype(np.uint8)).resize((48, 48), Image.Resampling.BOX)
    assert np.abs(np.asarray(half) - small).mean() < 0.5 * np.abs(other - small).mean()


def test_a_scene_is_drawn_once_in_a_process(monkeypatch):
    calls = []
    monkeypatch.setattr(landscapes, "_CACHE", {})
    monkeypatch.setattr(landscapes, "draw", lambda *key: calls.append(key) or draw(*key))
    data = DrawnLandscapes(16, 3, seed=7)
    assert torch.equal(data[1]["image"], data[(1, 0)]["image"]) and calls == [(7, 1, 16, 16)]
    monkeypatch.setattr(landscapes, "CACHE_BYTES", 0)
    data[2], data[2]
    assert len(calls) == 3


def test_views_mirror_picture_and_mask_together():
    data = DrawnLandscapes(16, 1)
    first = data[0]
    mirrored = 0
    for view in range(1, 12):
        item = data[(0, view)]
        if not torch.equal(item["image"], first["image"]):
            mirrored += 1
            assert torch.equal(item["image"].flip(2), first["image"])
            assert torch.equal(item["segmentation"].flip(1), first["segmentation"])
    assert 0 < mirrored < 11


def test_depth_follows_the_scene():
    """The sky is farthest, the ground comes nearer towards the viewer, views are mirrored alike."""
    data = DrawnDepth(48, 12)
    for index in range(12):
        item = data[index]
        depth, mask = item["depth"][0], item["segmentation"]
        sky = mask == CLASSES.index("sky")
        assert (depth[sky] == 1).all() and depth.min() == -1
        assert depth[-1].mean() < depth[30].mean() < depth[0].mean()
        mirrored = data[(index, 3)]
        if not torch.equal(mirrored["image"], item["image"]):
            assert torch.equal(mirrored["depth"], item["depth"].flip(-1))
