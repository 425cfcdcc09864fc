"""Reports in a real browser, on a phone's width: `make test-browser`.

Not collected by `make test`; a missing browser fails. Chromium is driven through its own debugging
protocol, over a WebSocket on the loopback device.
"""

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from scripts.experiments import results
from scripts.experiments.results import CURVE, LAST_FRAMES, RANDOM, Results, Row

ROOT = Path(__file__).resolve().parents[1]
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
SECONDS = 120.0


@contextlib.contextmanager
def chromium(folder):
    """Yields the WebSocket address of a browser that is started here and ended here."""
    program = shutil.which("chromium")
    assert program, "no chromium on this machine; `make test-browser` installs Debian's"
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen(
        [program, *options, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        deadline = time.monotonic() + SECONDS
        while not port_file.exists() or len(port_file.read_text().split()) < 2:
            assert time.monotonic() < deadline and process.poll() is None, (
                "the browser did not start"
            )
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.terminate()
        process.wait()


class Page:
    """A tab of the browser: commands, and every event it has sent."""

    def __init__(self, socket, session):
        self._socket, self._session, self._ids, self.events = (
            socket,
            session,
            itertools.count(100),
            [],
        )

    async def call(self, method, **params):
        """Returns the result of a command, and keeps the events that come before it."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(
            message | ({"sessionId": self._session} if self._session else {})
        )
        while (answer := await self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    async def wait_for(self, method):
        """Waits for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(await self._receive())

    async def _receive(self):
        return await asyncio.wait_for(self._socket.receive_json(), SECONDS)

    def seen(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]


async def visit(address, url):
    """Returns the tab that has loaded `url` on a phone, and what its layout measures."""
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(address, max_msg_size=0) as socket,
    ):
        browser = Page(socket, None)
        target = await browser.call("Target.createTarget", url="about:blank")
        attached = await browser.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(socket, attached["sessionId"])
        for domain in ("Page", "Network", "Log", "Runtime"):
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setDeviceMetricsOverride", **PHONE)
        await page.call("Page.navigate", url=url)
        await page.wait_for("Page.loadEventFired")
        await asyncio.sleep(1.0)  # for what a page would ask for late
        expression = """({
            width: document.documentElement.scrollWidth, screen: window.innerWidth,
            titles: [...document.querySelectorAll('h2')].map(each => each.textContent),
            drawn: [...document.querySelectorAll('svg')].map(
                each => each.getBoundingClientRect().width),
            scales: [...document.querySelectorAll('svg')].map(
                each => each.getBoundingClientRect().width / each.viewBox.baseVal.width),
            font: parseFloat(getComputedStyle(document.querySelector('td')).fontSize),
        })"""
        found = await page.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return page, found["result"]["value"]


def made_up(path):
    """Writes results of two arms, three games and three seeds, curves included."""
    rows = []
    for game, arm, seed in itertools.product(
        ("pong", "breakout", "krull"), ("muzero", "muzero+past"), range(3)
    ):
        score = 20.0 + seed + 3 * (arm != "muzero")
        rows.append(Row("s", game, arm, seed, 100, LAST_FRAMES, score, wall_seconds=60.0))
        rows.append(Row("s", game, arm, seed, 100, RANDOM, 0.1 * seed))
        rows += [
            Row("s", game, arm, seed, frames, CURVE, score * frames / 100) for frames in (50, 100)
        ]
    results.write(path, Results(("source: made up",), tuple(rows)))


@pytest.fixture(scope="module", params=["paper", "seeds", "minatar", "atari-ablation"])
def visited(request, tmp_path_factory):
    """Returns (tab, measures) of a report in the browser: the paper's table, single seeds, the
    ablations' trials.
    """
    folder = tmp_path_factory.mktemp(request.param)
    sources = {"paper": ROOT / "results" / "paper_table3.csv", "seeds": folder / "results.csv"}
    source = sources.get(request.param, ROOT / "results" / "suites" / request.param / "results.csv")
    if request.param == "seeds":
        made_up(source)
    command = [
        sys.executable,
        "scripts/report.py",
        source,
        "--out",
        folder / "report",
        "--resamples",
        "50",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    with chromium(folder / "profile") as address:
        return request.param, *asyncio.run(
            visit(address, (folder / "report" / "report.html").as_uri())
        )


def test_the_page_asks_no_other_host(visited):
    _, page, _ = visited
    asked = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)


def test_the_console_is_silent(visited):
    _, page, _ = visited
    assert page.seen("Log.entryAdded") == page.seen("Runtime.exceptionThrown") == []
    assert page.seen("Runtime.consoleAPICalled") == []


def test_the_page_fits_a_phone(visited):
    _, _, measures = visited
    assert measures["width"] <= measures["screen"] == PHONE["width"]
    assert min(measures["scales"]) >= 1.1  # labels of 9 points: 10 pixels and more
    assert measures["font"] >= 12 and all(
        200 <= width <= PHONE["width"] for width in measures["drawn"]
    )


def test_the_plots_are_there(visited):
    name, _, measures = visited
    # Of atari-ablation, where no game counts, the learning curves alone.
    assert (
        len(measures["drawn"]) == {"paper": 1, "seeds": 6, "minatar": 8, "atari-ablation": 2}[name]
    )
    assert measures["titles"][0] == "Effects over games" and measures["titles"][-1] == "Every trial"
