"""What the intrusive step showed: traced calls and native stacks, under the words that it may have disturbed."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ocrepro.events import CallsTraced, CoreWritten, IntrusionBegun, StacksTaken
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.document import Block, Paragraph, Part, Verbatim, said, sheet
from pytest_ocrepro.publish.text import clip

MOST_STACKS = 40
DISTURBED = (
    "Possibly disturbed: strace and gdb stop a process for a moment, so all that follows in the history may be"
)


def intrusions(history: History) -> Iterator[Block]:
    """Nothing for a trial that nobody intruded on, which is the rule."""
    begun = history.of_type(IntrusionBegun)
    if not begun:
        return
    blocks: list[Block] = [Paragraph(text=said(f"{DISTURBED} an effect of it."), css="alarm")]
    blocks += [_calls(event) for event in history.of_type(CallsTraced)]
    for stacks in history.of_type(StacksTaken):
        text = "\n\n".join(
            "\n".join((", ".join(stack.threads), *(f"  {frame}" for frame in stack.frames)))
            for stack in stacks.stacks[:MOST_STACKS]
        )
        blocks.append(Verbatim(text=text, folded=f"native stacks of {stacks.role} (pid {stacks.pid})"))
    for core in history.of_type(CoreWritten):
        where = f"core of {core.role} (pid {core.pid}): {core.size_bytes} bytes in {core.file}, beside the bundle"
        blocks.append(Paragraph(text=said(f"{where}; it holds the whole memory, secrets included")))
    yield Part(
        title="Intrusive step", note=", ".join(dict.fromkeys(event.tool for event in begun)), blocks=tuple(blocks)
    )


def _calls(event: CallsTraced) -> Block:
    heads = ["call", "path", "result", "#times", "s", "#threads"]
    rows = [
        (
            said(call.name),
            said(clip(call.path, 200)),
            said(call.result),
            said(len(call.at_s)),
            said(", ".join(f"{at:.2f}" for at in call.at_s[:10])),
            said(len(call.threads)),
        )
        for call in event.calls
    ]
    return sheet(f"mkdir calls of {event.role} (pid {event.pid}) within {event.seconds:.1f} s of strace", heads, rows)
