"""What is on disk <-> our models."""
