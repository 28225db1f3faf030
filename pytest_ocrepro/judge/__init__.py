"""Pure functions: history in, judgement out."""
