"""What figures are worth: reconstruction, codes, likelihood, generation and faithfulness to a layout, each with the protocol that made it."""

__all__ = ["Segmenter"]


def __getattr__(name: str):
    """Fetched when first used: the report needs no Lightning."""
    if name == "Segmenter":
        from taming.evaluation.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module 'taming.evaluation' has no attribute '{name}'")
