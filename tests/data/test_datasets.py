import itertools
import time

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data import ClassFolders, DrawnLandscapes, ImageFolder, SegmentedImages
from taming.data.batches import EndlessBatches
from taming.data.landscapes import CLASSES, draw
from taming.errors import UserError
from taming.training.datamodule import DataModule
from tests.conftest import paint_pairs


def folder_of(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "red").save(tmp_path / name)
    return str(tmp_path)


def test_a_folder_is_read_with_its_subfolders_in_order(tmp_path):
    data = ImageFolder(folder_of(tmp_path, ["b.png", "x/a.jpg"]), 16)
    assert [data.name(i) for i in range(2)] == ["b", "a"] and data[0]["image"].shape == (3, 16, 16)
    assert torch.allclose(data[0]["image"][:, 0, 0], torch.tensor([1.0, -1, -1]))


def test_lists_name_paths_or_stems(tmp_path):
    root = folder_of(tmp_path, ["a.png", "b.jpg", "c.png"])
    (tmp_path / "l.txt").write_text("b\n\na.png\n")
    assert [p.name for p in ImageFolder(root, 16, list="l.txt").paths] == ["b.jpg", "a.png"]
    pairs = paint_pairs(tmp_path / "pairs", 2)
    (pairs / "l.txt").write_text("images/p1.png\np0\n")
    assert [p.name for p in SegmentedImages(str(pairs), 16, list="l.txt").paths] == [
        "p1.png",
        "p0.png",
    ]


def test_the_automatic_split_is_a_partition_and_stays(tmp_path):
    root = folder_of(tmp_path, [f"{i}.png" for i in range(20)])
    train, held = (ImageFolder(root, 16, split=[part, 0.2]) for part in ("train", "validation"))
    assert len(held) == 4 and not set(train.paths) & set(held.paths) and len(train) == 16
    assert held.paths == ImageFolder(root, 16, split=["validation", 0.2]).paths
    with pytest.raises(UserError, match="split"):
        ImageFolder(root, 16, split=["test", 0.2])


def test_pairs(tmp_path):
    data = SegmentedImages(str(paint_pairs(tmp_path / "p")), [16, 20])
    item = data[(0, 3)]
    assert (
        item["image"].shape == (3, 16, 20)
        and item["segmentation"].shape == (16, 20)
        and item["segmentation"].dtype == torch.int64
    )
    (tmp_path / "p" / "scenes.txt").write_text("p0\nelse\n")
    assert SegmentedImages(str(tmp_path / "p"), 16)[0]["class"] == 0


def test_photographs_load(shared):
    for name in ("intel_landscapes", "stanford_background"):
        data = SegmentedImages(str(shared / "data" / name), 64, list="validation.txt", flip=False)
        assert all(
            torch.isfinite(data[i]["image"]).all()
            and int(data[i]["segmentation"].max()) < len(data.classes)
            for i in range(0, len(data), 9)
        )


# Batches


def test_batches_go_on_where_they_stopped():
    whole = list(itertools.islice(EndlessBatches(7, 3, seed=5), 12))
    assert list(itertools.islice(EndlessBatches(7, 3, seed=5, start=5), 7)) == whole[5:]


def test_every_epoch_sees_every_picture_once_in_a_new_order():
    keys = [k for batch in itertools.islice(EndlessBatches(6, 3, seed=0), 4) for k in batch]
    assert sorted(keys[:6]) == [(i, 0) for i in range(6)] and sorted(keys[6:]) == [
        (i, 1) for i in range(6)
    ]
    assert [i for i, _ in keys[:6]] != [i for i, _ in keys[6:]]


def test_two_processes_share_the_batch_of_one():
    one = list(itertools.islice(EndlessBatches(10, 4, seed=1), 5))
    two = [
        list(itertools.islice(EndlessBatches(10, 2, seed=1, rank=r, world=2), 5)) for r in (0, 1)
    ]
    assert one == [a + b for a, b in zip(*two)]


def test_views_cycle():
    keys = [
        k for batch in itertools.islice(EndlessBatches(2, 2, seed=0, views=2), 4) for k in batch
    ]
    assert [v for _, v in keys] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_workers_change_nothing():
    data = DrawnLandscapes(16, 8)
    batches = [
        [
            b["image"]
            for b in itertools.islice(
                DataModule(data, None, 4, seed=2, workers=w).train_dataloader(), 3
            )
        ]
        for w in (0, 1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*batches))


def test_reading_batches_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    next(iter(DataModule(DrawnLandscapes(16, 4), None, 2, seed=0).train_dataloader()))
    assert torch.equal(torch.get_rng_state(), state)


# Drawn landscapes


def test_scenes_are_functions_of_seed_and_index():
    a, b = draw(3, 5, 48, 80), draw(3, 5, 48, 80)
    assert all(np.array_equal(x, y) for x, y in zip(a[:2], b[:2])) and a[2:] == b[2:]
    assert not np.array_equal(draw(3, 6, 48, 80)[0], a[0]) and not np.array_equal(
        draw(4, 5, 48, 80)[0], a[0]
    )


@pytest.mark.parametrize("size", [16, 64, [32, 100], [100, 32]])
def test_any_size(size):
    item = DrawnLandscapes(size, 3)[1]
    assert (
        item["segmentation"].shape
        == item["image"].shape[1:]
        == torch.Size([size, size] if isinstance(size, int) else size)
    )
    assert item["image"].min() >= -1 and item["image"].max() <= 1 and item["caption"]


def test_all_classes_and_scenes_occur_and_masks_follow_the_picture():
    data = DrawnLandscapes(48, 150)
    items = [data[i] for i in range(150)]
    seen = torch.cat([i["segmentation"].unique() for i in items]).unique()
    assert len(seen) == len(CLASSES) >= 8 and {i["class"] for i in items} == set(range(6))
    # Colour explains the label: within a picture, pixels of one label vary less than pixels at
    # large.
    within, total = 0.0, 0.0
    for item in items[:30]:
        image = item["image"].flatten(1)
        total += image.var(dim=1).sum()
        for label in item["segmentation"].unique():
            part = image[:, item["segmentation"].flatten() == label]
            within += part.var(dim=1, correction=0).sum() * part.shape[1] / image.shape[1]
    assert within < 0.5 * total


def test_a_scene_looks_alike_at_twice_the_size():
    small, large = draw(0, 4, 48, 48)[0], draw(0, 4, 96, 96)[0]
    reduced = np.asarray(Image.fromarray(large).resize((48, 48), Image.Resampling.BOX)).astype(
        float
    )
    assert (
        np.abs(reduced - small).mean()
        < 0.5 * np.abs(draw(0, 5, 48, 48)[0].astype(float) - small).mean()
    )


def test_drawing_is_fast_enough():
    """Twenty pictures a second and core, an order of magnitude above what a step of the demo's
    models reads on two cores.
    """
    data = DrawnLandscapes(64, 30)
    started = time.process_time()
    for i in range(20):
        data[i]
    assert time.process_time() - started < 1.0


def test_folders_are_classes(tmp_path):
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    dataset = ClassFolders(str(tmp_path), 16)
    assert {dataset.name(i): dataset[i]["class"] for i in range(3)} == {
        "1": 0,
        "0": 1,
        "2": 2,
    } and dataset[(0, 3)]["image"].shape == (3, 16, 16)
    Image.new("RGB", (20, 20)).save(tmp_path / "stray.png")
    with pytest.raises(UserError, match="no class's folder"):
        ClassFolders(str(tmp_path), 16)
