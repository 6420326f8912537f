"""Pictures with depth maps."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data import DepthImages
from taming.data.depth import depth_size, normalise_depth, read_depth
from taming.data.reading import CorruptImage
from taming.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name in ("images", "depth"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (24, 20)).save(tmp_path / "images" / "a.png")
    ramp = np.tile(np.arange(24, dtype=np.uint16) * 1000, (20, 1))
    Image.fromarray(ramp).save(tmp_path / "depth" / "a.png")
    return tmp_path


def test_depth_is_cropped_with_the_picture_and_extends_over_all_of_the_range(root):
    data = DepthImages(str(root), {"size": 16, "flip": False})
    item = data[0]
    assert item["depth"].shape == (1, 16, 16) and data.check(0) is None
    assert item["depth"].min() == -1 and item["depth"].max() == 1
    assert (item["depth"].diff(dim=2) > 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, bool])
def test_arrays_and_pictures_are_the_same_depth(dtype, tmp_path):
    values = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    depth = read_depth(tmp_path / "a.npy")
    assert np.array_equal(np.asarray(depth), values.astype(np.float32))
    assert depth_size(tmp_path / "a.npy") == depth.size == (4, 3)


def test_a_flat_map_is_far_below():
    assert (normalise_depth(torch.full((1, 2, 2), 5.0)) == -1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_holes_are_filled_from_beside_and_counted(value, root, capsys):
    values = np.tile(np.arange(24.0), (20, 1))
    values[3, 4:6] = value
    (root / "depth" / "a.png").unlink()
    np.save(root / "depth" / "a.npy", values)
    depth = np.asarray(read_depth(root / "depth" / "a.npy"))
    assert depth[3, 4] in (3, 4) and depth[3, 5] in (5, 6)  # straight above, or beside
    assert np.isfinite(depth).all() and (depth[:3] == values[:3]).all()
    DepthImages(str(root), 16)[0]
    assert capsys.readouterr().err.count("a.npy': 2 holes are filled") == 1


def test_a_map_of_holes_is_refused(root):
    values = np.full((20, 24), np.nan)
    values[:9] = 1
    (root / "depth" / "a.png").unlink()
    np.save(root / "depth" / "a.npy", values)
    with pytest.raises(CorruptImage, match="a.npy' holds 264 values that are NaN or infinite"):
        DepthImages(str(root), 16)[0]


def saved(path, values):
    np.save(path, values, allow_pickle=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: saved(path, np.ones((20, 24, 3))),
        lambda path: saved(path, np.ones(5)),
        lambda path: saved(path, np.array(5.0)),
        lambda path: saved(path, np.ones((0, 24))),
        lambda path: saved(path, np.ones((20, 24), complex)),
        lambda path: saved(path, np.full((20, 24), "far")),
        lambda path: saved(path, np.full((20, 24), None)),
        lambda path: np.savez(open(path, "wb"), a=np.ones((20, 24))),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'descr'"),
        lambda path: path.write_text("1 2 3"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("nowhere.npy"),
    ],
)
def test_arrays_that_are_no_depth_map_are_one_line(write, tmp_path):
    write(tmp_path / "a.npy")
    with pytest.raises(CorruptImage, match="depth map '.*a.npy'") as raised:
        read_depth(tmp_path / "a.npy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_pictures_that_are_no_depth_map_are_one_line(mode, tmp_path):
    Image.new(mode, (24, 20)).save(tmp_path / "a.png")
    for read in (read_depth, depth_size):
        with pytest.raises(CorruptImage, match=f"has mode {mode}; one grey channel"):
            read(tmp_path / "a.png")


def test_another_size_is_seen_in_the_header(root):
    np.save(root / "depth" / "a.npy", np.ones((20, 20)))
    (root / "depth" / "a.png").unlink()
    data = DepthImages(str(root), 16)
    for look in (data.check, data.__getitem__):
        with pytest.raises(CorruptImage, match="a.npy' is 20x20, but its picture .* is 24x20"):
            look(0)
    (root / "depth" / "a.npy").unlink()
    with pytest.raises(CorruptImage, match="has no depth map"):  # lost during a run
        data.check(0)
    with pytest.raises(UserError, match="has no depth map"):
        DepthImages(str(root), 16)
