"""Our page beside pytest-html's and Playwright's, of as many results: built, stored, opened. Printed, as ratios.

``pip install -e '.[test,benchmark]'`` brings pytest-html, npm brings Playwright's own runner; what cannot be had is
told in the output. Every result carries forty lines of text, as the logs of a trial of ours; Playwright's all pass,
since it starts a process anew after each failure. Who is not done within its bound is told so, as what was measured.
Some ten minutes on a quiet machine, for 5,011 results:
``pytest tests/benchmarks/test_page_side_by_side.py -m benchmark -s``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import TimeoutError as TookTooLong

from pytest_ocrepro.publish.bundle import RunDir
from tests.data.publish import driven, sample_run

pytestmark = [pytest.mark.benchmark, pytest.mark.browser]

TRIALS = int(os.environ.get("OCREPRO_BENCHMARK_TRIALS", "334"))  # of each of 15 cells, and one more: 5,011 results
BOUND_S = float(os.environ.get("OCREPRO_BENCHMARK_BOUND_S", "300"))  # of each program, and of each opening
LINES = [
    f"timestamp=2026-11-21T00:30:{n:02}.123Z level=INFO run=f33d45b2 message=loading path=x/{n}" for n in range(40)
]
PYTHON = """
import pytest
LINES = {lines!r}
@pytest.mark.parametrize("n", range({count}))
def test_it(n):
    print("\\n".join(LINES))
    assert n % 5 > 2, "second answers or fails fast: blocked (strong) after 4.4 s"
"""
SPEC = """
const {{ test, expect }} = require("@playwright/test");
const LINES = {lines};
for (let n = 0; n < {count}; n++) {{
  test(`result ${{n}}`, () => {{
    console.log(LINES.join("\\n"));
    expect(n % 5).toBeLessThan(5);
  }});
}}
"""
# Of a file with 200 results or more its page shows the name alone, until a reader has clicked on that.
OPENS_FILE = "document.querySelector('button.chip-header[aria-expanded=false]')?.click()"
BUILD = """
import sys
from pathlib import Path
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.page import write_report
print(write_report(RunDir.read(Path(sys.argv[1]))))
"""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A page. ``seconds``: what making it adds to the run; ``ready``: true once its results can be seen."""

    name: str
    path: Path
    seconds: float
    ready: str


class DidNotFinishError(Exception):
    """Somebody needed more than the bound; its text is a row's end."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: did not finish in {BOUND_S:.0f} s")


def timed(command: Sequence[str | Path], folder: Path, what: str, **environment: str) -> float:
    """Seconds; failing tests are what the command is for. Who overruns the bound ends with all that it started."""
    begun = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        program = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = program.wait(BOUND_S)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            raise DidNotFinishError(what) from None
    assert code in (0, 1), (folder / "output.txt").read_text()[-2000:]
    return time.monotonic() - begun


def ours(folder: Path, run: RunDir) -> Built:
    seconds = timed([sys.executable, "-c", BUILD, run.path], folder, "building its page")
    return Built(name="ours", path=run.path / "report.html", seconds=seconds, ready=driven.READY)


def pytest_html(folder: Path, count: int) -> Built | str:
    if importlib.util.find_spec("pytest_html") is None:
        return "pytest-html is not installed: pip install 'pytest-ocrepro[benchmark]'"
    (folder / "test_it.py").write_text(PYTHON.format(lines=LINES, count=count))
    plain = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:ocrepro", "--tb=short"]
    without = timed([*plain, "test_it.py"], folder, "its run without a page")
    asked = ["--html=page.html", "--self-contained-html"]
    whole = timed([*plain, *asked, "test_it.py"], folder, f"its run with a page (without: {without:.1f} s)")
    return Built(
        name="pytest-html",
        path=folder / "page.html",
        seconds=whole - without,
        ready="document.querySelectorAll('#results-table tbody tr').length > 0",
    )


def playwright(folder: Path, count: int) -> Built | str:
    npm = shutil.which("npm")
    if npm is None:
        return "Playwright's runner is not compared: no npm on PATH"
    install = [npm, "install", "--no-save", "--no-audit", "--no-fund", "@playwright/test"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=BOUND_S, check=False)
    if done.returncode:
        return f"Playwright's runner is not compared: npm could not install it: {done.stderr.strip()[-200:]}"
    (folder / "it.spec.js").write_text(SPEC.format(lines=msgspec.json.encode(LINES).decode(), count=count))
    command: list[str | Path] = [folder / "node_modules/.bin/playwright", "test", "--workers=1", "--max-failures=0"]
    without = timed([*command, "--reporter=null"], folder, "its run without a page")
    called = f"its run with a page (without: {without:.1f} s)"
    whole = timed([*command, "--reporter=html"], folder, called, PLAYWRIGHT_HTML_OPEN="never")
    return Built(
        name="Playwright's",
        path=folder / "playwright-report/index.html",
        seconds=whole - without,
        ready=f"({OPENS_FILE}, document.querySelectorAll('.test-file-test').length > 0)",
    )


def opened_ms(page: Built) -> float:
    """From the start of the navigation until results can be seen, in a browser of its own.

    The page tells by its console, since a page that is busy answers no question and no bound could be kept.
    """
    there = f"document.documentElement && ({page.ready})"  # it is asked before there is a document
    asks = f"const ask = () => ({there}) ? console.log(`seen ${{performance.now()}}`) : setTimeout(ask, 10); ask()"
    with driven.browser() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.add_init_script(f"(() => {{ {asks} }})()")
        try:
            with tab.expect_console_message(lambda one: one.text.startswith("seen "), timeout=BOUND_S * 1000) as told:
                tab.goto(page.path.as_uri(), wait_until="commit", timeout=BOUND_S * 1000)
        except TookTooLong:
            raise DidNotFinishError(f"{megabytes_of(page):.1f} MB, opening its page") from None
        return float(told.value.text.split()[1])


Rival = Callable[[Path, int], Built | str]


def row(make: Rival, folder: Path, count: int, mine: Built, mine_ms: float) -> str:
    folder.mkdir()
    try:
        other = make(folder, count)
        if isinstance(other, str):
            return other
        adds = f"adds {other.seconds:.1f} s to its run, {megabytes_of(other):.1f} MB"
        other_ms = opened_ms(other)
    except DidNotFinishError as error:
        return f"{make.__name__}: {error}"
    return (
        f"{other.name}: {adds}, results after {other_ms:.0f} ms: ratio of ours to it {mine_ms / other_ms:.2f} in "
        f"opening, {megabytes_of(mine) / megabytes_of(other):.2f} in size"
    )


def test_pages_of_as_many_results(tmp_path: Path) -> None:
    run = sample_run.make_run(tmp_path / "reports", trials=TRIALS)
    count = len(run.bundles())
    mine = ours(tmp_path, run)
    mine_ms = opened_ms(mine)
    assert megabytes_of(mine) <= 15
    told = f"{mine.name}: built in {mine.seconds:.1f} s, {megabytes_of(mine):.1f} MB, results after {mine_ms:.0f} ms"
    print(f"\nbenchmark: page of {count:,} results, {told}")
    for make in (pytest_html, playwright):
        told = row(make, tmp_path / make.__name__, count, mine, mine_ms)
        print(f"\nbenchmark: page of {count:,} results, {told}", flush=True)


def megabytes_of(page: Built) -> float:
    return page.path.stat().st_size / 1e6
