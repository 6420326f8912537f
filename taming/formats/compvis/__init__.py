"""CompVis's published YAML and weights <-> ours: the only room that knows their names."""
