"""What a hostile subject prints, logs and calls its files stays text: from its bytes through capture to a browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.data.publish import driven

pytestmark = pytest.mark.browser

# prints, logs, and calls its child and its files by texts that would do harm where they were anything but text
SUBJECT = r"""
import os, pathlib, signal, subprocess, sys
if sys.argv[1:] == ["--version"]:
    print("9.9.9")
    sys.exit(0)
MARKUP = b"</pre></template></script><script>document.title='owned'</script>"
MARKUP += b"<img src=x onerror=\"document.title='owned'\">"
LINES = [
    b"MARKUP " + MARKUP,
    b"SVG <svg onload=alert(1)><a href=javascript:alert(1)>x</a></svg> {{7*7}} {% raw %} <!-- ]]> &lt;",
    b"ANSI \x1b[31mred\x1b[0m \x1b]8;;http://ocrepro-canary.invalid\x07link\x1b]8;;\x07 \x9b2J",
    "RTL \u202egnp.exe\u202c \u2066x\u2069 \u200f".encode(),
    b"NUL \x00 and \x08\x08\x08 back",
    b"BROKEN \xff\xfe\xc3\x28\xed\xa0\x80 end",
    b"::error file=x::owned",
    b"LONG " + b"A" * 1_000_000 + MARKUP + b" TAIL",
]
log = pathlib.Path(os.environ["XDG_DATA_HOME"]) / "opencode/log/2026-11-21T000000.log"
log.parent.mkdir(parents=True, exist_ok=True)
head = b"INFO  2026-11-21T00:00:00 +1ms service=default "
log.write_bytes(b"".join(head + line + b"\n" for line in LINES))
for stream in (sys.stdout.buffer, sys.stderr.buffer):
    stream.write(b"\n".join(LINES) + b"\n")
    stream.flush()
name = os.fsdecode(b"<img src=x onerror=alert(1)>\x1b[31m\xff\xe2\x80\xae.txt")
held = (pathlib.Path(os.environ["XDG_DATA_HOME"]) / name).open("w")
child = subprocess.Popen([PYTHON, "-c", "import signal; signal.pause()", MARKUP, "\u202e\x1b[31m"])
signal.pause()
"""
SCENARIO = """
def test_hostile(ocrepro):
    ocrepro.expect(ocrepro.run("hi", model="x", deadline_s=6)).to_finish()
"""


@pytest.fixture
def page(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OCREPRO_BINARY", "OCREPRO_TRIALS", "OCREPRO_EXPECT", "OCREPRO_REPORTS"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "program.py"
    program.write_text(f"PYTHON = {sys.executable!r}\n{SUBJECT}")
    binary = tmp_path / "opencode"
    binary.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
    binary.chmod(0o755)
    pytester.makepyfile(test_hostile=SCENARIO)
    arguments = (f"--ocrepro-binary={binary}", "--ocrepro-expect=any", "-p", "no:cacheprovider", "--ocrepro-trials=2")
    done = pytester.runpytest_subprocess("test_hostile.py", "--ocrepro", *arguments, timeout=200)
    done.assert_outcomes(passed=2)
    return pytester.path / "reports/latest/report.html"


def test_all_of_it_stays_text_and_a_line_of_a_megabyte_is_cut_and_counted(page: Path, reader: driven.Reader) -> None:
    opened = reader.opens(page.resolve().as_uri())
    title = opened.title()
    drawn = opened.locator("details.trial").count()
    opened.keyboard.press("]")  # the other trial travels compressed and is drawn by the script
    reader.until("document.querySelector('#opened details.trial')")
    assert opened.locator("details.trial").count() == drawn + 1
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for place in ("#evidence > details.trial", "#opened"):
        text = str(opened.locator(place).first.text_content())
        for told in (
            "</pre></template></script><script>document.title='owned'</script><img src=x onerror=",
            "{{7*7}} {% raw %}",
            "␛[31mred",
            "<U+202E>gnp.exe",
            "NUL ␀ and ␈",
            "BROKEN \ufffd",
        ):
            assert told in text, (place, told)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text), place
    made = "script:not(body > script), iframe, object, embed, form, [onerror], [onload], [href^='javascript' i]"
    assert opened.locator(f"main :is({made})").count() == 0
    assert opened.locator("script").count() == 1
    assert opened.title() == title
    assert reader.complaints == []
    assert [one for one in reader.asked if not one.startswith(("file:", "data:"))] == []
    content = page.read_text(encoding="utf-8")
    assert len(content) < 1_500_000
    assert "characters cut" in content
    assert "A" * 20_000 not in content
