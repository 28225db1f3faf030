from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Finding
from pytest_ocrepro.publish import page
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.page import render, write_report
from pytest_ocrepro.publish.records import Fact
from pytest_ocrepro.publish.redaction import Redactor
from tests.data.publish import sample_run

WRITE_LOCK = "A run that finds the database locked says so in time"
VOID = {"meta", "link", "br", "img", "input", "hr"}
ALLOWED = re.compile(
    "html|head|meta|title|link|style|body|a|header|main|section|footer|p|h[1-4]|ul|ol|li|table|caption|thead|tbody|tr|th|td"
    "|span|b|i|br|code|pre|details|summary|figure|figcaption|div|dl|dt|dd|time|fieldset|legend|label"
    "|input|button|kbd|dialog|template|script"
    "|svg|defs|pattern|marker|rect|line|path|text|g"
)


class Outline(HTMLParser):
    """Reads a page strictly: every element is closed in order, and what matters is written down."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.svg_titles = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.svg_titles += tag == "title" and self.open[-1:] == ["svg"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text.setdefault(tag, []).append(data)

    def all(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]

    def words(self, tag: str) -> str:
        return " ".join(" ".join(self.text.get(tag, [])).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return sample_run.make_run(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def text(run: RunDir) -> str:
    return render(run)


def unpacked(text: str, name: str) -> Any:
    """What the page's script reads from a template."""
    (packed,) = re.findall(rf'<template id="{name}">(.*?)</template>', text, re.DOTALL)
    return msgspec.json.decode(gzip.decompress(base64.b64decode(packed)))


def one(tmp_path: Path, *cases: sample_run.Case) -> RunDir:
    run = RunDir.create(tmp_path)
    for case in cases:
        sample_run.store(run, case)
    return run


# --- what the first screen says ---------------------------------------------------------------------------------


def test_the_headline_counts_scenarios_without_their_controls(text: str) -> None:
    outline = Outline(text)
    assert outline.words("h1") == "3 of 4 scenarios reproduced on opencode 1.14.48, 1.15.4 and 1.18.34"
    header = outline.words("header")
    assert "● 3 reproduced" in header
    assert "○ 1 not seen" in header
    assert "1 control: none failed" in header
    assert "76 trials" in header


def test_one_scenario_is_named_in_the_headline(tmp_path: Path) -> None:
    text = render(one(tmp_path, sample_run.overlap("1.15.4", 1), sample_run.alone("1.15.4", 1)))
    outline = Outline(text)
    assert "1/1</b> trial reproduced on opencode 1.15.4" in text
    assert outline.words("h1") == (
        "Reproduced in 1 of 1 trial on opencode 1.15.4: "
        "A run that starts while another installs its plugin answers or fails fast"
    )


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        ((), "Nothing was run"),
        ((("write_lock", 1),), f"Not seen in 1 trial on opencode 1.15.4: {WRITE_LOCK}"),
        ((("write_lock", 1), ("write_lock", 2)), f"Not seen in 2 trials on opencode 1.15.4: {WRITE_LOCK}"),
        ((("write_lock", 3),), f"Inconclusive on opencode 1.15.4: {WRITE_LOCK}"),
    ],
)
def test_headlines_without_a_reproduction(tmp_path: Path, cases: tuple[tuple[str, int], ...], says: str) -> None:
    run = one(tmp_path, *(getattr(sample_run, name)("1.15.4", trial) for name, trial in cases))
    assert Outline(render(run)).words("h1") == says


def test_the_matrix_has_a_rate_with_its_doubt_for_every_version(text: str) -> None:
    rows = re.findall(r"<tr.*?</tr>", text[text.index('class="matrix"') :], re.DOTALL)
    cells = [re.sub(r"\s+", " ", re.sub("<[^>]*>", "", row)) for row in rows]
    assert cells[0] == "scenarioopencode 1.14.48opencode 1.15.4opencode 1.18.34"
    overlap, lock, control = cells[1], cells[4], cells[5]
    assert overlap.count("●5/5 reproducedblocked · 95 % CI 57-100 %") == 3
    assert overlap.count("1 inconclusive") == 1
    assert lock.count("○0/4 not seenfailed-fast · rules out &gt; 53 % · 1 inconclusive") == 3
    assert control.count("○0/5 not seen") == 3
    assert "control" in control


def test_what_was_not_run_is_not_a_zero(tmp_path: Path) -> None:
    text = render(
        one(tmp_path, sample_run.overlap("1.15.4", 1), sample_run.alone("1.9.0", 1), sample_run.alone("1.10.0", 1))
    )
    assert text.count("not run") == 3
    heads = re.findall(r'<th scope="col">opencode ([^<]*)', text)
    assert heads == ["1.9.0", "1.10.0", "1.15.4"]


def test_the_clearest_case_is_the_one_with_a_chain(text: str) -> None:
    clearest = text[text.index('id="clearest"') : text.index('id="verdict"')]
    for part in ("second (pid 812)", "lock directory npm-install:", "first (pid 801)", "registry 127.0.0.1:41873"):
        assert part in clearest
    assert clearest.index("second (pid 812)") < clearest.index("registry 127.0.0.1:41873")
    assert clearest.count("<svg") == 2
    assert "5/5</b> trials reproduced on opencode 1.18.34" in clearest
    assert "95 % interval 57-100 %" in clearest
    assert "5 of 6 trials reproduced, in order" in clearest


# --- evidence ---------------------------------------------------------------------------------------------------


def test_a_trial_shows_all_that_its_bundle_holds(tmp_path: Path) -> None:
    text = render(one(tmp_path, sample_run.overlap("1.15.4", 1)))
    for said in (
        "The later run must answer or fail fast",
        "<td>waits for an answer of</td>",
        "<td>registry 127.0.0.1:41873 (stalled: will not answer)</td>",
        "meta.json names pid 801",
        "finishes: it answers",
        "✕ broken",
        "✓ held",
        "futex_do_wait",
        "epoll_pwait2",
        "+17",  # voluntary switches between the two snapshots
        "4.9 s between the looks at ",
        "opencode.db-wal",
        "… 4 more",
        "127.0.0.1:51822",
        "DMS",
        "3f0c2a9d41be7715c0ffee00aa55ed10b7d6c9e1.lock",
        "loading internal plugin",
        "registry stall, accepts and never answers, 127.0.0.1:41873",
        "nothing leaked",
        "XDG_DATA_HOME=$SANDBOX/data",
        "opencode run -m bogus/nope-2 hi",
        "pytest --ocrepro --ocrepro-version 1.15.4 --ocrepro-seed 1001",
        "stack of pid 801: ptrace scope 1",
        "41 \u00d7 place",
        "no cycle found",
        "refuted by:",
    ):
        assert said in text, said


def test_what_looking_has_cost_is_told(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    for trial, cpu_ns in ((1, 10_000_000), (2, 20_000_000), (3, 90_000_000)):
        info, events, judgement = sample_run.overlap("1.15.4", trial)
        cost = h.ObservingCost(
            at_ns=events[-1].at_ns, samples=1, snapshots=1, cpu_ns=cpu_ns, snapshots_cpu_ns=0, seconds=1.0
        )
        sample_run.store(run, (info, [*events, cost], judgement))
    assert "median 2.0 % of one core, at most 9.0 %, in 3 trials (our CPU time); a look every 0.50 s, " in render(run)
    assert "cost of looking" not in render(one(tmp_path / "untold", sample_run.overlap("1.15.4", 1)))


def test_alike_threads_are_folded_into_one_row(tmp_path: Path) -> None:
    text = render(one(tmp_path, sample_run.overlap("1.15.4", 1)))
    tables = text[text.index("4.9 s between the looks at ") :]
    assert tables.count("<td>3 \u00d7 HeapHelper</td>") == 2
    assert tables.count("<td>5 \u00d7 Bun Pool</td>") == 2


def test_calls_to_the_server_are_an_escape_hatch_table(tmp_path: Path) -> None:
    text = render(one(tmp_path, sample_run.question("1.18.34", 1)))
    rows = re.findall(r"<tr><td>(guarded|way out[^<]*)</td>.*?</tr>", text)
    assert rows.count("guarded") == 3
    assert "way out: abort" in rows
    assert "✕ 409" in text
    assert "✓ 204" in text
    assert "✕ no answer within 5 s" in text
    assert "SessionBusyError" in text
    assert "? unknown" in text


def test_what_is_left_in_the_database_is_shown(tmp_path: Path) -> None:
    text = render(one(tmp_path, sample_run.killed_server("1.15.4", 1)))
    for said in (
        "prt_9ac",
        "message without time.completed",
        "orphaned part",
        "outlived their opencode: sleep 300 (966)",
    ):
        assert said in text


def test_reproduced_trials_come_first_and_one_a_cell_is_drawn(text: str) -> None:
    results = re.findall(r'<details class="trial ([a-z-]+)"', text)
    order = ["reproduced", "inconclusive", "not-seen"]
    assert results == sorted(results, key=order.index)
    assert len(results) == 3 * 3 + 4 + 2 * 3
    index = unpacked(text, "index")
    assert len(index["rows"]) == 76
    names = [index["words"][row[1]] for row in index["rows"]]
    assert names == sorted(names, key=order.index)
    listed = text[text.index('id="rows"') : text.index('id="evidence"')]
    assert listed.count('<tr><td class="') == 76  # the same without the script


def test_the_evidence_of_all_that_reproduced_is_there(text: str) -> None:
    index = unpacked(text, "index")
    chunks = [unpacked(text, f"chunk-{n}") for n in range(text.count('<template id="chunk-'))]
    for anchor, result, *_, chunk, place, _ in index["rows"]:
        if chunk >= 0:
            assert chunks[chunk][place]["anchor"] == anchor
            assert f'id="{anchor}"' not in text
        elif chunk == -1:
            assert f'id="{anchor}"' in text
        else:
            assert index["words"][result] != "reproduced"
    assert "have 9 trials like others that did not reproduce" in text


def test_a_torn_trial_is_inconclusive_and_shows_what_there_is(tmp_path: Path) -> None:
    info, events, _ = sample_run.overlap("1.15.4", 1)
    run = RunDir.create(tmp_path)
    path = sample_run.store(run, (info, events[:12], None))
    with (path / "history.jsonl").open("ab") as file:
        file.write(b'{"event":"note","at')
    outline = Outline(render(run))
    assert outline.words("h1") == f"Inconclusive on opencode 1.15.4: {info.title}"
    body = outline.words("main")
    assert "pytest ended before this trial was judged" in body
    assert "line 13 of history.jsonl was cut off" in body
    assert "registry stall" in body


@pytest.mark.parametrize("file", ["trial.json", "history.jsonl", "judgement.json", "result.json"])
def test_a_corrupt_bundle_is_named_and_the_others_are_there(tmp_path: Path, file: str) -> None:
    run = one(
        tmp_path, sample_run.overlap("1.15.4", 1), sample_run.question("1.15.4", 1), sample_run.alone("1.15.4", 1)
    )
    broken = next(path for path in run.bundles() if "question" in path.name)
    (broken / file).write_bytes(b"\x00 not JSON\n")
    path = write_report(RunDir.read(tmp_path / "latest"))
    outline = Outline(path.read_text(encoding="utf-8"))
    assert f"{broken.name}/{file}" in outline.words("li")
    assert "1 stored file could not be read" in outline.words("main")
    assert "registry 127.0.0.1:41873" in outline.words("main")
    # its line in results.jsonl still counts
    assert outline.words("h1") == "2 of 2 scenarios reproduced on opencode 1.15.4"


def test_a_control_whose_trial_cannot_be_read_is_still_a_control(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1), sample_run.alone("1.15.4", 1))
    (next(path for path in run.bundles() if "single" in path.name) / "trial.json").write_bytes(b"{")
    outline = Outline(render(run))
    assert outline.words("h1").startswith("Reproduced in 1 of 1 trial on opencode 1.15.4: A run that starts while")
    assert "1 control: none failed" in outline.words("header")


def test_a_run_that_was_cut_short_says_so_in_its_header(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1), sample_run.alone("1.15.4", 1))
    (run.bundles()[0] / "trial.json").write_bytes(b"{")  # it was begun, though it cannot be read
    run.write_info(msgspec.structs.replace(run.info, planned=2))
    assert "cut short" not in render(run)
    run.write_info(msgspec.structs.replace(run.info, planned=5))
    assert "This run was cut short: of 5 planned trials 3 were never begun." in Outline(render(run)).words("header")


def test_a_trial_that_nobody_judged_has_no_seconds(tmp_path: Path) -> None:
    info, events, _ = sample_run.overlap("1.15.4", 1)
    run = RunDir.create(tmp_path)
    sample_run.store(run, (info, events, None))
    text = render(run)
    assert "1 trial ended before the verdict" in Outline(text).words("header")
    assert '<td class="n">\u2013</td>' in text
    assert "0.0" not in re.findall(r'<td class="n">([^<]*)</td>', text)
    assert unpacked(text, "index")["rows"][0][8] == -1


def test_a_skipped_trial_is_none_that_could_not_be_judged(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.alone("1.9.0", 1))
    (line,) = run.results()
    text = render(run)
    assert "not seen" in re.findall(r"</span>([^<]*)</td><td>", text)
    lacks = msgspec.structs.replace(line, result="inconclusive", skipped="this build's run has no --auto")
    (run.bundle_of(line) / "result.json").write_bytes(msgspec.json.encode(lacks))
    text = render(run)
    assert "skipped" in re.findall(r"</span>([^<]*)</td><td>", text)
    index = unpacked(text, "index")
    assert index["words"][index["rows"][0][1]] == "skipped"


def test_a_trial_that_is_a_link_is_named_and_not_read(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1), sample_run.alone("1.15.4", 1))
    moved = tmp_path / "elsewhere"
    linked = next(path for path in run.bundles() if "single" in path.name)
    linked.rename(moved)
    linked.symlink_to(moved)
    assert f"trials/{linked.name} is a link; it was not read" in Outline(render(run)).words("li")


def test_corrupt_results_do_not_take_the_page_along(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1))
    (run.path / "results.jsonl").write_bytes(b"{}\n")
    outline = Outline(render(run))
    assert "results.jsonl line 1 is corrupt" in outline.words("main")
    assert outline.words("h1").startswith("Reproduced in 1 of 1 trial")


def test_results_whose_bundles_are_gone_still_count(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1))
    for file in run.bundles()[0].iterdir():
        file.unlink()
    run.bundles()[0].rmdir()
    outline = Outline(render(run))
    assert outline.words("h1").startswith("Reproduced in 1 of 1 trial")
    assert "All trials, reproduced ones first." in outline.words("caption")
    assert "A run that starts while another installs" in outline.words("td")


# --- the page is inert ------------------------------------------------------------------------------------------


def test_the_page_forbids_itself_everything_but_its_own_script(text: str) -> None:
    policy = (
        f"default-src 'none'; script-src '{page.script_hash()}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )
    head = text[: text.index("<title>")]
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in head
    outline = Outline(text)
    assert [tag for tag in outline.tags if not ALLOWED.fullmatch(tag)] == []
    assert not [
        name for _, name, _ in outline.attributes if name.startswith("on") or name in {"src", "srcset", "action"}
    ]
    assert [href for tag, name, href in outline.attributes if tag == "link" and name == "href"] == ["data:,"]
    for href in outline.all("href"):
        inside = ("#", "data:,", "data:application/gzip;base64,")
        assert href.startswith((*inside, "https://github.com/"))
    for opening in ("url(http", "@import", "<iframe", "<object", "javascript:"):
        assert opening not in text


def test_the_script_is_the_one_that_the_policy_and_the_footer_name(text: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.script_hash() == f"sha256-{digest}"
    assert f"sha256-{digest}" in Outline(text).words("footer")
    assert len(script.encode()) <= 40_000


@pytest.mark.parametrize(
    "sink",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser", "fetch(",
     "XMLHttpRequest", "WebSocket", "sendBeacon", "localStorage", "sessionStorage", "cookie",
     "createContextualFragment", "setHTML", "srcdoc", "Worker(", "import(", "</script", "<!--"],
)  # fmt: skip
def test_the_script_has_no_way_to_make_markup_of_text_or_to_ask(sink: str) -> None:
    assert sink not in page.script()


def test_what_is_packed_is_letters_and_digits_alone(text: str) -> None:
    packed = re.findall(r'<template id="(?:index|chunk-[0-9]+)">(.*?)</template>', text, re.DOTALL)
    assert len(packed) == text.count("<template") >= 2
    assert all(re.fullmatch("[A-Za-z0-9+/=]+", one) for one in packed)


def test_the_page_is_built_for_reading_aloud(text: str) -> None:
    outline = Outline(text)
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch("h[1-4]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert outline.tags.count("table") == outline.tags.count("caption")
    assert outline.tags.count("svg") == outline.svg_titles == outline.all("role").count("img")
    ids = outline.all("id")
    assert len(ids) == len(set(ids)), "an id is there twice"
    fragments = {href[1:] for href in outline.all("href") if href.startswith("#")}
    packed = {row[0] for row in unpacked(text, "index")["rows"] if row[13] >= 0}
    assert fragments <= set(ids) | packed
    assert 'class="skip"' in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.hostile())
    info = sample_run.run_info(run.path.name)
    run.write_info(
        msgspec.structs.replace(info, pytest_command=(sample_run.HOSTILE,), plugin_version=sample_run.HOSTILE)
    )
    text = render(run)
    outline = Outline(text)
    assert [tag for tag in outline.tags if not ALLOWED.fullmatch(tag)] == []
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    links = {href for href in outline.all("href") if "//" in href and not href.startswith("data:application/gzip;")}
    assert links == {"https://github.com/a/b/issues/1"}
    for bad in ("\x1b", "\u202e", "\x00", "\x9b", "49<!--", "49&lt;!--"):
        assert bad not in text
    assert "␛[31mred" in text
    assert "&lt;U+202E&gt;gnp.exe" in text
    assert "{{ 7*7 }}" in text


def test_a_line_of_a_megabyte_is_cut_with_what_was_cut_counted(tmp_path: Path) -> None:
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    events.append(
        h.ProcessExited(
            at_ns=sample_run.ns(12), pid=1, role="x", code=1, ours=False, output="HEAD" + "y" * 10**6 + "TAIL"
        )
    )
    text = render(one(tmp_path, (info, events, judgement)))
    assert len(text) < 300_000
    assert "HEADyyy" in text
    assert "yyyTAIL" in text
    assert "996,008 characters cut" in text


CANARIES = {
    "in-the-environment": "AKIA" + "C4NARYAAAABBBBCC",
    "in-auth-json": "sk-" + "ant-api03-" + "c4naryC4NARY0001",
    "in-a-prompt": "ghp" + "_" + "c4naryC4NARY0002" * 2,
    "in-tool-output": "xoxb" + "-" + "1234-c4naryC4NARY0003",
    "in-a-file-name": "glpat" + "-" + "c4naryC4NARY0004abcd",
    "in-a-log-line": "eyJ" + "hbGciOiJIUzI1NiJ9." + "c4naryC4NARY0005.c4nary",
    "in-a-database-row": "npm" + "_" + "c4naryC4NARY0006c4naryC4NARY0006abcd",
    "in-a-header": "Authorization: Bearer c4nary0007",
    "in-a-url": "https://bob:c4nary0008@example.invalid/",
    "by-key-name": '{"password": "c4nary0009"}',
    "known-to-us": "c4nary0010 with blanks",
    "in-base64": base64.b64encode(b"c4nary0010 with blanks").decode(),
}


def test_canaries_of_every_kind_are_in_no_stored_byte(tmp_path: Path) -> None:
    home, user = "/home/c4nary-home", "c4narius"
    canary = " | ".join([*CANARIES.values(), home + "/x", f"by {user} at c4naryhost"])
    gate = Redactor({"KNOWN": "c4nary0010 with blanks"}, {home: "~"}, names={user: "$USER", "c4naryhost": "$HOST"})
    run = RunDir.create(tmp_path / "reports", gate=gate)
    info, events, judgement = sample_run.killed_server("1.15.4", 1)
    assert judgement is not None
    info = msgspec.structs.replace(info, docstring=canary, replay=canary)
    judgement = msgspec.structs.replace(judgement, reason=canary, findings=(Finding(kind="k", text=canary),))
    with run.open_trial("t", info) as bundle:
        history = History(gate=gate, sink=bundle.sink)
        for event in (*events, *(poisoned(canary))):
            history.append(event)
        result = sample_run.result_of(run.info.run_id, info, judgement, bundle.relative)
        bundle.finish(judgement, result, masked=gate.receipt())
        run.append_result(result)
    write_report(run)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        content = path.read_text(encoding="utf-8").lower()
        assert "c4nary" not in content, path
        assert base64.b64encode(b"c4nary0010 with blanks").decode().lower()[:16] not in content, path
    assert "[masked:KNOWN]" in (run.path / "report.html").read_text(encoding="utf-8")
    # the same without the gate shows that the search would have found them
    assert "c4nary" in render(one(tmp_path / "open", (info, events, judgement))).lower()


def poisoned(canary: str) -> list[h.Event]:
    line = r.LogLine(text=canary, message=canary)
    tail = r.LogTail(path=f"/x/{canary}", pid=1, size_bytes=1, lines=(line,))
    snapshot = r.Snapshot(number=9, started_ns=1, ended_ns=2, boottime_ns=3, full=True, logs=(tail,))
    return [
        h.SnapshotTaken(at_ns=1, snapshot=snapshot),
        h.ProcessExited(at_ns=1, pid=1, role="x", code=0, ours=False, output=canary),
        h.HttpCall(
            at_ns=1, role="x", method="GET", path=f"/{canary}", status=200, seconds=1, timeout_s=2, body=canary
        ),
        h.ProviderRequest(at_ns=1, request=1, pid=1, path="/", model="m", tools=0, title=False, last_text=canary),
        h.Trouble(at_ns=1, what=canary),
        h.Note(at_ns=1, text=canary),
    ]


def test_who_pins_the_checkpoint_and_how_a_lock_changed_hands_are_told(tmp_path: Path) -> None:
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    marks = (0, 52, None, None, None)
    index = r.WalIndex(path="/s/x.db", frames=102, pages=9, backfilled=52, backfill_attempted=52, read_marks=marks)
    lock = r.FileLock(path="/s/x.db-shm", kind="POSIX", access="READ", start=124, end=124, name="READ1", pid=812)
    snapshot = r.Snapshot(
        number=9, started_ns=1, ended_ns=2, boottime_ns=3, full=True, wal_indexes=(index,), locks=(lock,)
    )
    changed = h.LockDirectoryChanged(
        at_ns=events[-1].at_ns, path="/l", key="k", how=r.LockChange.RELEASED, because="pid 9 lives"
    )
    after = h.SnapshotTaken(at_ns=events[-1].at_ns, snapshot=snapshot)
    page = render(one(tmp_path, (info, [*events, after, changed], judgement)))
    assert "READ1 held by pid 812 pins frame 52; WAL has 102 frames, back-filled 52: a checkpoint cannot pass" in page
    assert "k: seen released; pid 9 lives" in page


def test_a_link_that_needs_the_script_hides_its_dot_with_it(tmp_path: Path) -> None:
    text = render(one(tmp_path, *(sample_run.overlap("1.15.4", trial) for trial in range(1, 7))))
    line = next(line for line in text.splitlines() if "the timeline as a table" in line)
    shown = re.sub(r"<span data-scripted hidden>.*?</span>", "", line)
    assert "a typical one" in line
    assert "a typical one" not in shown
    assert not re.search(r"·\s*(?:·|<a [^>]*hidden|</p>)", re.sub(r"</?span>", "", shown))


# --- many trials ------------------------------------------------------------------------------------------------


def test_two_hundred_trials_stay_small_enough_to_attach(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    for trial in range(1, 101):
        sample_run.store(run, sample_run.overlap("1.15.4", trial))
        sample_run.store(run, sample_run.alone("1.15.4", trial))
    text = render(run)
    assert text.count('<details class="trial ') == 2
    assert len(unpacked(text, "index")["rows"]) == 200
    assert "have 97 trials like others that did not reproduce" in text
    assert len(text) < 600_000
    assert re.search(r"this file: 0\.[2-6] MB", text)


def test_the_header_names_the_system_first_and_no_load_where_there_were_several(tmp_path: Path) -> None:
    run = one(tmp_path, sample_run.overlap("1.15.4", 1))
    facts = [Fact(name=name, value=f"of {name}") for name in ("cores", "load average", "python", "system")]
    frame = msgspec.structs.replace(run.info, machine=tuple(facts))
    run.write_info(frame)
    told = Outline(render(run)).words("header")
    assert "system of system cores of cores load average of load average" in " ".join(told.split())
    assert "python" not in told
    run.write_info(msgspec.structs.replace(frame, parts=(frame,)))
    assert "load average" not in Outline(render(run)).words("header")
