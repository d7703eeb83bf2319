"""A headless Chromium that tests drive over a pipe, by the DevTools protocol: it needs no port."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import collections
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")
OPTIONS += ("--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage")
SECONDS = 30.0


def find_chromium() -> str | None:
    """The path of a browser, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. Close it, or use `with`. logged: what the page complained of."""

    def __init__(self, path: Path, *, size: tuple[int, int] = (1280, 900), dark: bool = False):
        executable = find_chromium()
        assert executable is not None
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._browser = subprocess.Popen(
            [
                "bash",
                "-c",  # the protocol wants descriptors 3 and 4
                f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}',
                executable,
                *OPTIONS,
                "--remote-debugging-pipe",
                f"--user-data-dir={self._profile}",
                f"--window-size={size[0]},{size[1]}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer, self._session = 0, b"", ""
        self._events: collections.deque[dict[str, Any]] = collections.deque()
        self.logged: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers. RuntimeError where it refuses."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.run(script):
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.02)

    def press(self, key: str, text: str = "") -> None:
        """A key goes down and up."""
        extra = {"text": text} if text else {}
        codes = {"ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "Tab": 9}
        code = codes.get(key, ord(key[0].upper()))
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra
            )

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field, as a reader would."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        name, wanted = json.dumps(selector), json.dumps(value)
        self.run(
            f"(() => {{ const it = document.querySelector({name}); it.value = {wanted};"
            "it.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )

    def screenshot(self, path: Path) -> None:
        """A PNG of what is in view."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.kill()
        self._browser.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser is gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.logged.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.logged.append(params["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.logged.append(json.dumps(params["args"]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
