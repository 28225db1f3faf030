"""What a trial claims, what was found, and what a healthy opencode would have done; as blocks of its page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_ocrepro.events import Expectation
from pytest_ocrepro.publish.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Text,
    Words,
    issues,
    mono,
    said,
    sheet,
    soft,
)
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.publish.trial_view import View


def claim(view: View) -> Iterator[Block]:
    """What was said of the trial, what the scenario claims, and the facts by which it is found again."""
    result, info = view.entry.result, view.stored.info
    lead, rest = parted(result.reason)
    yield Paragraph(text=said(lead, Words(f"; {rest}", "rest") if rest else ""), css="reason")
    for problem in view.stored.problems:
        yield Paragraph(text=said(problem), css="alarm")
    if info.docstring:
        yield Paragraph(text=said(clip(unwrapped(info.docstring), 2000)), css="claim")
    facts: list[Text] = [issues(result.issue), said(mono(result.scenario)), said(f"seed {result.seed}")]
    facts += [said("signature ", mono(result.signature))] if result.signature else []
    facts += [said(f"pytest: {clip(result.expected, 200)}")] if result.expected else []
    facts += [said("known on this version")] if result.known else []
    yield Paragraph(text=joined(facts), css="small soft")


def parted(reason: str) -> tuple[str, str]:
    """The sentence that says it, and what follows."""
    lead, _, rest = reason.partition("; ")
    return clip(lead), clip(rest)


def unwrapped(text: str) -> str:
    """Its paragraphs, without the line breaks that a source file had in them."""
    return "\n\n".join(" ".join(part.split("\n")) for part in text.split("\n\n"))


def joined(facts: Iterable[Text]) -> Text:
    """Facts in a row, with dots between them."""
    return tuple(piece for fact in facts if fact for piece in (" · ", *fact))[1:]


def findings(view: View) -> Iterator[Block]:
    """What was found, and which processes outlived the trial."""
    found = view.judgement.findings if view.judgement else ()
    items = [said(Words(one.kind, "strong"), f": {clip(one.text)}") for one in found]
    items += [said(Words("leaked process", "no"), f": {clip(one)}") for one in view.entry.result.leaked]
    if items:
        yield Heading(text="Findings")
        yield Bullets(items=tuple(items))


def expectations(demands: Iterable[Expectation]) -> Iterator[Block]:
    """The demands as a table."""
    rows = [
        (
            said(Words(one.role, "strong") if one.role else "", ": " if one.role else "", clip(one.claim)),
            said(_held(one.held), soft(f"\n{one.finding}") if one.finding else ""),
            said(clip(one.because)),
        )
        for one in demands
    ]
    if rows:
        title = "What a healthy opencode must do, and whether it did"
        yield sheet(title, ["demand", "result", "because"], rows)


def _held(held: bool | None) -> Words:  # noqa: FBT001 - three values of one fact
    if held is None:
        return Words("? unknown", "unknown")
    return Words("✓ held", "ok") if held else Words("✕ broken", "no")
