"""What was judged, in words for a terminal. Texts of the subject are shown with their control characters spelled."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.publish.counting import Entry, matrix
from pytest_ocrepro.publish.records import TrialInfo, TrialResult
from pytest_ocrepro.publish.text import cut, flat, visible

WIDTH = 118


def summary_table(results: Sequence[TrialResult], *, width: int = 120) -> str:
    """Scenario by version for a terminal: k of n, verdict and the reason, in lines of at most ``width`` columns."""
    lines = [("scenario", "version", "rate", "verdict", "reason")]
    for row in matrix([Entry(result=result) for result in results]):
        title = cut(flat(row.title), 40)
        for cell in filter(None, row.cells):
            rate = f"{cell.glyph} {cell.rate}" + (f" +{cell.inconclusive}?" if cell.inconclusive and cell.n else "")
            lines.append((title, cut(flat(cell.version), 16), rate, flat(cell.verdict), flat(cell.reason)))
            title = ""
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return "\n".join(cut("  ".join(map(str.ljust, line, (*widths, 0))), width).rstrip() for line in lines)


def judgement_in_words(info: TrialInfo, judgement: Judgement) -> str:
    """Result, verdict and grade, chain, findings; what would refute it."""
    main = next((one for one in judgement.processes if one.chain == judgement.chain), None)
    lines = [
        f"{info.scenario}, opencode {info.version or '(unknown)'}, trial {info.trial}",
        *paragraph(f"{judgement.result}: {judgement.reason}"),
        f"verdict: {judgement.verdict} ({judgement.grade}) after {judgement.seconds_to_verdict:.1f} s",
        *chain_in_lines(judgement.chain),
        *findings_in_lines(judgement),
    ]
    lines += paragraph(f"refuted by: {main.refuted_by}") if main is not None and main.refuted_by else []
    lines += [f"signature: {judgement.signature}"] if judgement.signature else []
    return "\n".join(visible(line) for line in lines)


def chain_in_lines(chain: Iterable[str]) -> Iterator[str]:
    """Each link on a line of its own, the evidence for it below."""
    links = [link.partition(" [") for link in chain]
    if links:
        yield "chain:"
    for link, _, evidence in links:
        yield from paragraph(link, "  ")
        grade, _, facts = evidence.removesuffix("]").partition(": ")
        yield from paragraph(f"{grade}: {facts}", "      ") if facts else ()


def findings_in_lines(judgement: Judgement) -> Iterator[str]:
    """What is wrong in stored state, a line each."""
    if judgement.findings:
        yield "findings:"
    for finding in judgement.findings:
        yield from paragraph(f"{finding.kind}: {finding.text}", "  ")


def paragraph(text: str, indent: str = "") -> list[str]:
    """The text in lines of at most 118 columns; a word that is longer stays whole, so that paths can be copied."""
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
