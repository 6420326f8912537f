"""Training of both stages and of the segmenter: the only room that knows pytorch_lightning."""
