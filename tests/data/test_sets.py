"""Published data sets by name, on fakes in their documented layouts (fakes.py)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from taming import config, data
from taming.data.batches import collate
from taming.data.checks import check_pictures
from taming.data.records import Object, box_rows
from taming.errors import UserError
from tests.data import fakes

VIEW = {"size": 16, "flip": True}


def node(name: str, root, **params):
    """As a configuration builds it."""
    params = {"root": str(root), "view": {"size": 16}, **params}
    return config.build({"target": f"taming.data.{name}", "params": params})


@pytest.mark.parametrize(
    "split, classes", [("train", [0, 0, 1, 1, 2, 2]), ("validation", [2, 1, 0])]
)
@pytest.mark.parametrize("make", [fakes.imagenet, fakes.imagenet_kit])
def test_imagenet_numbers_classes_alike_in_both_parts(tmp_path, make, split, classes):
    dataset = node("ImageNet", make(tmp_path), split=split)
    assert [dataset[i]["class"] for i in range(len(dataset))] == classes
    assert dataset.class_names[0] == ("tench" if make is fakes.imagenet else "n01440764")


def test_imagenet_in_class_folders_both(tmp_path):
    fakes.picture(tmp_path / "train" / "n01440764" / "a.JPEG")
    fakes.picture(tmp_path / "train" / "n02084071" / "b.JPEG")
    fakes.picture(tmp_path / "val" / "n02084071" / "c.JPEG")
    assert node("ImageNet", tmp_path, split="validation")[0]["class"] == 1


def test_a_flat_validation_folder_needs_its_ground_truth(tmp_path):
    fakes.imagenet(tmp_path)
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(UserError, match="ground_truth"):
        node("ImageNet", tmp_path, split="validation")


def test_ffhq_parts_are_those_of_its_readme(tmp_path):
    fakes.ffhq(tmp_path)
    assert [p.stem for p in node("FFHQ", tmp_path).paths] == ["00000", "00001"]
    assert [p.stem for p in node("FFHQ", tmp_path, split="validation").paths] == ["60000"]
    said = {"0": {"category": "validation"}, "1": {"category": "training"}}
    (tmp_path / "ffhq-dataset-v2.json").write_text(json.dumps(said))
    assert [p.stem for p in node("FFHQ", tmp_path, split="validation").paths] == ["00000", "60000"]


def test_celebahq_reads_the_arrays_of_its_tool(tmp_path):
    fakes.celebahq(tmp_path)
    train, validation = node("CelebAHQ", tmp_path), node("CelebAHQ", tmp_path, split="validation")
    assert (len(train), len(validation)) == (5, 1)
    array = np.load(tmp_path / "imgHQ00000.npy")[0]
    item = node("CelebAHQ", tmp_path, view={"size": 32})[0]
    assert torch.equal(item["image"], torch.from_numpy(array).float() / 127.5 - 1)


def test_celebamask_parts_become_labels_and_small_masks_are_enlarged(tmp_path):
    fakes.celebamask(tmp_path)
    dataset = node("CelebAMaskHQ", tmp_path, view={"size": 32})
    assert [p.stem for p in dataset.paths] == ["0", "1"]  # CelebA's 162,770 first are for training
    names = [dataset.classes[i] for i in dataset[0]["segmentation"][0].tolist()]
    # 16 columns twice: hair covers skin where both are
    assert names == ["hair"] * 12 + ["skin"] * 12 + ["background"] * 8


def test_a_mask_of_another_ratio_is_refused(tmp_path):
    fakes.ade20k(tmp_path)
    dataset = node("ADE20K", tmp_path)
    dataset[0]
    fakes.labels(dataset.records[1].mask, [0], (12, 10))
    with pytest.raises(UserError, match="is 12x10, but its picture .* is 24x20; make them equal"):
        dataset[1]


def test_ade20k_has_151_labels_and_scenes(tmp_path):
    dataset = node("ADE20K", fakes.ade20k(tmp_path), view={"size": [20, 24], "flip": False})
    item = dataset[0]
    assert sorted(item["segmentation"].unique().tolist()) == [0, 1, 150]
    assert dataset.classes[150] == "thing 150" and len(dataset.classes) == 151
    assert dataset.class_names[item["class"]] == "street"


def test_cityscapes_ids_become_train_ids(tmp_path):
    dataset = node("Cityscapes", fakes.cityscapes(tmp_path), view={"size": [20, 24]})
    stripes = [dataset.classes[i] for i in dataset[0]["segmentation"][0, ::6].tolist()]
    assert stripes == ["unlabelled", "road", "sky", "bicycle"]
    fakes.labels(dataset.records[0].mask, [99])
    with pytest.raises(UserError, match="holds 99, which are no labels"):
        dataset[0]


def test_lsun_categories_are_classes(tmp_path):
    dataset = node("LSUN", fakes.lsun(tmp_path), split="validation")
    assert [dataset[i]["class"] for i in range(2)] == [0, 1]
    assert dataset.class_names == ["bedroom", "tower"]


def test_an_lsun_database_is_refused_with_the_command_that_unpacks_it(tmp_path):
    (tmp_path / "bedroom_train_lmdb").mkdir()
    (tmp_path / "bedroom_train_lmdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(UserError, match="data.py export"):
        node("LSUN", tmp_path)


def test_sflckr_labels_are_not_shifted(tmp_path):
    fakes.sflckr(tmp_path)
    dataset = node("SFLCKR", tmp_path, list="sflckr_examples.txt", view={"size": [20, 24]})
    assert [path.stem for path in dataset.paths] == ["2_b"]
    stripes = [dataset.classes[i] for i in dataset[0]["segmentation"][0, ::8].tolist()]
    assert stripes == ["person", "sky-other", "wood"]


def test_drin_reads_depth_from_the_bytes_of_colours(tmp_path):
    dataset = node("DRIN", fakes.drin(tmp_path), classes=2, view={"size": [20, 24], "flip": False})
    assert len(dataset) == 4
    expected = torch.linspace(-1, 1, 24 * 20).reshape(1, 20, 24)
    assert torch.allclose(dataset[0]["depth"], expected, atol=1e-4)


def test_coco_reads_what_is_there(tmp_path):
    dataset = node("COCO", fakes.coco(tmp_path), view={"size": [20, 24], "flip": False}, objects=3)
    item = dataset[0]
    stripes = [dataset.classes[i] for i in item["segmentation"][0, ::8].tolist()]
    assert stripes == ["person", "wood", "unlabeled"]
    assert item["caption"] == "a dog, seen once"
    assert dataset.object_names == ["person", "dog"]
    # [x, y, w, h] in pixels -> class and relative sides; a crowd is a group
    expected = [[1, 6 / 24, 5 / 20, 18 / 24, 15 / 20, 0], [0, 0, 0, 1, 5 / 20, 1], [-1] * 6]
    assert torch.allclose(item["boxes"], torch.tensor(expected))
    assert item["crop"].tolist() == [0, 0, 1, 1]
    captions = {dataset[(0, view)]["caption"] for view in range(8)}
    assert captions == {"a dog, seen once", "a dog, seen twice"}


def test_coco_reads_only_what_is_wanted(tmp_path):
    fakes.coco(tmp_path)
    item = node("COCO", tmp_path, entries=["caption"])[0]
    assert item.keys() == {"image", "name", "caption"}
    (tmp_path / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(UserError, match="nothing for 'caption'"):
        node("COCO", tmp_path, split="validation", entries=["caption"])


def test_boxes_follow_crops_and_mirrors(tmp_path):
    """What a box and the crop say together is the same whatever the view."""
    dataset = node("COCO", fakes.coco(tmp_path), view={"size": 10, "scale": 1}, entries=["boxes"])
    picture = torch.from_numpy(np.array(Image.open(dataset.paths[0]))).permute(2, 0, 1)
    for view in range(6):
        item = dataset[(0, view)]
        dog = next(row for row in item["boxes"] if row[0] == 1)
        left, top, right, bottom = item["crop"].tolist()
        assert round((right - left) * 24) == 20 and round((bottom - top) * 20) == 20
        mirrored = bool(dog[1] != 6 / 24)
        assert dog[1] == pytest.approx(1 - 18 / 24 if mirrored else 6 / 24)
        whole = picture.flip(-1) if mirrored else picture
        part = whole[:, :, round(left * 24) : round(right * 24)].float() / 127.5 - 1
        small = torch.nn.functional.avg_pool2d(part[None], 2)[0]
        assert float((small - item["image"]).abs().mean()) < 0.35  # bicubic against a mean


def test_the_largest_objects_count(tmp_path):
    objects = [Object(i, 0, 0, side, side) for i, side in enumerate((0.1, 0.9, 0.5))]
    assert box_rows(objects, 2, False)[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: text[: len(text) // 2], "no complete JSON"),
        (lambda text: text.replace("[6, 5, 12, 10]", "[6, 5, 120, 10]"), "outside its picture"),
        (lambda text: text.replace("[6, 5, 12, 10]", "[6, 5]"), "lacks what its format has"),
        (lambda text: text.replace('"bbox"', '"box"'), "lacks what its format has"),
        (lambda text: "[]", "lacks what its format has"),
    ],
)
def test_damaged_annotations_are_one_line(tmp_path, change, words):
    fakes.coco(tmp_path)
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=words) as error:
        node("COCO", tmp_path)
    assert "\n" not in str(error.value)


def test_pictures_without_captions_are_counted(tmp_path):
    fakes.coco(tmp_path)
    fakes.picture(tmp_path / "train2017" / "000000000099.jpg")
    with pytest.raises(UserError, match="1 of 3 pictures have no caption"):
        node("COCO", tmp_path, entries=["caption"])


def test_open_images_modifiers_and_classes(tmp_path):
    fakes.openimages(tmp_path)
    dataset = node("OpenImages", tmp_path, objects=2)
    assert dataset.object_names == ["Tortoise", "Dog"]
    tortoise, dog = sorted(dataset[0]["boxes"].tolist())
    assert tortoise == [0, 0, 0, 0.5, 0.25, 8]
    assert dog == [1, 0.25, 0.5, 0.75, 1.0, 1 + 2]  # group, occluded
    fakes.text(tmp_path / "dogs.txt", "Dog")
    only = node("OpenImages", tmp_path, classes="dogs.txt", fewest=1)
    assert len(only) == 1 and only[0]["boxes"][0, 0] == 0
    fakes.text(tmp_path / "cats.txt", "Cat")
    with pytest.raises(UserError, match="names 'Cat', which is no class"):
        node("OpenImages", tmp_path, classes="cats.txt")


def test_faces_have_coordinates(tmp_path):
    fakes.celebahq(tmp_path / "celeba")
    fakes.ffhq(tmp_path / "ffhq")
    dataset = data.FacesHQ(str(tmp_path / "celeba"), str(tmp_path / "ffhq"), view=16)
    assert [dataset[i]["class"] for i in range(len(dataset))] == [0] * 5 + [1] * 2
    expected = torch.arange(256).reshape(1, 16, 16) / 256
    assert torch.allclose(dataset[0]["coordinates"], expected)


def test_a_crop_has_the_coordinates_of_the_whole():
    whole = data.DrawnLandscapes([16, 32], 4)
    dataset = data.CoordinateCrops(whole, 16)
    for view in range(4):
        item, source = dataset[(1, view)], whole[(1, view)]
        left = round(float(item["crop"][0]) * 32)
        assert torch.equal(item["image"], source["image"][:, :, left : left + 16])
        places = (torch.arange(16 * 32).reshape(1, 16, 32) / (16 * 32))[:, :, left : left + 16]
        assert torch.allclose(item["coordinates"], places)
    # Validation sees many places, each time the same: else a condition would be worth nothing there
    fixed = [dataset[index]["crop"].tolist() for index in range(4)]
    assert len({tuple(crop) for crop in fixed}) > 1
    assert fixed == [dataset[(index, None)]["crop"].tolist() for index in range(4)]


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.tsv", "metadata.parquet"])
def test_a_table_of_captions(tmp_path, table):
    fakes.captions(tmp_path)
    rows = (tmp_path / "metadata.csv").read_text()
    if table.endswith("tsv"):
        import csv
        import io

        lines = ["\t".join(row) for row in csv.reader(io.StringIO(rows))]
        (tmp_path / table).write_text("\n".join(lines))
    if table.endswith("parquet"):
        import csv
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        content = list(csv.DictReader(io.StringIO(rows)))
        pq.write_table(pa.Table.from_pylist(content), tmp_path / table)
    if table != "metadata.csv":
        (tmp_path / "metadata.csv").unlink()
    dataset = node("CaptionTable", tmp_path)
    assert [dataset[i]["caption"] for i in range(3)] == [
        "a lake, at noon",
        "the sea at dusk",
        "a desert",
    ]
    assert [dataset[i]["class"] for i in range(3)] == [1, 1, 0]
    assert {dataset[(0, view)]["caption"] for view in range(8)} == {"a lake, at noon", "a lake"}


@pytest.mark.parametrize(
    "row, words",
    [
        ("dune.jpg,,dry", "1 of 3 pictures lack a caption, the first is 'dune.jpg' in row 5"),
        ("moon.jpg,a moon,dry", "names 'moon.jpg', but there is no such picture"),
        (",a moon,dry", "the name of the picture is empty"),
        ("dune.jpg", "not as many columns"),
    ],
)
def test_a_table_with_a_hole_is_one_line(tmp_path, row, words):
    fakes.captions(tmp_path)
    file = tmp_path / "metadata.csv"
    file.write_text(file.read_text().replace("dune.jpg,a desert,dry", row))
    with pytest.raises(UserError, match=words):
        node("CaptionTable", tmp_path)


@pytest.mark.parametrize("parquet", [False, True])
def test_hugging_face_on_disk(tmp_path, parquet):
    root = fakes.hugging_face(tmp_path / "set", parquet)
    dataset = node("HFDataset", root)
    assert len(dataset) == 3 and dataset.class_names == ["cat", "dog"]
    items = [dataset[i] for i in range(3)]
    assert [item["class"] for item in items] == [0, 1, 0]
    assert [item["caption"] for item in items] == ["scene 0", "scene 1", "scene 0"]
    assert items[0]["image"].shape == (3, 16, 16)
    assert len(node("HFDataset", root, split="validation")) == 2


def test_a_state_that_names_files_elsewhere_is_refused(tmp_path):
    root = fakes.hugging_face(tmp_path / "set")
    (root / "train" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(UserError, match="lies elsewhere"):
        node("HFDataset", root)


def test_a_second_picture_is_cropped_like_the_first(tmp_path):
    fakes.paired(tmp_path)
    (tmp_path / "keypoints" / "a.png").unlink()
    Image.open(tmp_path / "images" / "a.jpg").save(tmp_path / "keypoints" / "a.png")
    dataset = node("PairedImages", tmp_path, key="keypoints")
    for view in (None, 0, 1, 2):
        item = dataset[(0, view)]
        assert torch.equal(item["image"], item["keypoints"])


def test_edges_lie_where_brightness_changes():
    from taming.data.edges import edges_of

    image = torch.full((1, 3, 12, 12), -1.0)
    image[..., 6:] = 1
    edges = edges_of(image)[0, 0]
    assert (edges[:, 5:7] == 1).sum() == 12 and (edges[:, :5] == -1).all()
    assert torch.equal(edges_of(image.transpose(2, 3))[0, 0], edges.T)
    assert (edges_of(torch.zeros(1, 3, 8, 8)) == -1).all()


SETS = {name: make for name, make in fakes.SETS.items() if name != "HFDataset"}


@pytest.mark.parametrize("name", SETS)
def test_items_make_batches_and_views_repeat(name, tmp_path, capsys):
    dataset = node(name, SETS[name](tmp_path))
    first, again = dataset[(0, 3)], dataset[(0, 3)]
    assert torch.equal(first["image"], again["image"])
    batch = collate([first, dataset[(len(dataset) - 1, 3)]])
    assert batch["image"].shape == (2, 3, 16, 16)
    assert all(path.is_file() for path in dataset.files(0))
    check_pictures({"data.train": dataset}, full=True)
    assert "skipped" not in capsys.readouterr().err


@pytest.mark.parametrize("name", fakes.SETS)
def test_another_folder_is_refused_in_one_line(name, tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError) as error:
            node(name, root)
        assert "\n" not in str(error.value) and str(root) in str(error.value)


@pytest.mark.parametrize("name", ["ADE20K", "Cityscapes", "SFLCKR", "DRIN", "COCO"])
def test_a_missing_map_is_named(name, tmp_path):
    dataset = node(name, SETS[name](tmp_path))
    record = dataset.records[0]
    (record.mask or record.depth).unlink()
    with pytest.raises(UserError, match="has no '.*'; add it"):
        node(name, tmp_path)
