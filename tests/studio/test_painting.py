"""The whole way with the shipped model: paint, look, draw, change, take it home, come back."""

import io

import numpy as np
import pytest
from PIL import Image

from taming.cli.main import main
from taming.studio.serve import start
from tests.studio.browser import chromium, painting
from tests.studio.conftest import pixels

pytestmark = pytest.mark.slow
TREE = 1


@pytest.fixture(scope="module")
def landscapes():
    chromium()
    server = start("landscapes", port=0).start()
    yield server
    server.stop()


def test_from_the_first_stroke_to_the_same_picture_again(landscapes, tmp_path):
    with painting(landscapes.address) as painter:
        page = painter.page
        preview = "body[data-preview^=done]"
        page.wait_for_selector(preview)

        # 1. paint with the mouse: sky above, grass below; the preview changes
        _, _, first = painter.pixels("#picture")
        page.click("#canvas-controls summary")
        page.select_option("#sketch", "")
        page.click("#start")
        page.click(".swatch:has-text('grass')")
        page.click("#tool-rectangle")
        page.evaluate("delete document.body.dataset.preview")
        painter.drag("#layout", (0.0, 0.45), (0.999, 0.999))
        page.wait_for_selector(preview)
        _, _, second = painter.pixels("#picture")
        assert first != second

        # 2. the picture
        page.uncheck("#new-seed")
        page.fill("#seed", "3")
        page.click("#draw")
        painter.pictures(1)
        page.click("summary:has-text('Take it home')")
        painter.save("#save-picture", tmp_path / "before.png")

        # 3. another label in one place; only that place is redrawn
        page.click(".swatch:has-text('tree')")
        painter.drag("#layout", (0.25, 0.3), (0.999, 0.8))
        page.click("#update")
        painter.pictures(2)
        painter.save("#save-picture", tmp_path / "after.png")
        before, after = (
            pixels((tmp_path / f"{name}.png").read_bytes()) for name in ("before", "after")
        )
        margin = landscapes.server.model.second.multiple
        outside = np.ones((64, 64), bool)
        outside[19 - margin : 52 + margin, 16 - margin :] = False
        assert np.array_equal(before[outside], after[outside])
        assert not np.array_equal(before, after)
        assert label_found(landscapes, after[22:50, 20:], TREE) > 0.5

        # 4. undo takes the label back, redo brings it again
        painter.save("#save-mask", tmp_path / "trees.png")
        page.click("#undo")
        page.click("#undo")
        painter.save("#save-mask", tmp_path / "grass.png")
        trees, grass = (
            pixels((tmp_path / f"{name}.png").read_bytes()) for name in ("trees", "grass")
        )
        assert (trees == TREE).any() and not (grass == TREE).any()

        # 5. the project, also after a restart of the page
        painter.save("#save-project", tmp_path / "project.json")
        page.reload()
        page.wait_for_selector("#dimensions:not(:empty)")
        page.click("summary:has-text('Take it home')")
        page.set_input_files("#project-file", tmp_path / "project.json")
        painter.pictures(2)
        page.wait_for_selector("#history [aria-current]")
        painter.save("#save-picture", tmp_path / "opened.png")
        assert (tmp_path / "opened.png").read_bytes() == (tmp_path / "after.png").read_bytes()

    # 6. both once more, to the bit
    for name in ("before", "after"):
        again = tmp_path / "again" / f"{name}.png"
        command = ["sample", "--from-png", str(tmp_path / f"{name}.png"), "-o", str(again.parent)]
        assert main(command) == 0
        drawn = pixels((tmp_path / f"{name}.png").read_bytes())
        assert np.array_equal(pixels(again.read_bytes()), drawn)


def label_found(landscapes, part: np.ndarray, label: int) -> float:
    """The share of a label among what the segmenter sees."""
    from taming.inference.segment import load_segmenter, segment_image

    try:
        segmenter = load_segmenter()
    except Exception:
        pytest.skip("no segmenter is shipped yet")
    layout = segment_image(segmenter, Image.fromarray(part), landscapes.server.model.legend)
    return float((np.asarray(layout.mask) == label).mean())


def test_a_photographs_layout(landscapes, shared):
    from tests.studio.conftest import Client, one

    if not landscapes.server.has_eye:
        pytest.skip("no segmenter is shipped yet")
    picture = sorted((shared / "data" / "intel_landscapes" / "images").glob("sea*"))[0]
    buffer = io.BytesIO()
    Image.open(picture).save(buffer, format="PNG")
    client = Client(landscapes)
    frames = client.ask("photograph", {"file": buffer.getvalue()}, height=64, width=96)
    labels = np.frombuffer(one(frames, "layout").blobs["layout"], np.uint8)
    assert len(labels) == 64 * 96 and np.isin(labels, [0, 4]).mean() > 0.3
