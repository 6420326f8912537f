"""The real page in Debian's Chromium, by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATIENCE = 120_000  # milliseconds, on a busy machine


def chromium() -> str:
    """Its path; skips the test where there is none."""
    pytest.importorskip("playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    return path


class Painter:
    """A person at a page.

    Args:
        page: of Playwright.
        address: of the studio.
    """

    def __init__(self, page, address: str):
        self.page, self.complaints = page, []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        page.goto(address)
        page.wait_for_selector("#dimensions:not(:empty)", state="attached")

    def drag(self, canvas: str, *places: tuple[float, float]) -> None:
        """With the mouse, from place to place, relative to the canvas."""
        self.page.locator(canvas).scroll_into_view_if_needed()
        box = self.page.locator(canvas).bounding_box()
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=6)
        self.page.mouse.up()

    def pixels(self, canvas: str) -> list:
        """Red, green, blue, alpha of a canvas, one after the other."""
        return self.page.evaluate(
            """(id) => { const canvas = document.querySelector(id);
            return [canvas.width, canvas.height, Array.from(canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height).data)]; }""",
            canvas,
        )

    def pictures(self, count: int) -> None:
        """Waits until so many are in the history."""
        self.page.wait_for_selector(f"#history li:nth-child({count})")
        self.page.wait_for_selector("#progress", state="hidden")
        self.page.wait_for_selector("#stage", state="hidden")

    def save(self, button: str, path) -> None:
        with self.page.expect_download() as download:
            self.page.click(button)
        download.value.save_as(path)


@contextmanager
def painting(address: str, **options) -> Iterator[Painter]:
    """A page that is open; afterwards it must have had no errors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--force-color-profile=srgb"]
        )
        try:
            context = browser.new_context(
                **{"viewport": {"width": 1280, "height": 860}, "accept_downloads": True, **options}
            )
            painter = Painter(context.new_page(), address)
            yield painter
            assert not painter.complaints, painter.complaints
        finally:
            browser.close()
