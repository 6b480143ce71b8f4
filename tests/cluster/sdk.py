"""The official Python and Go SDKs on three nodes: a worker at one of them, a client at another, and each of them killed in turn.

    EVERLOG_BIN=target/debug/everlog python tests/cluster/sdk.py [--workflows 20] [--rounds 1]

The workload and what is checked afterwards are those of tests/crash: workflows with signals, activities (some with one attempt only),
timers and children. First the third node is killed, which only leads; then the one that the worker is connected to; then the client's.
The client must not see an error while neither its node nor the network is away. Beside it a program with the Go SDK, which knows the third
node alone, starts and ends workflows all the time (tests/sdk/go/underfaults); none of its calls may fail. The last line is
`N passed, N failed`.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash"))

from crash import FINISH_S_MAX, nothing_is_lost, unfinished, works
from server import connected, healthy
from workload import SLOTS_WITH_CHILD, Acknowledged, executions_at_most_once, lane

NODES = 3
SERVING_S_MAX = 60.0
STOP_S_MAX = 30.0
GO_LANES = 5
GO_MODULE = Path(__file__).resolve().parent.parent / "sdk" / "go"
SETTINGS = """
data_dir = "{data}"
[listen]
ip = "{ip}"
port = {grpc}
http_port = 0
metrics_port = 0
[cluster]
name = "sdk"
seeds = [{seeds}]
initial_nodes = {count}
listen = "{peer}"
"""


class Node:
    """One server process of the cluster."""

    def __init__(self, number: int, directory: Path, ports: dict[int, tuple[int, int]]) -> None:
        self.number = number
        grpc, peer = ports[number]
        self.address = f"{ip(number)}:{grpc}"
        self.log = directory / f"node{number}.log"
        self.settings = directory / f"node{number}.toml"
        seeds = ", ".join(f'"{ip(other)}:{port}"' for other, (_, port) in ports.items())
        self.settings.write_text(
            SETTINGS.format(
                data=directory / f"node{number}",
                ip=ip(number),
                grpc=grpc,
                seeds=seeds,
                count=len(ports),
                peer=f"{ip(number)}:{peer}",
            )
        )
        self.process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        """Starts the process and does not wait for it."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                os.environ["EVERLOG_BIN"], "server", "--config", str(self.settings), stdout=log, stderr=log
            )

    async def serving(self) -> None:
        """Waits until the node answers."""
        began = time.monotonic()
        while not await healthy(self.address):
            assert self.process.returncode is None, f"node {self.number} ended with {self.process.returncode}"
            assert time.monotonic() - began < SERVING_S_MAX, f"node {self.number} does not serve"
            await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, upon which the node hands its leads over and ends by itself."""
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.process.wait(), STOP_S_MAX)
        assert status == 0, f"node {self.number} ended with status {status} after SIGTERM"


class GoWorkflows:
    """A program with a worker and callers of the Go SDK, at one node."""

    def __init__(self, directory: Path) -> None:
        self.binary = directory / "underfaults"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, address: str) -> None:
        """Builds and starts it."""
        build = await asyncio.create_subprocess_exec(
            "go", "-C", str(GO_MODULE), "build", "-o", str(self.binary), "./underfaults"
        )
        assert await build.wait() == 0, "the program with the Go SDK cannot be built"
        self.process = await asyncio.create_subprocess_exec(
            str(self.binary),
            f"-lanes={GO_LANES}",
            env={**os.environ, "EVERLOG_ADDRESS": address},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def end(self) -> None:
        """Has it end, and checks what it tells."""
        printed, _ = await asyncio.wait_for(self.process.communicate(b""), FINISH_S_MAX)
        assert self.process.returncode == 0, f"the program with the Go SDK ended with {self.process.returncode}"
        told = json.loads(printed)
        wrong, twice = told["wrong"], told["twice"]
        print(f"  the Go SDK: {told['completed']} workflows completed, {len(wrong)} did not", flush=True)
        assert not wrong, "the Go SDK: " + "\n".join(wrong[:3])
        assert not twice, f"the Go SDK: activities with one attempt ran twice: {twice}"
        assert told["completed"] >= GO_LANES, "the Go SDK completed hardly a workflow"

    async def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def ip(number: int) -> str:
    """The loopback address of a node."""
    return f"127.0.0.{number}"


def free_port(address: str) -> int:
    """A port that was free a moment ago, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
                return port
            except OSError:
                continue


async def main(options: argparse.Namespace, directory: Path) -> None:
    """One whole run; raises AssertionError if the servers broke a promise."""
    ports = {number: (free_port(ip(number)), free_port(ip(number))) for number in range(1, NODES + 1)}
    nodes = [Node(number, directory, ports) for number in ports]
    go = GoWorkflows(directory)
    try:
        for node in nodes:
            await node.spawn()
        for node in nodes:
            await node.serving()
        await go.start(nodes[-1].address)
        await under_load(options, nodes)
        await go.end()
        for node in nodes:
            await node.stop()
    finally:
        await go.kill()
        for node in nodes:
            if node.process and node.process.returncode is None:
                node.process.kill()
                await node.process.wait()


async def under_load(options: argparse.Namespace, nodes: list[Node]) -> None:
    """Workflows run while nodes die, and are all checked afterwards."""
    of_worker, of_client, third = nodes
    worker, client = await connected(of_worker.address), await connected(of_client.address)
    queue = "sdk"
    seen, stop = Acknowledged(), asyncio.Event()
    working = asyncio.create_task(works(worker, queue))
    lanes = [asyncio.create_task(lane(client, number, queue, stop, seen)) for number in range(options.workflows)]
    try:
        for _ in range(options.rounds):
            for victim, what in ((third, "leads"), (of_worker, "has the worker"), (of_client, "has the client")):
                await asyncio.sleep(3)
                refused = seen.refused
                await victim.kill()
                await asyncio.sleep(3)
                await victim.spawn()
                await victim.serving()
                await asyncio.sleep(1)
                refused = seen.refused - refused
                print(f"  node {victim.number}, which {what}, was killed: the client saw {refused} errors", flush=True)
                assert refused == 0 or victim is of_client, f"{refused} errors while the client's own node was there"
                for task in lanes:
                    if task.done():
                        task.result()
        stop.set()
        await asyncio.wait_for(asyncio.gather(*lanes), FINISH_S_MAX)
    except asyncio.TimeoutError:
        raise AssertionError(f"workflows hang: {await unfinished(client, seen)}") from None
    finally:
        for task in [*lanes, working]:
            task.cancel()
        await asyncio.gather(*lanes, working, return_exceptions=True)
    for node in nodes:
        at_node = await connected(node.address)
        await nothing_is_lost(at_node, seen)
        query = f"TaskQueue = '{queue}' AND ExecutionStatus = 'Completed'"
        count = (await at_node.count_workflows(query)).count
        expected = len(seen.runs) * (1 + len(SLOTS_WITH_CHILD))
        assert count == expected, f"node {node.number} counts {count} workflows that completed, not {expected}"
    twice = [id for id, count in executions_at_most_once.items() if count > 1]
    assert not twice, f"activities with one attempt ran twice: {twice}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workflows", type=int, default=20, help="how many run at a time")
    parser.add_argument("--rounds", type=int, default=1, help="how often each node is killed")
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="everlog-cluster-sdk-"))
    began = time.monotonic()
    print(f"SDK on three nodes: {options.workflows} workflows at a time", flush=True)
    try:
        asyncio.run(main(options, directory))
    except Exception as error:
        traceback.print_exc()
        for log in sorted(directory.glob("*.log")):
            print(f"--- the end of {log}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        print(f"SDK on three nodes failed after {time.monotonic() - began:.0f} s: {error}")
        print("0 passed, 1 failed")
        sys.exit(1)
    shutil.rmtree(directory)
    print(f"SDK on three nodes passed in {time.monotonic() - began:.0f} s")
    print("1 passed, 0 failed")
