"""Chromium without a window, driven through its own pipe: JSON ended by a zero byte, on descriptors 3 and 4.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Nothing but Chromium itself is needed.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars")
OPTIONS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio")
OPTIONS += ("--disable-dev-shm-usage", "--no-sandbox")  # as root, and in containers, it starts without one only
PATIENCE = 60.0  # seconds that one answer may take, on a machine that does other things too


def find() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A running Chromium whose profile lies in the folder."""
    command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >&2', "sh", find(), *OPTIONS]
    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield Browser(process.stdin.fileno(), process.stdout.fileno())
    finally:
        process.stdin.close()  # it ends with its pipe
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Browser:
    """A browser's pipe, and what has come through it."""

    def __init__(self, told: int, heard: int):
        self.told, self.heard = told, heard
        self.numbers = itertools.count(1)
        self.rest = b""
        self.events: list[dict] = []

    def call(self, method: str, session: str = "", **parameters) -> dict:
        """What the browser answers. Raises AssertionError where that is an error."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self.told, data) :]
        answer = self.next(lambda found: found.get("id") == number, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def next(self, wanted: Callable[[dict], bool], what: str) -> dict:
        """The next message of a kind; events that come before it are kept."""
        end = time.monotonic() + PATIENCE
        while True:
            *whole, self.rest = self.rest.split(b"\0")
            for k, text in enumerate(whole):
                found = json.loads(text)
                if "method" in found:
                    self.events.append(found)
                if wanted(found):
                    self.rest = b"\0".join([*whole[k + 1 :], self.rest])
                    return found
            ready, _, _ = select.select([self.heard], [], [], max(0.0, end - time.monotonic()))
            read = os.read(self.heard, 1 << 20) if ready else b""
            assert read, f"{what}: Chromium has {'ended' if ready else f'said nothing for {PATIENCE:g} s'}"
            self.rest += read

    def tab(self, width: int = 1280, height: int = 900) -> Tab:
        return Tab(self, width, height)


class Tab:
    """One page: what it shows, asks for and complains of."""

    def __init__(self, browser: Browser, width: int, height: int):
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.size(width, height)

    def call(self, method: str, **parameters) -> dict:
        return self.browser.call(method, self.session, **parameters)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def events(self, method: str) -> list[dict]:
        """What it told under that name so far."""
        mine = [found for found in self.browser.events if found.get("sessionId") == self.session]
        return [found["params"] for found in mine if found["method"] == method]

    def size(self, width: int, height: int) -> None:
        """Its size in pixels of CSS; below 600 it is a phone."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, scheme: str) -> None:
        """What the reader's system prefers: light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, address: str) -> None:
        """Goes to an address and waits until all of it is loaded."""
        self.call("Page.navigate", url=address)
        self.loaded()

    def loaded(self) -> None:
        """Waits until the page that comes next is loaded."""
        self.browser.next(
            lambda found: found.get("method") == "Page.loadEventFired" and found.get("sessionId") == self.session,
            "load",
        )

    def value(self, script: str):
        """What an expression of JavaScript gives, as JSON holds it. Raises AssertionError with what it throws."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def place(self, selector: str) -> dict:
        """The rectangle of an element within the window, after the page was moved to show it."""
        script = "e.scrollIntoView({block: 'center', behavior: 'instant'}), e.getBoundingClientRect().toJSON()"
        return self.value(f"(e => ({script}))(document.querySelector({json.dumps(selector)}))")

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str, times: int = 1) -> None:
        """Clicks of the mouse in the middle of an element, one upon the other."""
        box = self.place(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.move(x, y)
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def type(self, selector: str, text: str) -> None:
        """Text put into a field, as its reader would."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def key(self, name: str) -> None:
        """A key pressed and released, such as ArrowRight, Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name], **text
            )

    def screenshot(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}} if whole else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])
