"""What figures are worth: reconstruction, codes, likelihood, generation and faithfulness to a layout, each with the protocol that made it."""

__all__ = ["Segmenter", "evaluate"]


def __getattr__(name: str):
    """Fetched when first used: the report and the doctor need no Lightning."""
    if name == "Segmenter":
        from taming.evaluation.segmenter import Segmenter

        return Segmenter
    if name == "evaluate":
        from taming.evaluation.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'taming.evaluation' has no attribute '{name}'")
