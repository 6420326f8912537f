"""A model over files: samples, reconstructions, codes, compressed pictures."""
