"""A run from its configuration to its folder."""

import copy

import pytest
import torch

from taming.config import load as load_config
from taming.config import to_plain
from taming.errors import UserError
from taming.files import run_lock
from taming.formats.load import load, read_checkpoint
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, second_stage_plain, write_yaml
from tests.training.conftest import content


@pytest.mark.parametrize("kind", ["dict", "path", "text", "list", "experiment"])
def test_a_configuration_comes_in_any_form(tmp_path, kind):
    plain = first_stage_plain(max_steps=1)
    path = write_yaml(plain, tmp_path / "c.yaml")
    config = {
        "dict": plain,
        "path": path,
        "text": str(path),
        "list": [path, {"seed": 5}],
        "experiment": experiment_of(plain),
    }[kind]
    before = copy.deepcopy(config)
    assert run.train(config, tmp_path / "run") == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert config == before, "the caller's own stays as it was"
    stored = load_config(tmp_path / "run" / "config.yaml")
    assert stored.seed == (5 if kind == "list" else 23)
    assert to_plain(stored)["model"] == content(tmp_path / "run")["taming"]["config"]["model"]


def test_one_process_at_a_time(tmp_path):
    run.train(experiment_of(first_stage_plain(max_steps=1)), tmp_path / "run")
    with run_lock(tmp_path / "run"), pytest.raises(UserError, match="in use by process [0-9]+ on"):
        longer = experiment_of(first_stage_plain(max_steps=2))
        run.train(longer, tmp_path / "run", resume=True)
    with run_lock(tmp_path / "new"), pytest.raises(UserError, match="in use"):
        run.train(experiment_of(first_stage_plain(max_steps=1)), tmp_path / "new")


def test_checkpoints_are_plain_and_a_second_stage_needs_no_other_file(trained):
    root, _ = trained
    model = load(root / "cached" / "checkpoints" / "best.ckpt", stage="second")
    assert "checkpoint" not in str(read_checkpoint(root / "cached").config["model"])
    first = load(root / "first").state_dict()
    same = [torch.equal(v, first[k]) for k, v in model.first_stage.state_dict().items()]
    assert all(same)


@pytest.mark.parametrize("part", ["first_stage", "conditioner"])
def test_a_prior_on_other_codes_is_refused_and_not_given_the_old_ones(trained, tmp_path, part):
    """`--from PRIOR variables.vqgan=NEW` trained on with the tokenizer of PRIOR."""
    root, plains = trained
    new = first_stage_plain(max_steps=1) if part == "first_stage" else None
    plain = copy.deepcopy(plains["cached"])
    if new is None:
        from tests.conftest import mask_stage_plain

        new = mask_stage_plain(max_steps=1)
    new["seed"] = 99
    run.train(experiment_of(new), tmp_path / "new")
    node = plain["model"]["params"][part]
    node = node if part == "first_stage" else node["params"]["first_stage"]
    node["params"]["checkpoint"] = str(tmp_path / "new")
    plain["data"]["views"] = None
    with pytest.raises(UserError, match=f"has another .*{part}.*trained on"):
        run.train(experiment_of(plain), tmp_path / "run", start_from=root / "cached")
    moved, _ = run.prepare(
        experiment_of(plain), read_checkpoint(root / "cached").weights, "cached", fitting=True
    )
    there = load(tmp_path / "new").state_dict()
    part_of = moved.model.get_submodule(part if part == "first_stage" else f"{part}.first_stage")
    assert all(torch.equal(v, there[k]) for k, v in part_of.state_dict().items())
    prior = read_checkpoint(root / "cached").weights
    assert all(
        torch.equal(v, prior[f"priors.{k}"]) for k, v in moved.model.priors.state_dict().items()
    )
    run.train(experiment_of(plains["cached"]), tmp_path / "same", start_from=root / "cached")


def test_out_of_memory_names_the_key(tmp_path, monkeypatch):
    from taming.training.first_stage import FirstStageTraining

    def burst(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you"
            " tried to allocate 9 bytes"
        )

    monkeypatch.setattr(FirstStageTraining, "micro_batch", burst)
    with pytest.raises(UserError, match="out of memory at batch 1; lower data.batch_size"):
        run.train(experiment_of(first_stage_plain()), tmp_path / "run")


def test_a_conditional_prior_needs_its_condition(trained):
    root, _ = trained
    plain = second_stage_plain(root / "first", root / "masks")
    plain["loss"] = first_stage_plain()["loss"]
    with pytest.raises(UserError, match="a prior is trained by cross-entropy"):
        run.prepare(experiment_of(plain))


def test_what_is_refused_leaves_no_folder(tmp_path):
    """A YAML without a model left the run's folder with a lock in it."""
    with pytest.raises(UserError, match="model: missing"):
        run.train({"seed": 1}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
