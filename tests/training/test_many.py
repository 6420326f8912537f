"""Trainings of several processes, on one machine with gloo: they compute what one process computes,
with all weights in each or a share in each; they resume in other numbers; and when one dies, or has
something to say, the others end with one message.

NCCL, several machines and a real SLURM were not at hand; docs/scale.md says what follows from that.
"""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from taming import config
from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.first_stage import VQGAN, MaskGITVQGAN, VectorQuantizer
from taming.formats.load import load
from taming.formats.ours import read_raw
from taming.formats.sharded import is_sharded, joined, last_checkpoint, read_sharded, split
from taming.second_stage import Part
from taming.training import run
from taming.training.strategies import checkpoint_activations, layers_of
from tests.conftest import experiment_of, gpt_plain, paint_pairs, second_stage_plain, write_yaml

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "main.py"


# How a run of several processes is compared with that of one. Sums of gradients are rounded in
# another order, to some 1e-9. SGD passes that on as it is. Adam divides by the root of what it saw:
# where a gradient is zero but for rounding (a key's bias adds the same to all logits of a softmax),
# its steps have the size of the rate and the sign of the rounding. In float64 rounding is far below
# Adam's epsilon of 1e-8, and there AdamW, too, computes in many processes what it computes in one
START = """
import sys
import torch

{change}
from taming.cli import main
sys.exit(main(sys.argv[1:]))
"""
SGD = """
def sgd(groups, lr, betas, fused):
    return torch.optim.SGD([{**group, "betas": betas} for group in groups], lr=0.1, momentum=0.9)

torch.optim.AdamW = sgd
"""
CHANGES = {"sgd": SGD, "float64": "torch.set_default_dtype(torch.float64)", "float32": ""}
ADAM = ("optimizer.learning_rate=0.001",)


def write_starts(folder: Path) -> None:
    """Programs that train: with SGD, and with AdamW as it is, in either precision."""
    for name, change in CHANGES.items():
        (folder / f"{name}.py").write_text(START.replace("{change}", change))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def plain_prior(first: Path, **trainer) -> dict:
    """A prior in which nothing is random but the order of the data, so that it does not matter who
    computes what.
    """
    trainer = {
        "max_steps": 6,
        "checkpoint_every": 3,
        "validate_every": 3,
        "pictures_every": 100,
        "gradient_clip_val": 1.0,
        **trainer,
    }
    plain = second_stage_plain(first, ema=0.9, **trainer)
    plain |= {"noise": 0.0, "condition_dropout": 0.0}
    plain["model"]["params"]["prior"]["params"] |= {"dropout": 0.0, "layers": 2}
    plain["optimizer"] |= {"learning_rate": 0.1, "decay_steps": 600}
    plain["data"]["batch_size"] = 4
    plain["data"]["train"]["params"]["count"] = 16
    return plain


def torchrun(
    folder: Path, processes: int, *words: str, start: str = "sgd", **options
) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(free_port()), str(folder / f"{start}.py"), "train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )


def kill_all(process: subprocess.Popen) -> None:
    """A torchrun and its workers, all at once, as a machine that loses power."""
    number = process.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    for one in [number, *map(int, children)]:
        os.kill(one, signal.SIGKILL)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """What it said."""
    message = process.communicate(timeout=280)[1]
    assert process.returncode == code, message
    return message


def state(folder: Path) -> dict:
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    return read_sharded(checkpoint) if is_sharded(checkpoint) else read_raw(checkpoint)


def differences(one: dict, other: dict) -> dict[str, torch.Tensor]:
    """Of weights, their average, and the optimizer's moments, by name."""
    pairs = {name: (one["state_dict"][name], t) for name, t in other["state_dict"].items()}
    average = one["taming"]["averaged"]
    pairs |= {name: (average[name], t) for name, t in other["taming"]["averaged"].items()}
    moments = one["optimizers"][0]["state"]
    for number, entry in other["optimizers"][0]["state"].items():
        pairs |= {
            f"{name} {number}": (moments[number][name], entry[name])
            for name in ("momentum_buffer", "exp_avg", "exp_avg_sq")
            if name in entry
        }
    return {name: (a.double() - b.double()).abs() for name, (a, b) in pairs.items()}


def difference(one: dict, other: dict) -> float:
    """The largest."""
    return max(tensor.max().item() for tensor in differences(one, other).values())


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A folder with a first stage, the configuration of a prior on it, and one run of that."""
    root = tmp_path_factory.mktemp("many")
    from tests.conftest import first_stage_plain

    run.train(experiment_of(first_stage_plain(max_steps=2, pictures_every=100)), root / "first")
    write_yaml(plain_prior(root / "first"), root / "c.yaml")
    write_starts(root)
    run.train(experiment_of(plain_prior(root / "first")), root / "runs" / "adam")
    return root


def alone(folder: Path, name: str, *words: str, start: str = "sgd") -> dict:
    """The state of a run of one process."""
    command = [sys.executable, f"{start}.py", "train", "-b", "c.yaml", "-n", name, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if not (folder / "runs" / name).exists():
        subprocess.run(command, cwd=folder, check=True, timeout=280, env=environment)
    return state(folder / "runs" / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "processes, strategy", [(2, "auto"), (4, "auto"), (2, "fsdp"), (4, "fsdp")]
)
def test_many_processes_train_what_one_trains(first, processes, strategy):
    name = f"{strategy}{processes}"
    size = f"data.batch_size={4 // processes}"
    finish(
        torchrun(first, processes, "-b", "c.yaml", "-n", name, size, f"trainer.strategy={strategy}")
    )
    one, many = alone(first, "one"), state(first / "runs" / name)
    assert difference(one, many) < 1e-6
    rows = [read_metrics(first / "runs" / n / "metrics.csv") for n in ("one", name)]
    figures = [{(b, n): v for b, n, v in table if n.startswith("validation/")} for table in rows]
    assert figures[0].keys() == figures[1].keys()
    assert all(abs(figures[0][key] - value) < 1e-5 for key, value in figures[1].items())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes, strategy", [(2, "auto"), (4, "auto"), (2, "fsdp")])
def test_many_processes_do_what_one_does_with_adamw_in_float64(first, processes, strategy):
    name, one = f"float64-{strategy}{processes}", alone(first, "float64", *ADAM, start="float64")
    words = [f"data.batch_size={4 // processes}", f"trainer.strategy={strategy}", *ADAM]
    finish(torchrun(first, processes, "-b", "c.yaml", "-n", name, *words, start="float64"))
    many = state(first / "runs" / name)
    weights = [t for t in many["state_dict"].values() if t.is_floating_point()]
    assert {t.dtype for t in weights} == {torch.float64}
    assert difference(one, many) < 1e-9


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_with_adamw_in_float32_only_what_has_no_gradient_differs(first, strategy):
    """The biases of keys, a third of those of queries, keys and values."""
    name, one = f"float32-{strategy}", alone(first, "float32", *ADAM, start="float32")
    words = ["data.batch_size=2", f"trainer.strategy={strategy}", *ADAM]
    finish(torchrun(first, 2, "-b", "c.yaml", "-n", name, *words, start="float32"))
    excess = differences(one, state(first / "runs" / name))
    for name, tensor in excess.items():
        if name.endswith("qkv.bias"):
            assert tensor.chunk(3)[1].max() < 6 * 2 * 0.001  # six steps of the rate, either way
            tensor.chunk(3)[1].zero_()
    assert max(tensor.max().item() for tensor in excess.values()) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_killed_at_four_processes_and_resumed_at_two(first, strategy):
    """The samples that come next are those that would have come, and the weights those of a run
    that nothing happened to.
    """
    name = f"cut-{strategy}"
    words = ["trainer.max_steps=600", "trainer.validate_every=600", f"trainer.strategy={strategy}"]
    process = torchrun(first, 4, "-b", "c.yaml", "-n", name, "data.batch_size=1", *words)
    while last_checkpoint(first / "runs" / name) is None:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    kill_all(process)
    process.communicate()
    batches = state(first / "runs" / name)["taming"]["batches"]
    assert batches % 3 == 0 and batches < 300
    end = batches + 3
    words = [f"trainer.max_steps={end}", "data.batch_size=2"]
    finish(torchrun(first, 2, "-r", f"runs/{name}", *words))
    words = [f"trainer.max_steps={end}", "trainer.validate_every=600"]
    one, many = alone(first, f"whole-{strategy}", *words), state(first / "runs" / name)
    assert many["taming"]["batches"] == end and many["taming"]["images"] == 4 * end
    assert difference(one, many) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_in_parts_is_put_together_by_convert(first, tmp_path):
    folder = first / "runs" / "parts"
    words = ["trainer.strategy=fsdp", "trainer.max_steps=2", "data.batch_size=2"]
    finish(torchrun(first, 2, "-b", "c.yaml", "-n", "parts", *words))
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None and len(list(checkpoint.glob("*.safetensors"))) >= 2
    command = [
        sys.executable,
        str(MAIN),
        "convert",
        str(checkpoint),
        str(tmp_path / "x.safetensors"),
    ]
    subprocess.run(command, check=True, timeout=200)
    model = load(tmp_path / "x.safetensors")
    averaged = state(folder)["taming"]["averaged"]
    for name, tensor in model.priors.state_dict().items():
        assert torch.equal(tensor, averaged[f"averaged.priors.{name}"])
    with pytest.raises(UserError, match="put them together first: taming convert"):
        load(folder)
    next(checkpoint.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="is incomplete or damaged"):
        load(checkpoint)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_when_a_process_dies_the_others_end_with_one_message_and_a_checkpoint(first):
    """As when a node dies: two torchruns, as on two machines, of which one is killed."""
    port, processes = free_port(), []
    words = ["-b", "c.yaml", "-n", "death", "data.batch_size=2", "trainer.max_steps=100000"]
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        command += ["--node-rank", str(node), "--nproc-per-node", "1"]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        processes.append(
            subprocess.Popen(
                [*command, str(MAIN), "train", *words],
                cwd=first,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    while last_checkpoint(first / "runs" / "death") is None:
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.05)
    kill_all(processes[1])
    start = time.monotonic()
    message = processes[0].communicate(timeout=120)[1]
    assert time.monotonic() - start < 60 and processes[0].returncode
    lines = [line for line in message.splitlines() if line.startswith("taming: ")]
    assert len(lines) == 1, message
    assert "another process of this run has stopped" in lines[0] and "resume with" in lines[0]
    ours = re.split("torch[./]distributed[./]elastic", message)[0]  # torchrun reports at length
    assert "Traceback" not in ours, message
    assert state(first / "runs" / "death")["taming"]["batches"] >= 3
    processes[1].communicate()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_error_of_one_process_is_said_once(tmp_path):
    from tests.conftest import mask_stage_plain

    plain = mask_stage_plain(max_steps=3)
    plain["data"]["train"] = {
        "target": "taming.data.SegmentedImages",
        "params": {"root": str(paint_pairs(tmp_path / "data", count=8, classes=30)), "size": 16},
    }
    write_yaml(plain, tmp_path / "c.yaml")
    write_starts(tmp_path)
    message = finish(torchrun(tmp_path, 2, "-b", "c.yaml", "-n", "two"), code=1)
    assert message.count("taming: ") <= 2 and "model.params.labels" in message


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_slurm_script_starts_saves_and_gets_in_line_again(first, tmp_path):
    """With stand-ins for srun and scontrol, on this machine."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "requeued").touch()
    scripts = {
        "srun": 'shift\nexec "$@"\n',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/requeued\n',
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}")
        (tools / name).chmod(stat.S_IRWXU)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "PROCESSES_PER_NODE": "2",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", str(ROOT / "configs" / "cluster" / "train.sh"), "slurm"]
    words = ["-b", "c.yaml", "data.batch_size=2", "trainer.max_steps=100000"]
    for start in range(2):
        process = subprocess.Popen(
            [*command, *words], cwd=first, env=environment, stderr=subprocess.PIPE, text=True
        )
        before = state(first / "runs" / "slurm")["taming"]["batches"] if start else 0
        while (
            last_checkpoint(first / "runs" / "slurm") is None
            or state(first / "runs" / "slurm")["taming"]["batches"] <= before
        ):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        assert "stopped by SIGTERM; the run is saved" in process.communicate(timeout=120)[1]
        assert process.returncode == 0
        assert (tmp_path / "requeued").read_text().count("requeue") == start + 1


# In one process


def test_adam_makes_steps_of_rounding_only_where_a_gradient_is_zero():
    """A batch at once, and in four parts whose gradients are averaged, as processes do."""

    def trained(parts: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        part = {"vocabulary": 1, "length": 1}
        prior = config.build(gpt_plain(part, layers=2)).to(dtype)
        codes = torch.randint(32, (6, 4, 8, 8))
        condition = (Part(torch.zeros(4 // parts, 1, dtype=torch.int64), 1),)
        optimizer = torch.optim.AdamW(prior.parameters(), lr=0.001)
        for batch in codes:
            optimizer.zero_grad()
            for piece in batch.chunk(parts):
                (-prior.log_prob(piece, condition).mean() / parts / 64).backward()
            optimizer.step()
        return dict(prior.state_dict())

    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        one, many = trained(1, dtype), trained(4, dtype)
        for name, tensor in one.items():
            excess = (tensor - many[name]).abs()
            if name.endswith("qkv.bias") and dtype == torch.float32:
                excess = torch.cat([excess[:16], excess[32:]])  # not those of keys
            assert excess.max() < most, name


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradients(first):
    model = load(first / "runs" / "adam")
    prior = model.prior.train()
    codes = torch.randint(0, 32, (2, 8, 8))
    condition = model.conditioner({"count": 2})
    layers = list(layers_of(prior))
    assert len(layers) == 2
    gradients = []
    for again in (False, True):
        if again:
            checkpoint_activations(prior)
        prior.zero_grad()
        torch.manual_seed(0)
        prior(codes, condition).square().mean().backward()
        gradients.append([p.grad.clone() for p in prior.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


@pytest.mark.parametrize("kind", [VQGAN, MaskGITVQGAN])
def test_recomputed_layers_of_a_first_stage_hold_their_inputs_only(kind):
    torch.manual_seed(0)
    model = kind(channels=8, multipliers=[1, 2], quantizer=VectorQuantizer(16, 4), blocks=2)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    held, slopes = [], []
    for again in (False, True):
        if again:
            checkpoint_activations(model.encoder)
        count = 0

        def counted(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
            latent = model.encoder(image)
        latent.square().sum().backward()
        slopes.append(model.encoder.conv_in.weight.grad.clone())
        model.zero_grad()
        held.append(count)
    assert torch.equal(*slopes) and held[1] < 0.7 * held[0]


def test_a_state_comes_back_from_its_parts():
    tree = {"a": torch.ones(2), "b": [1, {"c": torch.zeros(1), 3: None}], "d": 0.5}
    tensors: dict = {}
    plain = split(tree, tensors)
    again = joined(plain, tensors)
    assert again["b"][1][3] is None and torch.equal(again["a"], tree["a"]) and len(tensors) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "first"}, "fsdp is for priors"),
        ({"optimizer": {"algorithm": "muon"}}, "optimizer.algorithm: muon needs whole matrices"),
        ({"evaluation": {"every": 5}}, "evaluation.every: 5 needs whole matrices"),
    ],
)
def test_what_does_not_go_with_shares_of_weights_is_one_line(first, tmp_path, change, words):
    from tests.conftest import first_stage_plain

    plain = plain_prior(first / "first")
    if "model" in change:
        plain = first_stage_plain(pictures_every=100)
    else:
        plain |= change
    plain["trainer"]["strategy"] = "fsdp"
    with pytest.raises(UserError, match=words):
        run.train(experiment_of(plain), tmp_path / "run")
