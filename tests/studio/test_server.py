"""What a page asks for, over a real socket."""

import numpy as np

from taming.cli.main import main
from taming.images import read_metadata
from tests.studio.conftest import layout, one, pixels


def test_a_page_learns_what_the_model_paints(client):
    model = client.model
    assert model["kind"] == "layout" and model["trained"] == [16, 16]
    assert [label["name"] for label in model["labels"]][:4] == ["sky", "tree", "ground", "grass"]
    assert "beach" in model["sketches"]
    assert {"guidance", "temperature", "top_p"} <= {field["name"] for field in model["fields"]}


def test_a_picture_is_drawn_again_from_its_png_to_the_bit(client, tmp_path):
    frames = client.draw(layout(24, 32), seed=5, settings={"guidance": 2.0, "top_p": 0.9})
    png = one(frames, "picture").blobs["png"]
    (tmp_path / "picture.png").write_bytes(png)
    assert read_metadata(tmp_path / "picture.png")["sampling"]["seed"] == 5
    command = ["sample", "--from-png", str(tmp_path / "picture.png"), "-o", str(tmp_path / "again")]
    assert main(command) == 0
    again = (tmp_path / "again" / "picture.png").read_bytes()
    assert np.array_equal(pixels(png), pixels(again))


def test_variations_differ_and_each_is_repeated(client, tmp_path):
    frames = client.draw(layout(), count=4)
    pngs = {frame.header["index"]: frame.blobs["png"] for frame in frames if "png" in frame.blobs}
    assert len({pixels(png).tobytes() for png in pngs.values()}) == 4
    (tmp_path / "third.png").write_bytes(pngs[2])
    assert main(["sample", "--from-png", str(tmp_path / "third.png"), "-o", str(tmp_path)]) == 2
    out = tmp_path / "again"
    assert main(["sample", "--from-png", str(tmp_path / "third.png"), "-o", str(out)]) == 0
    assert np.array_equal(pixels((out / "third.png").read_bytes()), pixels(pngs[2]))


def test_outside_a_region_every_pixel_stays_and_the_edit_is_repeated(client, tmp_path):
    before = one(client.draw(layout(24, 32)), "picture").blobs["png"]
    region = np.zeros((24, 32), np.uint8)
    region[10:20, 8:22] = 1
    blobs = {"picture": before, "region": region.tobytes()}
    after = one(client.draw(layout(24, 32), seed=9, seam=3, blobs=blobs), "picture").blobs["png"]
    outside = region == 0
    assert np.array_equal(pixels(after)[outside], pixels(before)[outside])
    assert not np.array_equal(pixels(after), pixels(before))
    (tmp_path / "edit.png").write_bytes(after)
    out = tmp_path / "again"
    assert main(["sample", "--from-png", str(tmp_path / "edit.png"), "-o", str(out)]) == 0
    assert np.array_equal(pixels((out / "edit.png").read_bytes()), pixels(after))


def test_a_style_moves_colours_and_is_repeated(client, tmp_path):
    plain = one(client.draw(layout()), "picture").blobs["png"]
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    style = png_bytes(red)
    frames = client.draw(layout(), candidates=4, strength=1.0, blobs={"style": style})
    styled = one(frames, "picture").blobs["png"]
    distance = [abs(pixels(png).mean(axis=(0, 1)) - red[0, 0]).sum() for png in (plain, styled)]
    assert distance[1] < 10 < distance[0]
    (tmp_path / "styled.png").write_bytes(styled)
    out = tmp_path / "again"
    assert main(["sample", "--from-png", str(tmp_path / "styled.png"), "-o", str(out)]) == 0
    assert np.array_equal(pixels((out / "styled.png").read_bytes()), pixels(styled))


def test_previews_come_small_and_keep_what_has_not_changed(client):
    first = client.ask("preview", {"layout": layout(32, 32).tobytes()}, height=32, width=32)
    before = done(first)
    assert pixels(before.blobs["png"]).shape == (16, 16, 3)
    changed = layout(32, 32)
    changed[24:, 24:] = 1
    second = client.ask("preview", {"layout": changed.tobytes()}, height=32, width=32)
    after = done(second)
    same = (pixels(before.blobs["png"]) == pixels(after.blobs["png"])).all(axis=-1)
    assert same[:8].all() and same[:, :6].all()


def done(frames):
    """The last preview of a request."""
    previews = [frame for frame in frames if frame.header["event"] == "preview"]
    assert previews[-1].header["stage"] == "done" and previews[-1].header["top"] == 0
    return previews[-1]


def test_layouts_in_and_out(client):
    frames = client.ask("sketch", name="beach", height=32, width=48)
    labels = np.frombuffer(one(frames, "layout").blobs["layout"], np.uint8).reshape(32, 48)
    assert set(np.unique(labels)) == {0, 2, 4}  # sky, ground, water
    mask = one(client.ask("mask", {"layout": labels.tobytes()}, height=32, width=48), "mask").blobs[
        "png"
    ]
    assert np.array_equal(pixels(mask), labels)
    back = one(client.ask("layout", {"file": mask}, height=32, width=48), "layout")
    assert np.array_equal(np.frombuffer(back.blobs["layout"], np.uint8).reshape(32, 48), labels)


def test_a_picture_in_the_legends_colours_is_a_layout(client):
    colours = np.array([label["colour"] for label in client.model["labels"]], np.uint8)
    labels = layout(16, 16)
    frames = client.ask("layout", {"file": png_bytes(colours[labels])}, height=16, width=16)
    back = np.frombuffer(one(frames, "layout").blobs["layout"], np.uint8).reshape(16, 16)
    assert np.array_equal(back, labels)


def test_codes_of_a_picture_are_looked_at_and_swapped(client):
    png = one(client.draw(layout()), "picture").blobs["png"]
    codes = one(client.ask("encode", {"picture": png}), "codes")
    (level,) = codes.header["levels"]
    assert (level["rows"], level["columns"]) == (8, 8) and len(level["codes"]) == 64
    unchanged = one(client.ask("decode", levels=[level]), "decoded").blobs["png"]
    assert unchanged == codes.blobs["png"]
    level["codes"][0] = (level["codes"][0] + 1) % 16
    swapped = one(client.ask("decode", levels=[level]), "decoded").blobs["png"]
    assert swapped != unchanged
    patch = one(client.ask("code", code=3), "code").blobs["png"]
    assert pixels(patch).shape == (2, 2, 3)


def png_bytes(array):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
