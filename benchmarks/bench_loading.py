"""Peak memory and time of loading a large checkpoint, in each container.

    python benchmarks/bench_loading.py [--layers 20] [--width 1024]

A second stage with a GPT of that size and random weights; each file is loaded in a process of its
own. Peak: the highest resident memory less that before loading, over the size of the file.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from taming import config  # noqa: E402
from taming.formats.compvis.checkpoint import save_published  # noqa: E402
from taming.formats.content import Content  # noqa: E402
from taming.formats.ours import save_safetensors  # noqa: E402

LOAD = """
import resource, sys, threading, time
import torch, taming
from taming.formats.load import load
def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e6
before, start, peak, done = resident("VmRSS"), time.time(), 0.0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident("VmRSS"))
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
model = load(sys.argv[1])
seconds = time.time() - start
done = True
thread.join()
print(f"{max(peak, resident('VmRSS')) - before:.3f} {seconds:.2f} {resident('VmRSS') - before:.3f}")
"""


def content_of(layers: int, width: int) -> Content:
    quantizer = {"target": "taming.first_stage.VectorQuantizer", "params": {}}
    quantizer["params"] = {"num_codes": 1024, "dim": 8}
    first = {"target": "taming.first_stage.VQGAN", "params": {}}
    first["params"] = {"channels": 32, "multipliers": [1, 1, 2, 2], "quantizer": quantizer}
    prior = {"layers": layers, "heads": 16, "width": width, "shared_vocabulary": 1024}
    prior |= {"num_codes": 1024, "grid": [16, 16], "parts": [{"vocabulary": 1, "length": 1}]}
    params = {
        "first_stage": first,
        "conditioner": {"target": "taming.second_stage.Unconditional"},
        "prior": {"target": "taming.formats.compvis.CompVisGPT", "params": prior},
    }
    plain = {"model": {"target": "taming.second_stage.SecondStage", "params": params}}
    experiment = config.from_plain(plain)
    model = config.build(experiment.model)
    return Content("second", config.to_plain(experiment), model.state_dict(), 1, {})


def write_files(content: Content, folder: Path) -> dict[str, Path]:
    """A file of each container -> what `load` is given."""
    save_safetensors(folder / "ours.safetensors", content)
    metadata = {"stage": "second", "config": content.config, "batches": 1, "figures": {}}
    state = {f"model.{name}": tensor for name, tensor in content.weights.items()}
    torch.save({"taming": metadata, "state_dict": state}, folder / "ours.ckpt")
    save_published(folder / "published", content)
    published = folder / "published" / "checkpoints" / "last.ckpt"
    files = {name: folder / name for name in ("ours.safetensors", "ours.ckpt")}
    return {**files, "published .ckpt": published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()
    print("| file | GB | peak GB | peak / file | seconds | afterwards GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        files = write_files(content_of(arguments.layers, arguments.width), Path(name))
        for label, path in files.items():
            size = path.stat().st_size / 1e9
            words = [sys.executable, "-c", LOAD, str(path)]
            output = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
            peak, seconds, after = map(float, output.stdout.split())
            print(
                f"| {label} | {size:.2f} | {peak:.2f} | {peak / size:.2f} | {seconds:.1f} |"
                f" {after:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
