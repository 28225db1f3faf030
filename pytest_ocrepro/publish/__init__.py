"""Evidence, and everything that is rendered from it."""
