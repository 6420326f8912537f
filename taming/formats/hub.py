"""Models on the Hugging Face hub, by huggingface_hub's own mixin: a folder with config.json,
model.safetensors and a README that says what is in it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from taming.errors import UserError, first_line
from taming.files import write_atomically
from taming.formats.content import Content
from taming.formats.load import (
    ORIGIN,
    find_checkpoint,
    load,
    model_of,
    read_checkpoint,
    shipped_names,
)
from taming.formats.ours import save_safetensors

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError:
    raise UserError("the hub needs huggingface_hub; pip install 'taming[hub]'") from None

WEIGHTS, CARD, README = "model.safetensors", "config.json", "README.md"
PATTERNS = ("*.safetensors", "*.json", "*.yaml", "*.ckpt", "*.bin", "*.pt", "*.pth", "*.pkl")


class HubModel(ModelHubMixin, library_name="taming", tags=["vq-gan", "image-tokenizer"]):
    """A model of ours with what the hub needs: `from_pretrained`, `save_pretrained` and
    `push_to_hub` are huggingface_hub's, and so is what they do offline and with their cache.

    Args:
        content: weights and configuration.
        card: Markdown for the README; by default written from the configuration.
    """

    def __init__(self, content: Content, card: str | None = None):
        self.content, self.card = content, card

    @property
    def model(self) -> nn.Module:
        """With its weights, as `taming.load` gives it."""
        return model_of(replace(self.content, weights=dict(self.content.weights)))

    def _save_pretrained(self, save_directory: Path) -> None:
        folder, content = Path(save_directory), self.content
        save_safetensors(folder / WEIGHTS, content)
        config = {
            "library_name": "taming",
            "model_type": content.config["model"]["target"].rpartition(".")[2],
            "stage": content.stage,
            "batches": content.batches,
            "config": content.config,
        }
        _write(folder / CARD, json.dumps(config, indent=1) + "\n")
        _write(folder / README, self.card or model_card(content))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **keywords: Any,
    ) -> "HubModel":
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=list(PATTERNS),
                )
            )
        return cls(read_checkpoint(folder))


def from_pretrained(name: str | Path, **options: Any) -> nn.Module:
    """The model in a folder, a file, or a repository of the hub.

    Args:
        name: what `taming.load` takes, else the hub's `owner/name`.
        options: of huggingface_hub: revision, cache_dir, local_files_only, token, force_download.

    Raises:
        UserError: there is no such model, here or there, or the hub can't be reached.
    """
    if Path(name).exists() or str(name) in shipped_names():
        return load(name)
    try:
        return HubModel.from_pretrained(str(name), **options).model
    except UserError:
        raise
    except Exception as error:  # huggingface_hub and its HTTP library raise many kinds
        raise UserError(
            f"'{name}' is no file here, and the hub has not given it"
            f" ({type(error).__name__}: {first_line(error)[:160]})"
        ) from None


def save_pretrained(
    model: nn.Module | str | Path, folder: str | Path, card: str | None = None
) -> Path:
    """Writes a model as the hub has them; returns the folder.

    Args:
        model: one that `taming.load` gave, with the weights that it has now; or what `load` takes.
        folder: to write config.json, model.safetensors and README.md into.
        card: Markdown for the README, by default the checkpoint's own, or made from what it says.
    """
    _hub_model(model, card).save_pretrained(str(folder))
    return Path(folder)


def push_to_hub(
    model: nn.Module | str | Path, repository: str, card: str | None = None, **options: Any
) -> str:
    """Uploads a model to the hub; returns the address of the commit.

    Args:
        model: see `save_pretrained`.
        repository: owner/name.
        card: see `save_pretrained`.
        options: of huggingface_hub: private, token, branch, commit_message, create_pr.

    Raises:
        UserError: the hub can't be reached, or refuses.
    """
    named = _hub_model(model, card)
    try:
        return str(named.push_to_hub(repository, **options))
    except Exception as error:  # huggingface_hub and its HTTP library raise many kinds
        raise UserError(
            f"'{repository}' was not uploaded ({type(error).__name__}: {first_line(error)[:160]})"
        ) from None


def _hub_model(model: nn.Module | str | Path, card: str | None) -> HubModel:
    if not isinstance(model, nn.Module):
        return HubModel(read_checkpoint(model), card or shipped_card(model))
    origin = getattr(model, ORIGIN, None)
    if not isinstance(origin, Content):
        raise UserError(
            f"this {type(model).__name__} was not loaded, so nothing says how to build it; save the"
            " checkpoint of its run instead"
        )
    return HubModel(replace(origin, weights=model.state_dict()), card)


def shipped_card(checkpoint: str | Path) -> str | None:
    """The data card beside a checkpoint: NAME.md."""
    path = find_checkpoint(checkpoint).with_suffix(".md")
    return path.read_text(encoding="utf-8") if path.is_file() else None


def model_card(content: Content) -> str:
    """What a checkpoint says about itself, as Markdown with the hub's header."""
    name = content.config["model"]["target"].rpartition(".")[2]
    train = (content.config.get("data") or {}).get("train") or {}
    figures = [f"| {key} | {value:.5g} |" for key, value in content.figures.items()]
    table = ["| validation | value |", "| --- | --- |", *figures] if figures else []
    card = content.card
    data = card.data or train.get("target") or "data that are not known"
    says = {
        "size": "x".join(map(str, card.size)) if card.size else "",
        "labels": ", ".join(card.labels),
        "classes": ", ".join(card.classes),
        "settings": ", ".join(f"{key} {value}" for key, value in card.sampling.items()),
    }
    lines = [
        "---",
        "library_name: taming",
        "tags: [vq-gan, image-tokenizer]",
        "---",
        f"# {name}",
        "",
        f"A {content.stage} stage, trained for {content.batches} batches on {data}.",
        "",
        *(f"- {key}: {value}" for key, value in says.items() if value),
        "",
        "```python",
        "import taming",
        "",
        'model = taming.from_pretrained("OWNER/NAME")',
        "```",
        "",
        *table,
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
