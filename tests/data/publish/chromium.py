"""Headless Chromium, driven over the DevTools protocol on a pipe; nothing is installed for it."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

DEADLINE_S = 60.0
FLAGS = shlex.split(
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
)
# DevTools' pipe is fixed: commands come in at descriptor 3, answers go out at 4
PLUMB = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, place in zip(high, (3, 4)):
    os.dup2(fd, place)
    os.close(fd)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One Chromium, one page."""

    def __init__(self, home: Path) -> None:
        self.net_log = home / "net.json"
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if chromium is None:
            # a laptop without a browser is told; where we land (CI is set) the page must have been opened
            tell = pytest.fail if os.environ.get("CI") else pytest.skip
            tell("no chromium on PATH: the page was not opened; install it (Debian: apt-get install chromium)")
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()
        profile = (f"--user-data-dir={home / 'profile'}", f"--log-net-log={self.net_log}", "about:blank")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PLUMB, str(read_end), str(write_end), chromium, *FLAGS, *profile],
            pass_fds=(read_end, write_end),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
        )
        os.close(read_end)
        os.close(write_end)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, msgspec.json.encode(message) + b"\0")
        answer = self._until(lambda found: found.get("id") == self._number)
        assert "error" not in answer, answer
        return dict(answer.get("result", {}))

    def open(self, url: str, *, scripts: bool = True) -> None:
        """Go there and wait until it is drawn; without ``scripts`` none of the page's is run."""
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loaded("Page.navigate", url=url)
        if scripts:
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def reload(self) -> None:
        self._loaded("Page.reload")

    def _loaded(self, method: str, **parameters: object) -> None:
        self.events.clear()
        self.send(method, **parameters)
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, as a person would; ``Enter``, ``Tab``, ``Escape`` or a character."""
        named = {"Enter": ("\r", 13), "Tab": ("", 9), "Escape": ("", 27)}
        text, code = named.get(key, (key, ord(key.upper()[0])))
        down: dict[str, object] = {"text": text} if text else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """In the middle of the element, with the mouse."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = f"(box => [box.x + box.width / 2, box.y + box.height / 2])(document.querySelector({selector!r})"
        x, y = self.evaluate(f"{box}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def until(self, condition: str) -> None:
        """Wait until the page itself says so, at most as long as for anything else."""
        asked = f"""new Promise((done, fail) => {{
          const latest = performance.now() + {DEADLINE_S * 500};
          const ask = () => {condition} ? done(true)
            : performance.now() > latest ? fail(new Error("waited in vain")) : setTimeout(ask, 10);
          ask();
        }})"""
        self.evaluate(asked)

    def picture(self, path: Path, *, width: int, scheme: str, height: int = 0) -> bytes:
        self.resize(width)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        height = height or min(int(self.evaluate("document.documentElement.scrollHeight")), 12_000)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path.read_bytes()

    def resize(self, width: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def requests(self) -> list[str]:
        sent = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [str(event["params"]) for event in self.events if event["method"] in kinds]

    def close(self) -> None:
        if self._process.returncode is not None:
            return
        self._session = ""
        with contextlib.suppress(OSError, AssertionError):
            self.send("Browser.close")
        try:
            self._process.wait(20)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                found: dict[str, Any] = msgspec.json.decode(line)
                if "method" in found:
                    self.events.append(found)
                if wanted(found):
                    return found
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "chromium did not answer in time"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, f"chromium ended with status {self._process.wait(10)}"
            self._buffer += chunk
