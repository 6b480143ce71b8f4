"""The server process under test: started, killed without warning, and started again where it was."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

SERVING_S_MAX = 30.0
DRAIN_S_MAX = 20.0
ONE_SECOND = timedelta(seconds=1)
EVERLOG = "{bin} dev --ip 127.0.0.1 --port {grpc} --http-port {http} --metrics-port {metrics} --data-dir {data}"
ADDRESSES = re.compile(rb"everlog dev: grpc=\S+:(\d+) http=\S+:(\d+) metrics=\S+:(\d+)")


# Connections break on purpose; the SDK's core would report every retry of every request.
RUNTIME = Runtime(
    telemetry=TelemetryConfig(logging=LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR")))
)


class Server:
    """One server on one data directory.

    The first start lets the system pick the ports, later ones ask for the same again, because the workers and clients
    stay as they are. CRASH_SERVER_COMMAND replaces the command, with {grpc} and {data} in it, so that the test itself
    can be tried on another server.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data.parent / "server.log"
        self.command = os.environ.get("CRASH_SERVER_COMMAND", EVERLOG)
        self.prints_addresses = self.command == EVERLOG
        self.ports = dict(grpc=0, http=0, metrics=0)
        if not self.prints_addresses:
            self.ports["grpc"] = free_port()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where the server listens; known after the first start."""
        return f"127.0.0.1:{self.ports['grpc']}"

    async def spawn(self) -> None:
        """Starts the process and does not wait for it."""
        command = self.command.format(bin=os.environ.get("EVERLOG_BIN", "everlog"), data=self.data, **self.ports)
        with self.log.open("ab") as log:
            log.write(f"\n--- {command}\n".encode())
            log.flush()
            self.log_offset = log.tell()
            self.process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=log, stderr=log)

    async def serve(self) -> float:
        """Starts the process, waits until it answers, and returns how many seconds that took."""
        began = time.monotonic()
        await self.spawn()
        while time.monotonic() - began < SERVING_S_MAX:
            if self.process.returncode is not None:
                raise AssertionError(f"the server ended with status {self.process.returncode} while starting")
            if self.knows_its_ports() and await healthy(self.address):
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise AssertionError(f"the server did not serve within {SERVING_S_MAX} s")

    def knows_its_ports(self) -> bool:
        """Reads the ports from what this start has printed; they must be the ones asked for."""
        if not self.prints_addresses:
            return True
        with self.log.open("rb") as log:
            log.seek(self.log_offset)
            found = ADDRESSES.search(log.read())
        if not found:
            return False
        ports = dict(zip(("grpc", "http", "metrics"), map(int, found.groups())))
        assert all(asked in (0, ports[name]) for name, asked in self.ports.items()), (self.ports, ports)
        self.ports = ports
        return True

    async def kill(self) -> None:
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, upon which the server drains and ends by itself."""
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.process.wait(), DRAIN_S_MAX)
        assert status == 0 or not self.prints_addresses, f"the server ended with status {status} after SIGTERM"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def connected(address: str) -> Client:
    """A client of the namespace `default`."""
    return await Client.connect(address, runtime=RUNTIME)


async def healthy(address: str) -> bool:
    """Whether a new client gets an answer about the namespace `default`."""
    try:
        client = await connected(address)
        return await client.service_client.check_health(timeout=ONE_SECOND)
    except (RuntimeError, RPCError):
        return False
