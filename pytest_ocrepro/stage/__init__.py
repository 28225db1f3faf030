"""The closed world that a subject runs in and against."""
