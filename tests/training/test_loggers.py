"""Logs: whole rows whatever the disk does, one run after a resume, no account needed."""

import csv
import errno
from pathlib import Path

import pytest

from taming.evaluation.metrics import read_metrics
from taming.training import run
from taming.training.loggers import CSVLog
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain
from tests.training.conftest import content


class FullWriter:
    """A csv.writer that writes half a row and fails."""

    def __init__(self, file):
        self.file = file

    def writerows(self, rows):
        self.file.write("3,train/to")
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_rows_wait_for_room_and_none_is_half(tmp_path, monkeypatch):
    log = CSVLog(tmp_path / "metrics.csv")
    log.log_metrics({"train/total": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(csv, "writer", FullWriter)
        with pytest.raises(OSError, match="No space"):
            log.log_metrics({"train/total": 2.0}, 2)
    assert read_metrics(log.path) == [(1, "train/total", 1.0)]
    log.log_metrics({"train/total": 3.0}, 3)
    assert read_metrics(log.path) == [(n, "train/total", float(n)) for n in (1, 2, 3)]


def test_a_log_that_cant_be_written_stops_nothing(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CSVLog, "log_metrics", full)
    run.train(experiment_of(mask_stage_plain()), tmp_path / "run")
    assert capsys.readouterr().err.count("CSVLog can't be written") == 1
    assert content(tmp_path / "run")["taming"]["batches"] == 8


def test_rows_past_the_checkpoint_and_a_cut_row_are_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("batch,name,value\n1,a,1.0\n2,a,2.0\n3,a,3.0\n4,a")
    CSVLog(path, resumed=2)
    assert read_metrics(path) == [(1, "a", 1.0), (2, "a", 2.0)]


def test_loggers_need_no_account_and_continue_as_one_run(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text("machine github.com login x password y\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = {"tensorboard": True, "wandb": "online"}
    plain = {**first_stage_plain(max_steps=2, pictures_every=2), "logger": logger}
    folder = tmp_path / "run"
    run.train(experiment_of(plain), folder)
    plain["trainer"]["max_steps"] = 3
    run.train(experiment_of(plain), folder, resume=True)
    assert (folder / "pictures" / "0000002.png").is_file()
    # W&B: two folders of one run
    identities = {path.name.rsplit("-", 1)[1] for path in folder.glob("wandb/offline-run-*")}
    assert identities == {(folder / "wandb" / "id.txt").read_text()}
    assert scalars(folder / "tensorboard") == [1, 2, 3]


def scalars(folder: Path) -> list[int]:
    """The steps of one tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars("train/total")]
