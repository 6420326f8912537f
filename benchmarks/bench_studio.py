"""How long the studio takes: first paint, stroke to preview, pictures of several sizes; what the
page weighs; whether the server's memory stays flat over many requests.

    python benchmarks/bench_studio.py [--sizes 64,128,256] [--large] [--requests 200]

Prints one line a figure: seconds by the clock, and in brackets those that this process computed,
which is what the clock would say on a core that nothing else uses. Chromium (apt-get install
chromium) and playwright are needed.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taming.studio.serve import Studio, start  # noqa: E402
from taming.studio.server import PAGE  # noqa: E402
from taming.studio.sketches import draw_sketch  # noqa: E402
from tests.studio.browser import Painter, painting  # noqa: E402
from tests.studio.conftest import Client, one  # noqa: E402


class Watch:
    """Seconds since it was made, by the clock and of this process."""

    def __init__(self):
        self.clock, self.process = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.clock, time.process_time() - self.process


def memory() -> float:
    """Resident, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def print_page(studio: Studio, strokes: int) -> None:
    """First paint, and the time from a stroke to its preview's first rows and its last."""
    print(f"weight of the page: {sum(path.stat().st_size for path in PAGE.iterdir()) / 1e3:.0f} kB")
    with painting(studio.address) as painter:
        paints = painter.page.evaluate(
            "performance.getEntriesByType('paint').map((entry) => entry.startTime)"
        )
        print(f"first paint: {max(paints) / 1e3:.2f} s")
        painter.page.wait_for_selector("body[data-preview^=done]")
        first, last = [], []
        for i in range(strokes):
            times = stroke(painter, i)
            first.append(times[0])
            last.append(times[1])
    for name, values in (("first rows", first), ("all", last)):
        clock, process = (sorted(seconds) for seconds in zip(*values))
        print(
            f"stroke to preview, {name}: median {statistics.median(clock):.2f} s"
            f" ({statistics.median(process):.2f}), {clock[0]:.2f} to {clock[-1]:.2f}, of {strokes}"
        )


def stroke(painter: Painter, number: int) -> list[tuple[float, float]]:
    """Until the preview's first rows are there, and its last."""
    page = painter.page
    page.locator(".swatch").nth(1 + number % 4).click()
    page.evaluate("delete document.body.dataset.preview")
    x = 0.15 + 0.1 * (number % 6)
    painter.drag("#layout", (x, 0.7), (x + 0.15, 0.8))
    watch, times = Watch(), []
    for state in ("body[data-preview]", "body[data-preview^=done]"):
        page.wait_for_selector(state)
        times.append(watch.read())
    return times


def print_pictures(studio: Studio, sizes: list[tuple[int, int]]) -> None:
    """With the model's recommended settings, and hop 4 beyond 256 pixels."""
    client = Client(studio)
    settings = {
        name: value for name, value in client.model["settings"].items() if value is not None
    }
    names = [label["name"] for label in client.model["labels"]]
    for height, width in sizes:
        labels = draw_sketch("mountain lake", height, width, names)
        if height > 256:
            settings["hop"] = 4
        watch = Watch()
        number = client.send(
            "draw", {"layout": labels.tobytes()}, height=height, width=width, settings=settings
        )
        while (frame := client.read(3600)).header["event"] != "picture":
            assert frame.header["event"] != "failed", frame.header
        clock, process = watch.read()
        print(f"{width} x {height}: {clock:.1f} s ({process:.1f})", flush=True)
        client.until_the_end(number)


def print_memory(studio: Studio, requests: int) -> None:
    """After warming up and after so many previews, pictures, layouts and refusals."""
    client = Client(studio)
    side = client.model["smallest"]
    labels = np.zeros((side, side), np.uint8)
    before = 0.0
    for i in range(requests + 20):
        if i == 20:
            before = memory()
        labels[side // 2 + i % (side // 2) :] = i % 5
        blobs = {"layout": labels.tobytes()}
        do = ("preview", "draw", "mask", "nonsense")[i % 4]
        one(client.ask(do, blobs, height=side, width=side), "failed" if i % 4 == 3 else "done")
    print(f"server memory: {before:.0f} MB after 20 requests, {memory():.0f} after {requests + 20}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="landscapes")
    parser.add_argument("--sizes", default="64,128,256")
    parser.add_argument("--large", action="store_true", help="also 1280 x 832")
    parser.add_argument("--strokes", type=int, default=12)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"threads: {torch.get_num_threads()}; load {load:.1f} on {os.cpu_count()} cores")
    studio = start(arguments.checkpoint, port=0).start()
    sizes = [(int(side), int(side)) for side in arguments.sizes.split(",") if side]
    if arguments.strokes:
        print_page(studio, arguments.strokes)
    print_pictures(studio, sizes + ([(832, 1280)] if arguments.large else []))
    if arguments.requests:
        print_memory(studio, arguments.requests)
    studio.stop()


if __name__ == "__main__":
    main()
