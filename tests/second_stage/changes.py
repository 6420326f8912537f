"""Conditions that differ from another in one token."""

from collections.abc import Iterator

from taming.second_stage.interface import Condition, Part


def each_token_changed(condition: Condition) -> Iterator[Condition]:
    """One after the other, each token of the first picture is another one."""
    for p, part in enumerate(condition):
        for i in range(part.tokens.shape[1]):
            tokens = part.tokens.clone()
            tokens[0, i] = (tokens[0, i] + 1) % (part.vocabulary + 1)
            yield (condition[:p] + (Part(tokens, part.vocabulary, part.grid),) + condition[p + 1 :])
