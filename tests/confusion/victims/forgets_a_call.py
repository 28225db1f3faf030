"""Takes one kind of call and never answers it; all others go on."""

from acting import begin, serve

begin()
serve(lambda path: None if path == "/lost" else "{}")
