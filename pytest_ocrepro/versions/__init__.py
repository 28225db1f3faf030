"""More than one build."""
