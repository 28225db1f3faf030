"""Its session has a question, and until that is answered no call that prompts it comes back."""

import json

from acting import begin, serve

QUESTION = [{"id": "que_1", "sessionID": "ses_1", "questions": []}]


def handle(path: str) -> str | None:
    if path == "/question":
        return json.dumps(QUESTION)
    return None if path == "/session/ses_1/message" else "{}"


begin()
serve(handle)
