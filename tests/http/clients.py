"""Real clients under TLS: an SDK with a worker, HTTP clients of either version, curl; and what a browser's page would be told.

    clients.py         on Everlog servers of its own (EVERLOG_BIN)

Needs the packages of tests/http/requirements.txt besides those of tests/cli/requirements.txt, and curl.
"""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import trustme
from temporalio import workflow
from temporalio.client import Client
from temporalio.service import TLSConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "cli"))

import run as cli  # noqa: E402

ORIGIN = "https://ui.example.com"
START = '{"workflowType": {"name": "Greeting"}, "taskQueue": {"name": "tls"}, "input": ["world"]}'


@workflow.defn
class Greeting:
    """Says hello."""

    @workflow.run
    async def run(self, name: str) -> str:
        return f"hello {name}"


class Certificates:
    """An authority, and files of what it has certified."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.crt"
        self.authority.cert_pem.write_to_path(self.ca)
        for name in ("localhost", "worker"):
            self.certify(name)

    def certify(self, name: str) -> None:
        """NAME.key and NAME.crt, made anew."""
        certificate = self.authority.issue_cert(name)
        certificate.private_key_pem.write_to_path(self.folder / f"{name}.key")
        pems = [blob.bytes() for blob in certificate.cert_chain_pems]
        (self.folder / f"{name}.crt").write_bytes(b"".join(pems))

    def of(self, name: str) -> tuple[str, str]:
        """The files of a certificate and its key."""
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")

    def context(self, shown: bool, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """What an HTTP client believes, and whether it shows a certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.maximum_version = newest
        if shown:
            context.load_cert_chain(*self.of("worker"))
        return context


@dataclass
class Server:
    """Where a server listens."""

    grpc: str
    http: str

    @property
    def url(self) -> str:
        """Of the HTTP API, under TLS."""
        return f"https://localhost:{self.http.rpartition(':')[2]}"


@contextmanager
def everlog(folder: Path, more: str):
    """A server with more of the settings."""
    binary = os.environ.get("EVERLOG_BIN") or sys.exit("EVERLOG_BIN names no server binary")
    settings, log = folder / "everlog.toml", folder / "server.log"
    listen = "[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\nhandshake_timeout = \"2s\"\n"
    settings.write_text(f"ephemeral = true\n{listen}[http]\ncors_origins = [\"{ORIGIN}\"]\n{more}")
    with cli.serving([binary, "server", "--config", str(settings)], log) as process:
        deadline = time.monotonic() + cli.SERVING_S_MAX
        while not (found := re.search(r"^everlog server: grpc=(\S+) http=(\S+)", log.read_text(), re.MULTILINE)):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not serve:\n{log.read_text()}")
            time.sleep(0.05)
        yield Server(*found.groups())


def tls(certificates: Certificates, more: str = "") -> str:
    """The settings of a server under TLS."""
    certificate, key = certificates.of("localhost")
    return f"[tls.frontend]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n{more}"


async def greeted(server: Server, config: TLSConfig, workflow_id: str) -> str:
    """What a workflow says that an SDK starts and a worker of it runs, both under TLS."""
    client = await Client.connect(server.grpc, tls=config)
    # In the process of the client: what is tested is the wire.
    async with Worker(client, task_queue="tls", workflows=[Greeting], workflow_runner=UnsandboxedWorkflowRunner()):
        handle = await client.start_workflow(Greeting.run, "world", id=workflow_id, task_queue="tls")
        return await asyncio.wait_for(handle.result(), timedelta(seconds=30).total_seconds())


def curl(*arguments: str) -> tuple[int, str]:
    """Exit code and output of curl."""
    done = subprocess.run(["curl", "--silent", "--max-time", "20", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def an_sdk_and_its_worker_run_under_tls(server: Server, certificates: Certificates) -> None:
    """Clients that show a certificate, whichever they speak."""
    certificate, key = (Path(path).read_bytes() for path in certificates.of("worker"))
    config = TLSConfig(server_root_ca_cert=certificates.ca.read_bytes(), client_cert=certificate, client_private_key=key, domain="localhost")
    assert asyncio.run(greeted(server, config, "by-sdk")) == "hello world"
    without = TLSConfig(server_root_ca_cert=certificates.ca.read_bytes(), domain="localhost")
    try:
        asyncio.run(greeted(server, without, "refused"))
    except RuntimeError:
        return
    raise AssertionError("a client without a certificate is answered")


def http_clients_speak_either_version(server: Server, certificates: Certificates) -> None:
    """Over one connection each, and over many streams."""
    for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
        with httpx.Client(verify=certificates.context(True), http2=http2, base_url=server.url) as client:
            answer = client.post(f"/namespaces/default/workflows/{version[5]}", content=START, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.http_version) == (200, version), answer.text
            shown = client.get(f"/namespaces/default/workflows/{version[5]}", headers={"accept-encoding": "zstd"})
            assert shown.json()["executionConfig"]["taskQueue"]["name"] == "tls", shown.text
    asyncio.run(many_at_once(server, certificates))
    with httpx.Client(verify=certificates.context(True, ssl.TLSVersion.TLSv1_2)) as client:
        assert client.get(f"{server.url}/health").json() == {"status": "SERVING"}
    with httpx.Client(verify=certificates.context(False)) as client:
        try:
            client.get(f"{server.url}/health")
        except httpx.TransportError:
            return
    raise AssertionError("a client without a certificate is answered")


async def many_at_once(server: Server, certificates: Certificates) -> None:
    """More requests than a connection may have streams; each answer is large, and compressed as the client asks."""
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(verify=certificates.context(True), http2=True, limits=limits, timeout=60) as client:
        answers = await asyncio.gather(*(client.get(f"{server.url}/openapi.yaml") for _ in range(300)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["content-encoding"] for answer in answers} == {"zstd"}, "httpx takes what zstandard can read"
    assert len({answer.text for answer in answers}) == 1 and answers[0].text.startswith("openapi:")


def curl_is_answered(server: Server, certificates: Certificates) -> None:
    """With what it sends by itself, and in the clear not."""
    certificate, key = certificates.of("worker")
    with_tls = ["--cacert", str(certificates.ca), "--cert", certificate, "--key", key]
    for version in ("--http1.1", "--http2"):
        code, answer = curl(*with_tls, version, "--write-out", " %{http_version} %{http_code}", f"{server.url}/health")
        assert code == 0 and answer == f'{{"status":"SERVING"}} {"2" if version == "--http2" else "1.1"} 200', answer
    code, answer = curl(*with_tls, "--compressed", f"{server.url}/namespaces/default/workflows/by-curl", "--data", START)
    assert code == 0 and json.loads(answer)["started"] is True, answer
    code, answer = curl(f"http://{server.http}/health")
    assert answer == "Client sent an HTTP request to an HTTPS server.\n", (code, answer)


def renewed_files_count_for_the_next_connection(server: Server, certificates: Certificates) -> None:
    """And a client that believes the authority notices nothing."""
    with httpx.Client(verify=certificates.context(True), base_url=server.url) as before:
        assert before.get("/health").status_code == 200
        serial = ssl.get_server_certificate(("localhost", int(server.http.rpartition(":")[2])))
        certificates.certify("localhost")
        assert before.get("/health").status_code == 200
    again = ssl.get_server_certificate(("localhost", int(server.http.rpartition(":")[2])))
    assert again != serial
    with httpx.Client(verify=certificates.context(True), base_url=server.url) as after:
        assert after.get("/health").status_code == 200


def pages_are_told_what_they_may(server: Server, certificates: Certificates) -> None:
    """As a browser asks for them."""
    with httpx.Client(verify=certificates.context(True), http2=True, base_url=server.url) as client:
        path = "/namespaces/default/workflows/by-page"
        asked = client.options(path, headers={"origin": ORIGIN, "access-control-request-method": "POST"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, ORIGIN)
        of_page = {"origin": ORIGIN, "sec-fetch-site": "cross-site", "content-type": "application/json"}
        started = client.post(path, content=START, headers=of_page)
        assert started.status_code == 200 and started.headers["access-control-allow-origin"] == ORIGIN, started.text
        own = {"origin": server.url, "content-type": "application/json"}
        assert client.post(f"{path}-own", content=START, headers=own).status_code == 200
        evil = client.post(path, content=START, headers=of_page | {"origin": "https://evil.example"})
        assert evil.status_code == 403 and "access-control-allow-origin" not in evil.headers, evil.text


def in_the_clear(folder: Path) -> None:
    """HTTP/2 by those who begin with it."""
    with everlog(folder, "") as server:
        for version, expected in (("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")):
            code, answer = curl(version, "--write-out", " %{http_version}", f"http://{server.http}/health")
            assert code == 0 and answer == f'{{"status":"SERVING"}} {expected}', answer


Check = Callable[[Server, Certificates], None]
CHECKS: list[Check] = [
    an_sdk_and_its_worker_run_under_tls,
    http_clients_speak_either_version,
    curl_is_answered,
    pages_are_told_what_they_may,
    renewed_files_count_for_the_next_connection,
]


def main() -> None:
    """Plays all, and ends with a summary."""
    passed, failed = 0, 0

    def tried(name: str, check: Callable[[], None]) -> None:
        nonlocal passed, failed
        try:
            check()
            passed += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the next check is made
            failed += 1
            print(f"--- {name}: {type(error).__name__}: {error}")

    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        with everlog(Path(folder), tls(certificates, f"client_ca = \"{certificates.ca}\"\n")) as server:
            for check in CHECKS:
                tried(check.__name__, lambda check=check: check(server, certificates))
    with tempfile.TemporaryDirectory() as folder:
        tried("in_the_clear", lambda: in_the_clear(Path(folder)))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
