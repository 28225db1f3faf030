"""A certificate for people: Markdown that also reads well on a terminal, and an inert page with its picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pytest_ocrepro.judge.rates import percent
from pytest_ocrepro.versions.certificate import Answer, Certificate, Tally
from pytest_ocrepro.versions.search import Why

FLAGGED = 0.5  # P(not monotone) from which it is said first
SHOWN = 8  # of a list in a sentence
WIDTH, HEIGHT, LEFT = 900.0, 150.0, 40.0
STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{border:1px solid #8888;padding:.2em .6em;text-align:left}
pre{overflow-x:auto}svg text{font:11px system-ui,sans-serif;fill:currentColor}
.present{fill:#c0392b}.unknown{fill:#8888}.axis{stroke:currentColor;stroke-width:.7}.hit{fill:#c0392b}.clean{fill:#2471a3}
"""


def as_markdown(told: Certificate, *, picture: bool = True) -> str:
    """The text for an issue; ``picture``: with a row of text for each version that matters."""
    return "\n".join(_lines(told, picture=picture)).rstrip() + "\n"


def headline(told: Certificate) -> str:
    """One line: a name only where fresh trials confirm it."""
    first_last = "clean" if told.find_fix else "failing"
    word = "Fixed" if told.find_fix else "Introduced"
    if told.why is Why.NEVER:
        return f"Not reproduced at the failing end: {_end(told)}; no build is named"
    if told.why is Why.ALWAYS:
        return _always(told)
    if told.same_bytes:
        return f"A contradiction: {told.sides[0].version} and {told.sides[1].version} are the same file"
    if not told.answers:
        return f"No answer: {told.why}"
    best = told.answers[0]
    if told.why is Why.FOUND and told.controls.k:
        return f"No name: the control failed too, {told.controls.in_words()}; {word.lower()} in {_set(told)}"
    if told.why is Why.FOUND:
        what = "commit among those that build" if told.commits else "build among those served here"
        among = f"the first {first_last} {what}"
        again = ""
        if told.not_monotone > FLAGGED:
            again = ", and it came back later" if told.find_fix else ", not for the first time"
        how = f"posterior {sure(best.probability)}, confirmed by fresh trials"
        return f"{word} in {_named(best)}{again}: {among} ({how})"
    return f"No name yet, {told.why}: {word.lower()} in {_set(told)}"


def sure(probability: float) -> str:
    """A percentage that is never rounded up to certainty."""
    return "over 99.9 %" if probability > 0.9995 else percent(probability)  # noqa: PLR2004  where that begins


def as_page(told: Certificate) -> str:
    """One file, no script, no request: the picture, then the text."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><title>ocrepro bisect</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(headline(told))}</h1>\n{picture_of(told)}\n"
        f"<pre>{escape(as_markdown(told))}</pre></body></html>\n"
    )


def picture_of(told: Certificate) -> str:
    """SVG: a column a build; its height is P(the failure is in it), below it the trials, hits above misses."""
    rows = told.tallies
    step = (WIDTH - LEFT) / max(1, len(rows))
    parts = [*_axis(), *(_column(row, LEFT + at * step, step) for at, row in enumerate(rows)), *_names(rows, step)]
    title = escape(f"Probability that the failure is in each build, {told.first} to {told.last}")
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH:g} {HEIGHT + 100:g}" width="100%" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{title}</title>{"".join(parts)}</svg>'
    )


# --- below: the text


def _lines(told: Certificate, *, picture: bool) -> Iterator[str]:
    yield f"### {headline(told)}"
    yield ""
    what = "commits of the first-parent line" if told.commits else "builds served"
    builds = f"{len(told.tallies)} {what} from {told.first} to {told.last}"
    yield f"Asked: scenario `{told.scenario}` on the {builds}."
    yield f"Spent: {told.trials} trials, {told.downloads} downloads, {told.seconds / 60:.1f} minutes."
    if told.wanted:
        yield f"Counted as the failure: {', '.join(f'`{word}`' for word in told.wanted)}."
    yield ""
    yield from _sides(told)
    if told.compare:
        yield f"Changes: {told.compare}"
    if told.compare and not told.commits:
        yield f"The commit, in a checkout of opencode: `{_hand_over(told)}`"
    yield from _set_of(told)
    yield from _limits(told)
    yield from _by_sign(told)
    if picture:
        yield from _picture(told.tallies)


def _sides(told: Certificate) -> Iterator[str]:
    if not told.sides:
        return
    yield "| side | build | fresh trials, not used for choosing | all trials |"
    yield "|---|---|---|---|"
    failing = told.answers[0].failing if told.answers else ""
    for side in told.sides:
        word = "failing" if side.version == failing else "clean"
        yield f"| {word} | {side.version} | {side.fresh.in_words()} | {side.whole.in_words()} |"
    yield ""
    if told.p is not None:
        yield f"Fresh trials of the two sides differ by Fisher's exact test with p = {told.p:.2g}."


def _hand_over(told: Certificate) -> str:
    """The next finer search; how a checkout is built is for its user to fill in."""
    answer, terms = told.answers[0], ""
    new, old = answer.failing, answer.clean
    rate = told.sides[0].whole.share or 0.5
    run = f"ocrepro bisect-run {told.scenario} --binary PATH --build COMMAND --rate {max(0.05, rate / 2):.2f}"
    if told.find_fix:
        new, old, terms = old, new, " --term-old broken --term-new fixed"
        run += " --find-fix"
    return f"git bisect start{terms} v{new} v{old} && git bisect run {run}"


def _set_of(told: Certificate) -> Iterator[str]:
    if len(told.answers) > 1:
        total = percent(min(1.0, sum(one.probability for one in told.answers)))
        yield f"Answers that together reach {total} (asked: {percent(told.confidence)}):"
        yield from (f"- {_named(one)}: {percent(one.probability)}" for one in told.answers[:SHOWN])
        if len(told.answers) > SHOWN:
            yield f"- and {len(told.answers) - SHOWN} more"


def _limits(told: Certificate) -> Iterator[str]:
    yield ""
    yield "What this does not reach:"
    if told.commits:
        yield "- commits beside the line of first parents: a change is dated to the merge that brought it"
    else:
        yield "- builds that this registry does not serve: a change is dated to the first one served that has it"
    closed = [row for row in told.tallies if row.closed]
    yield from (f"- {row.version} was not tried: {row.closed}" for row in closed[:SHOWN])
    if len(closed) > SHOWN:
        yield f"- nor were {len(closed) - SHOWN} more"
    yield _monotone(told)
    yield from (
        f"  - between {one.clean} (clean) and {one.failing} (failing): {percent(one.probability)}"
        for one in told.transitions
    )
    yield f"- the oracle's own false positives, estimated {percent(told.false_rate)} a trial"
    if told.control:
        flag = "**it must never fail**: " if told.controls.k else ""
        yield f"- {flag}the control `{told.control}` in between: {told.controls.in_words()}"
    if told.uneven:
        yield f"- {told.uneven} fails at another rate than the others of its side; the posterior is too sure then"
    if told.inconclusive:
        yield f"- {told.inconclusive} inconclusive trials (ours or the machine's), which count for nothing"
    yield from (
        f"- {number} trials ended with another failure, `{sign}`, and say nothing" for sign, number in told.foreign
    )
    if told.edited:
        yield f"- the journal was edited by hand (lines {', '.join(map(str, told.edited))})"
    yield f"- load average during the trials: {told.load[0]:.1f} to {told.load[1]:.1f}"


def _monotone(told: Certificate) -> str:
    if told.monotone:
        return "- a history with more than one change: it was told to assume a single one"
    flag = "**more than one change is likely**: " if told.not_monotone > FLAGGED else ""
    return f"- {flag}the failure came more than once with probability {percent(told.not_monotone)}"


def _by_sign(told: Certificate) -> Iterator[str]:
    if told.by_sign:
        yield ""
        yield "Each sign of failure asked for alone, in the same trials:"
    for sign, found, rate in told.by_sign:
        reach = ", ".join(f"{_named(answer)} {percent(answer.probability)}" for answer in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""  # noqa: PLR2004  the three shown
        yield f"- `{sign}` in {rate}: {reach}{more}"


def _picture(rows: Sequence[Tally]) -> Iterator[str]:
    yield ""
    yield "```"
    yield f"{'build':12} {'k/n':>7}  probability that the failure is in it"
    for row in rows:
        bar = "#" * round(row.present * 20)
        same = f" (same bytes: {', '.join(row.same)})" if row.same else ""
        rate = str(row.rate) if row.rate.n else ""
        yield f"{row.version:12} {rate:>7}  {bar:20} {row.present:6.1%}{same} {row.closed}".rstrip()
    yield "```"


def _always(told: Certificate) -> str:
    """There is no clean side: of the range, or of what could be tried of it."""
    side = told.sides[0]
    still, age, end = (
        ("Still there", "newest", told.last) if told.find_fix else ("There already", "oldest", told.first)
    )
    tried = "" if side.version == end else " that could be tried"
    return f"{still} in the {age} build{tried}, {side.version}: {side.fresh.in_words()}; no build is named"


def _named(one: Answer) -> str:
    if not one.failing:
        return "none: not in these builds"
    if not one.clean:
        return f"none: in all of these builds, {one.failing} included"
    if len(one.suspects) == 1:
        return one.suspects[0]
    shown = ", ".join(one.suspects) if len(one.suspects) <= SHOWN else f"{one.suspects[0]} to {one.suspects[-1]}"
    return f"one of {shown} (which no trial can tell apart)"


def _set(told: Certificate) -> str:
    named = {version for one in told.answers for version in one.suspects}
    suspects = [row.version for row in told.tallies if row.version in named]
    total = sure(min(1.0, sum(one.probability for one in told.answers)))
    if len(suspects) == 1:
        return f"{suspects[0]} perhaps ({total}, but fresh trials have not confirmed it)"
    few = ", ".join(suspects) if len(suspects) <= SHOWN else f"{suspects[0]} to {suspects[-1]}"
    return f"one of {few} ({len(suspects)} builds, {total})"


def _end(told: Certificate) -> str:
    tried = [row for row in told.tallies if row.rate.n]
    if not tried:
        return "nothing was tried"
    end = tried[0] if told.find_fix else tried[-1]
    return f"{end.version} {end.rate.in_words()}"


# --- below: the picture


def _axis() -> Iterator[str]:
    for share in (0.0, 0.5, 1.0):
        y = 10 + (1 - share) * HEIGHT
        yield f'<line class="axis" x1="{LEFT:g}" x2="{WIDTH:g}" y1="{y:g}" y2="{y:g}" opacity=".3"/>'
        yield f'<text x="{LEFT - 6:g}" y="{y + 4:g}" text-anchor="end">{share:.0%}</text>'


def _column(row: Tally, x: float, step: float) -> str:
    height = row.present * HEIGHT
    css = "present" if row.rate.n else "unknown"
    said = f"{row.version}: {row.present:.1%}, {row.rate.in_words()}{'; ' + row.closed if row.closed else ''}"
    width = max(1.0, step * 0.8)
    box = (
        f'<rect class="{css}" x="{x:.1f}" y="{10 + HEIGHT - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(said)}</title></rect>"
    )
    return box + _trials(row, x + width / 2)


def _trials(row: Tally, x: float) -> str:
    if not row.rate.n:
        return ""
    y = HEIGHT + 24
    kind = "hit" if row.rate.k else "clean"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:g}" r="3"><title>{escape(str(row.rate))}</title></circle>'


def _names(rows: Sequence[Tally], step: float) -> Iterator[str]:
    """As many as fit, turned."""
    every = max(1, round(14 / step + 0.5))
    for at, row in enumerate(rows):
        if at % every == 0 or at == len(rows) - 1:
            x, y = LEFT + (at + 0.4) * step, HEIGHT + 36
            yield f'<text transform="translate({x:.1f} {y:g}) rotate(60)">{escape(row.version)}</text>'
