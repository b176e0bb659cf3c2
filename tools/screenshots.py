"""make screenshots: a stack of four replicas under load, as the dashboard and `neat top` show it, into docs/images.

Meanwhile a replica is killed, one is added, and all are rejuvenated. What a stack refuses is said and left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from neatstack.experiment.netns import Lab, LabError, Stack, neat
from neatstack.observe.client import Feed
from tools.browser import Browser, browser
from tools.load import busy_stack

IMAGES = Path(__file__).parents[1] / "docs/images"
REPLICAS, MOST = 4, 6
WIDTH, SCALE = 1400, 1.5
COLOURS = 256
COLUMNS, ROWS = 140, 36  # of the terminal
ACTIONS: tuple[tuple[str, dict[str, int]], ...] = (
    ("kill", {"replica": 2}),
    ("scale", {"replicas": REPLICAS + 1}),
    ("rejuvenate", {}),
)
PAUSE = 18.0  # seconds before and after each
LOAD = 150  # seconds at most; it ends with the lab


def main() -> int:
    IMAGES.mkdir(parents=True, exist_ok=True)
    try:
        with Lab() as lab:
            stack = busy_stack(lab, REPLICAS, LOAD, ["--max-replicas", MOST])
            with dashboard(stack) as url:
                (IMAGES / "top.svg").write_text(asyncio.run(watched(stack, url)))
                with browser() as page:
                    shoot(page, url)
    except (LabError, FileNotFoundError) as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    print(*(str(IMAGES / name) for name in ("dashboard.png", "dashboard-dark.png", "top.svg")), sep="\n")
    return 0


@contextmanager
def dashboard(stack: Stack) -> Iterator[str]:
    """Its URL."""
    argv = neat("dashboard", "--listen", "127.0.0.1:0")
    with subprocess.Popen(argv, env=stack.env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split(": ", 1)[1].strip()
        finally:
            process.terminate()


def act(url: str, name: str, wish: dict[str, int]) -> str:
    """What the stack answers, as the page shows it."""
    headers = {"X-Neat-Action": name, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}actions/{name}", json.dumps(wish).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["text"]
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)["error"]


def shoot(page: Browser, url: str) -> None:
    """The whole page, light and dark."""
    for scheme, name in (("light", "dashboard.png"), ("dark", "dashboard-dark.png")):
        page.prefer(scheme)
        page.resize(WIDTH, 900, SCALE)
        page.get(url)
        time.sleep(4)
        height = page.execute_script("return document.body.offsetHeight")
        page.resize(WIDTH, height, SCALE)
        time.sleep(2)
        page.save_screenshot(str(IMAGES / name))
        with Image.open(IMAGES / name) as image:
            image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                IMAGES / name, optimize=True
            )


async def watched(stack: Stack, url: str) -> str:
    """Let happen what is to be seen; `neat top` at the end of it, as an SVG that asks for no font from elsewhere."""
    from neatstack.observe.top import Top

    os.environ["NEAT_RUN_DIR"] = str(stack.run_dir)
    application = Top(Feed(stack.name), 1.0)
    async with application.run_test(size=(COLUMNS, ROWS)):
        for name, wish in ACTIONS:
            await asyncio.sleep(PAUSE)
            print(f"{name}: {await asyncio.to_thread(act, url, name, wish)}", flush=True)
        await asyncio.sleep(PAUSE)
        picture = application.export_screenshot(title=f"neat top --stack {stack.name}")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
