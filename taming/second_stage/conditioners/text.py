"""Text as a condition: byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of bytes,
learned from the captions of the training set.
"""

import importlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from taming.config.ranges import Range
from taming.errors import UserError
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape

PADDING, BYTES = 0, 256
FIRST_PAIR = 1 + BYTES
"""Token 0 pads, 1 to 256 are bytes, then come the pairs, in the order in which they are merged."""


class Text(Conditioner):
    """batch["caption"]: B texts. Case and spaces do not count, anything that UTF-8 can write goes.

    The pairs are a buffer, int32 (vocabulary - 257, 2): what a checkpoint holds of a tokenizer is
    numbers. Needs the package `tokenizers`.

    Args:
        length: the most tokens of a text; shorter ones are padded.
        vocabulary: number of tokens: padding, 256 bytes, and pairs.
        longer: refuse texts of more tokens, or cut them (captions of large sets).
    """

    key = "caption"
    pairs: Tensor

    def __init__(
        self,
        length: Annotated[int, Range(1, 4096)] = 32,
        vocabulary: Annotated[int, Range(FIRST_PAIR, 2**20)] = 1024,
        longer: Literal["refuse", "cut"] = "refuse",
    ):
        super().__init__()
        self.length, self.vocabulary, self.longer = length, vocabulary, longer
        self.register_buffer("pairs", torch.full((vocabulary - FIRST_PAIR, 2), -1).int())
        self.register_load_state_dict_post_hook(_forget_byte_pairs)

    def prepare(self, captions: Callable[[], Sequence[str]]) -> None:
        """Learns the pairs from captions, where it has none yet."""
        if not bool((self.pairs >= 0).any()) and len(self.pairs):
            self.learn(captions())

    def learn(self, texts: Iterable[str]) -> None:
        """The most frequent pairs of these texts; fewer than there is room for if they are few."""
        library = tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocabulary - 1,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(normalised, texts), trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        numbers = {symbol: 1 + byte for byte, symbol in enumerate(symbols())}
        self.pairs.fill_(-1)
        for row, (one, other) in enumerate(merges[: len(self.pairs)]):
            self.pairs[row] = torch.tensor([numbers[one], numbers[other]])
            numbers.setdefault(one + other, FIRST_PAIR + row)
        _forget_byte_pairs(self)

    @cached_property
    def byte_pairs(self) -> Any:
        """What turns a text into tokens, of any number: a Tokenizer of `tokenizers`."""
        library = tokenizers()
        words = [None, *symbols()]
        merges, limit = [], self.vocabulary
        for one, other in self.pairs.tolist():
            if not 0 < one < len(words) or not 0 < other < len(words):
                break  # the rest is empty
            merges.append((words[one], words[other]))
            words.append(words[one] + words[other])
        numbers = {word: number for number, word in enumerate(words[:limit]) if word is not None}
        tokenizer = library.Tokenizer(library.models.BPE(vocab=numbers, merges=merges))
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        return tokenizer

    def forward(self, batch: dict) -> Condition:
        texts = texts_of(batch)
        rows = torch.full((len(texts), self.length), PADDING, dtype=torch.int64)
        for row, text in zip(rows, texts):
            tokens = self.byte_pairs.encode(normalised(text)).ids
            if len(tokens) > self.length and self.longer == "refuse":
                raise UserError(
                    f"the text {text[:40]!r}... has {len(tokens)} tokens, but this prior knows"
                    f" {self.length}; shorten it"
                )
            tokens = tokens[: self.length]
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return (Part(rows.to(self.pairs.device), self.vocabulary),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.vocabulary, self.length),)


def _forget_byte_pairs(text: torch.nn.Module, _: Any = None) -> None:
    """They are made anew from other pairs."""
    text.__dict__.pop("byte_pairs", None)


def texts_of(batch: dict) -> list[str]:
    """The captions of a batch, checked. Raises UserError for none, an empty one, and no text."""
    if "caption" not in batch:
        raise UserError(
            "the prior is conditioned on 'caption', but the batch has"
            f" {', '.join(map(str, batch)) or 'nothing'}"
        )
    texts = batch["caption"]
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not texts:
        raise UserError(f"'caption' should be texts, one for each picture, not {texts!r:.60}")
    for text in texts:
        if not isinstance(text, str) or not normalised(text):
            raise UserError(f"a caption should be a text that is not empty, not {text!r:.60}")
    return list(texts)


def normalised(text: str) -> str:
    """Small letters, one form for each character, single spaces; also for what is no Unicode."""
    clean = text.encode("utf-8", "replace").decode()
    return " ".join(unicodedata.normalize("NFKC", clean).lower().split())


def symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level encoding (Radford et al.
    2019): itself where it is printable, else the next free one from 256.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(BYTES)]


def tokenizers() -> Any:
    """The library, which is an optional dependency. Raises UserError."""
    try:
        for name in ("models", "pre_tokenizers", "trainers"):
            importlib.import_module(f"tokenizers.{name}")
    except ImportError:
        raise UserError("text needs tokenizers: pip install 'taming[text]'") from None
    return importlib.import_module("tokenizers")
