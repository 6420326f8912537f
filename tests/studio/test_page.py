"""The page as a person uses it, with a small model. One browser for all of it: it takes a second
to start.
"""

import json

import numpy as np
import pytest

from taming.cli.main import main
from taming.studio.server import PAGE
from tests.studio.browser import chromium, painting
from tests.studio.conftest import pixels

LIGHTEST = 200_000  # bytes of the page, without pictures


def test_the_page_is_light():
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < LIGHTEST


def test_the_page_names_no_other_place():
    for path in PAGE.iterdir():
        words = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in words and "https://" not in words, path.name


@pytest.fixture(scope="module")
def painter(studio):
    chromium()
    with painting(studio.address) as painter:
        yield painter


def labels(painter):
    width, height, data = painter.pixels("#layout")
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def colour(name):
    from taming.images import palette
    from tests.studio.conftest import NAMES

    return palette(len(NAMES))[NAMES.index(name)].tolist()


def test_paint_undo_redo_and_fill(painter):
    page = painter.page
    page.click("#canvas-controls summary")
    page.select_option("#sketch", "")
    page.click("#start")
    before = labels(painter)
    assert (before == colour("sky")).all()
    page.click(".swatch:has-text('water')")
    painter.drag("#layout", (0.2, 0.5), (0.8, 0.5))
    after = labels(painter)
    assert (after[8, 8] == colour("water")).all() and (after[0, 0] == colour("sky")).all()
    page.click("#undo")
    assert np.array_equal(labels(painter), before)
    page.click("#redo")
    assert np.array_equal(labels(painter), after)
    page.click("#tool-fill")
    page.click(".swatch:has-text('grass')")
    painter.drag("#layout", (0.5, 0.95))
    assert (labels(painter)[15, 8] == colour("grass")).all()


@pytest.mark.slow
def test_keys_do_what_the_mouse_does(painter):
    page = painter.page
    page.evaluate("document.querySelector('#canvas-controls').open = true")
    page.click("#start")
    page.focus("#layout")
    page.keyboard.press("r")
    page.keyboard.press("4")  # water
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    after = labels(painter)
    assert (after[:6, :6] == colour("water")).all() and (after[7:, 7:] == colour("sky")).all()
    page.keyboard.press("Control+z")
    assert (labels(painter) == colour("sky")).all()
    page.keyboard.press("b")


@pytest.mark.slow
def test_the_eraser_paints_the_ground_that_is_chosen(painter):
    page = painter.page
    page.select_option("#ground", label="snow")
    page.click("#tool-eraser")
    painter.drag("#layout", (0.5, 0.5))
    assert (labels(painter)[8, 8] == colour("snow")).all()
    page.select_option("#ground", label="sky")
    page.click("#tool-brush")


def test_draw_change_a_region_save_open_repeat(painter, tmp_path):
    page = painter.page
    page.click("#draw")
    painter.pictures(1)
    _, _, before = painter.pixels("#picture")
    page.click("#tool-rectangle")
    painter.drag("#picture", (0.3, 0.3), (0.7, 0.7))
    page.click("#redraw")
    painter.pictures(2)
    page.wait_for_selector("#stage", state="hidden")
    _, _, after = painter.pixels("#picture")
    before, after = (np.array(one, np.uint8).reshape(16, 16, 4) for one in (before, after))
    outside = np.ones((16, 16), bool)
    outside[4:12, 4:12] = False
    assert np.array_equal(before[outside], after[outside])
    assert not np.array_equal(before, after)

    page.click("summary:has-text('Take it home')")
    painter.save("#save-picture", tmp_path / "picture.png")
    painter.save("#save-mask", tmp_path / "mask.png")
    painter.save("#save-project", tmp_path / "project.json")
    painter.save("#export", tmp_path / "history.html")
    drawn = pixels((tmp_path / "picture.png").read_bytes())
    assert np.array_equal(drawn, after[..., :3])
    out = tmp_path / "again"
    assert main(["sample", "--from-png", str(tmp_path / "picture.png"), "-o", str(out)]) == 0
    assert np.array_equal(pixels((out / "picture.png").read_bytes()), drawn)
    history = (tmp_path / "history.html").read_text()
    assert history.count("data:image/png") == 2
    assert "href" not in history and "<script" not in history
    assert pixels((tmp_path / "mask.png").read_bytes()).max() < 10

    page.reload()
    page.wait_for_selector("#dimensions:not(:empty)")
    page.click("summary:has-text('Take it home')")
    page.set_input_files("#project-file", tmp_path / "project.json")
    painter.pictures(2)
    page.wait_for_selector("#history [aria-current]")
    _, _, opened = painter.pixels("#picture")
    assert np.array_equal(np.array(opened, np.uint8).reshape(16, 16, 4), after)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        json.dumps({"format": "taming-studio", "version": 2}),
        json.dumps({"format": "taming-studio", "version": 1, "pictures": [], "width": 10**9}),
        json.dumps(
            {
                "format": "taming-studio",
                "version": 1,
                "pictures": [],
                "width": 64,
                "height": 64,
                "layout": "AAAA",
            }
        ),
    ],
    ids=range(5),
)
def test_projects_that_are_none(painter, tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    page = painter.page
    page.evaluate("document.querySelector('#message').textContent = ''")
    page.set_input_files("#project-file", tmp_path / "bad.json")
    page.wait_for_selector("#message.failure:has-text(\"'bad.json' can't be opened\")")


@pytest.mark.slow
def test_variations_and_returning(painter):
    page = painter.page
    page.click("#vary")
    page.wait_for_selector("#variations button:nth-child(4)")
    page.wait_for_selector("#progress", state="hidden")
    page.click("#variations button:nth-child(3)")
    page.wait_for_selector("#variations", state="hidden")
    _, _, third = painter.pixels("#picture")
    page.click("#history li:last-child button")
    page.wait_for_timeout(300)
    assert painter.pixels("#picture")[2] != third


@pytest.mark.slow
def test_the_canvas_grows_and_what_is_new_is_selected(painter):
    page = painter.page
    if not page.is_visible("#grow-by"):
        page.click("#canvas-controls summary")
    page.fill("#grow-by", "8")
    page.click("[data-grow=right]")
    page.wait_for_selector("#dimensions:has-text('24 x 16')")
    page.wait_for_selector("#redraw:not([disabled])")
    count = page.locator("#history li").count()
    page.click("#redraw")
    painter.pictures(count + 1)


@pytest.mark.parametrize("width, theme", [(1280, "light"), (390, "dark")])
def test_everybody_can_read_and_reach_it(painter, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = painter.page
    page.set_viewport_size({"width": width, "height": 844})
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    violations = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:150]) for one in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
