"""Tiny data sets in the layouts that the sets' own documentation describes; the readers cite it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (24, 20)) -> Path:
    """A random picture (width, height); folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RANDOM.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path, format="WEBP" if path.suffix == ".webp" else None)
    return path


def labels(path: Path, values: list[int], size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """A label map that holds these values, in vertical stripes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = [values[x * len(values) // size[0]] for x in range(size[0])]
    array = np.tile(np.array(row, np.uint8), (size[1], 1))
    Image.fromarray(array).save(path)
    return array


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


SYNSETS = ("n01440764", "n01443537", "n02084071")


def imagenet(root: Path) -> Path:
    """train/ in folders, val/ flat, with Kaggle's lists."""
    for synset in SYNSETS:
        for number in (1, 2):
            picture(root / "train" / synset / f"{synset}_{number}.JPEG")
    for number in (1, 2, 3):
        picture(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    rows = [f"ILSVRC2012_val_{i + 1:08d},{SYNSETS[2 - i]} 1 2 3 4 " for i in range(3)]
    text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    names = ("tench, Tinca tinca", "goldfish, Carassius auratus", "dog, domestic dog")
    text(root / "LOC_synset_mapping.txt", *(f"{s} {n}" for s, n in zip(SYNSETS, names)))
    return root


def imagenet_kit(root: Path) -> Path:
    """The same with the development kit in place of Kaggle's lists."""
    from scipy.io import savemat

    imagenet(root)
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        (root / name).unlink()
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    text(kit / "ILSVRC2012_validation_ground_truth.txt", "3", "1", "2")
    # IDs are not in alphabetical order
    rows = [(1, SYNSETS[1]), (2, SYNSETS[0]), (3, SYNSETS[2])]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kind)[:, None]})
    return root


def ffhq(root: Path) -> Path:
    for number in (0, 1, 60_000):
        folder = f"{number // 1000 * 1000:05d}"
        picture(root / "images1024x1024" / folder / f"{number:05d}.png", (32, 32))
    return root


def celebahq(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        array = RANDOM.integers(0, 255, (1, 3, 32, 32), dtype=np.uint8)
        np.save(root / f"imgHQ{number:05d}.npy", array)
    return root


def celebamask(root: Path) -> Path:
    """Masks half as large as their pictures, one file a part."""
    for number in (0, 1, 2):
        picture(root / "CelebA-HQ-img" / f"{number}.jpg", (32, 32))
        for part, column in (("skin", slice(4, 12)), ("hair", slice(0, 6))):
            array = np.zeros((16, 16, 3), np.uint8)
            array[:, column] = 255
            path = root / "CelebAMask-HQ-mask-anno" / "0" / f"{number:05d}_{part}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    lines = ["    idx\torig_idx\torig_file", *(f"{i} {i * 90_000} x.jpg" for i in range(3))]
    text(root / "CelebA-HQ-to-CelebA-mapping.txt", *lines)
    return root


def ade20k(root: Path) -> Path:
    for folder, stem in (("training", "ADE_train"), ("validation", "ADE_val")):
        for number in (1, 2):
            name = f"{stem}_{number:08d}"
            picture(root / "images" / folder / f"{name}.jpg")
            labels(root / "annotations" / folder / f"{name}.png", [0, 1, 150])
    rows = [f"{i}\t0.1\t10\t1\tthing {i}, other word" for i in range(1, 151)]
    text(root / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *rows)
    scenes = [f"ADE_{part}_{i:08d} {s}" for part in ("train", "val") for i, s in SCENES.items()]
    text(root / "sceneCategories.txt", *scenes)
    return root


SCENES = {1: "street", 2: "airport_terminal"}


def cityscapes(root: Path) -> Path:
    for part, city in (("train", "aachen"), ("val", "lindau")):
        name = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
        labels(root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png", [0, 7, 23, 33])
    return root


def lsun(root: Path) -> Path:
    for name in ("bedroom_train", "bedroom_val", "tower_train", "tower_val"):
        picture(root / name / "a" / "b" / "ab12.webp")
    return root


def sflckr(root: Path) -> Path:
    for number in (1, 2):
        name = f"countries/norway/{number}_b"
        picture(root / "sflckr_images" / f"{name}.jpg")
        labels(root / "sflckr_segmentations" / f"{name}.png", [0, 156, 181])
    text(root / "sflckr_examples.txt", "countries/norway/2_b.jpg")
    return root


def drin(root: Path) -> Path:
    """Depth as float32 in RGBA beside ImageNet."""
    imagenet(root)
    for folder in ("train", "val"):
        for path in sorted((root / folder).rglob("*.JPEG")):
            depth = np.linspace(5, 900, 24 * 20, dtype="<f4").reshape(20, 24)
            inside = path.relative_to(root).with_suffix(".png")
            out = root / "imagenet_depth" / inside
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(depth[..., None].view(np.uint8)).save(out)
    return root


def coco_boxes(images: list[str], size: tuple[int, int] = (24, 20)) -> dict:
    """instances_*.json: a dog and a crowd of people in each picture."""
    notes = []
    for number in range(len(images)):
        notes.append({"id": 10 * number, "image_id": number, "category_id": 18, "iscrowd": 0})
        notes[-1]["bbox"] = [6, 5, 12, 10]
        notes.append({"id": 10 * number + 1, "image_id": number, "category_id": 1, "iscrowd": 1})
        notes[-1]["bbox"] = [0, 0, 24, 5]
    entries = [
        {"id": i, "file_name": n, "width": size[0], "height": size[1]} for i, n in enumerate(images)
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    return {"images": entries, "annotations": notes, "categories": categories}


def coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        names = [f"{number:012d}.jpg" for number in (9, 25)]
        for name in names:
            picture(root / part / name)
            labels(root / "stuffthingmaps" / part / name.replace(".jpg", ".png"), [0, 181, 255])
        boxes = coco_boxes(names)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(boxes))
        words = [
            {"id": 2 * i + k, "image_id": i, "caption": f"a dog, seen {times} "}
            for i in range(2)
            for k, times in enumerate(("once", "twice"))
        ]
        captions = {"images": boxes["images"], "annotations": words}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(captions))
    return root


OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"
OPEN_IMAGES += ",IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"


def openimages(root: Path) -> Path:
    text(root / "class-descriptions-boxable.csv", "/m/011k07,Tortoise", "/m/0bt9lr,Dog")
    for part in ("train", "validation"):
        for name in ("000002b66c9c498e", "000002b97e5471a0"):
            picture(root / part / f"{name}.jpg")
        text(
            root / f"oidv6-{part}-annotations-bbox.csv",
            OPEN_IMAGES,
            "000002b66c9c498e,xclick,/m/0bt9lr,1,0.25,0.75,0.5,1.0,1,0,1,0,0",
            "000002b66c9c498e,xclick,/m/011k07,1,0.0,0.5,0.0,0.25,0,0,0,0,1",
            "ffff,xclick,/m/011k07,1,0.0,0.5,0.0,0.25,0,0,0,0,0",
        )
    return root


def captions(root: Path) -> Path:
    for name in ("lake.jpg", "sea.jpg", "dune.jpg"):
        picture(root / name)
    text(
        root / "metadata.csv",
        "file_name,text,label",
        'lake.jpg,"a lake, at noon",wet',
        "sea.jpg,the sea at dusk,wet",
        "lake.jpg,a lake,wet",
        "dune.jpg,a desert,dry",
    )
    return root


def hugging_face(root: Path, parquet: bool = False) -> Path:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def bytes_of(image: Image.Image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    def rows(count: int) -> dict:
        pixels = RANDOM.integers(0, 255, (count, 20, 24, 3), dtype=np.uint8)
        return {
            "image": [bytes_of(Image.fromarray(one)) for one in pixels],
            "label": [i % 2 for i in range(count)],
            "caption": [[f"scene {i}", "another"] for i in range(count)],
        }

    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    root.mkdir(parents=True)
    for part, counts in (("train", (2, 1)), ("validation", (2,))):
        folder = root / ("data" if parquet else part)
        folder.mkdir(exist_ok=True)
        for i, count in enumerate(counts):
            table = pa.table(rows(count))
            if parquet:
                said = {"huggingface": json.dumps({"info": {"features": features}})}
                name = f"{part}-{i:05d}-of-{len(counts):05d}.parquet"
                pq.write_table(table.replace_schema_metadata(said), folder / name)
                continue
            with pa.OSFile(str(folder / f"data-{i:05d}-of-{len(counts):05d}.arrow"), "wb") as file:
                with pa.ipc.new_stream(file, table.schema) as writer:
                    writer.write_table(table)
        if not parquet:
            names = [f"data-{i:05d}-of-{len(counts):05d}.arrow" for i in range(len(counts))]
            state = {"_data_files": [{"filename": name} for name in names]}
            (folder / "state.json").write_text(json.dumps(state))
            (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    if not parquet:
        (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    return root


def paired(root: Path, key: str = "keypoints") -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(root / "images" / name)
        picture(root / key / name.replace(".jpg", ".png"))
    return root


SETS = {
    "ImageNet": imagenet,
    "FFHQ": ffhq,
    "CelebAHQ": celebahq,
    "CelebAMaskHQ": celebamask,
    "ADE20K": ade20k,
    "COCO": coco,
    "OpenImages": openimages,
    "Cityscapes": cityscapes,
    "LSUN": lsun,
    "SFLCKR": sflckr,
    "DRIN": drin,
    "CaptionTable": captions,
    "HFDataset": hugging_face,
}
"""Class of taming.data -> what makes a folder of it."""
