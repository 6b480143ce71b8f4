"""The HTTP API: what it answers on Everlog is what it answers on a Temporal server.

    run.py             plays calls.txt on an Everlog server of its own (EVERLOG_BIN) and compares with expected.txt
    run.py --record    plays them on a Temporal server of its own and writes expected.txt
    run.py --only TEXT the calls whose line contains this

A call is `VERB PATH [JSON]`; headers of it come before, as `> Name: value`. Each path is called as it is and, where it does not say
otherwise, below /api/v1, which must answer the same on Everlog. `workflow NAME` starts a workflow first that no worker takes. Where Everlog is
known to answer something else, in known_differences.txt. Needs the packages of tests/cli/requirements.txt.
"""

import argparse
import http.client
import json
import re
import sys
import tempfile
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "cli"))

import compare  # noqa: E402
import mask  # noqa: E402
import run as cli  # noqa: E402
from stage import Shown  # noqa: E402

EXPECTED = HERE / "expected.txt"
ANSWER_S_MAX = 30.0

# The first family of paths is below /cluster where the second is not.
SECOND = [("/cluster/namespaces", "/api/v1/namespaces"), ("/cluster/nexus", "/api/v1/nexus")]

# Answers of Everlog name no compiler's paths; what is wrong with a request is told in other words.
WORDS = [
    (r'"clusterId":\s*"[^"]*"', '"clusterId": "<uuid>"'),
    (r'"(persistenceStore|visibilityStore|serverVersion)":\s*"[^"]*"', r'"\1": "<server>"'),
    (r'"nextPageToken":\s*"[^"]*"', '"nextPageToken": "<token>"'),
]


@dataclass
class Call:
    """One call."""

    line: str
    verb: str
    path: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)

    def second(self) -> str | None:
        """The same in the second family of paths, if there is one."""
        path, _, query = self.path.partition("?")
        query = f"?{query}" if query else ""
        if path == "/cluster":
            return f"/api/v1/cluster-info{query}"
        for first, second in SECOND:
            if path.startswith(first):
                return f"{second}{path.removeprefix(first)}{query}"
        return None if path.startswith("/api/") or self.verb not in ("GET", "POST", "DELETE") else f"/api/v1{self.path}"


def calls() -> list[Call]:
    """What is to be called, in order."""
    found: list[Call] = []
    headers: dict[str, str] = {}
    for line in (HERE / "calls.txt").read_text().splitlines():
        if line.startswith("> "):
            name, _, value = line[2:].partition(": ")
            headers[name] = value
        elif line and not line.startswith("#"):
            verb, path, *body = line.split(" ", 2)
            found.append(Call(line, verb, path, body[0] if body else "", headers))
            headers = {}
    return found


class Api:
    """The HTTP API of a server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, call: Call, path: str) -> tuple[int, str]:
        """Status and body of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_S_MAX)
        try:
            # Without a body, not with an empty one.
            connection.request(call.verb, path, body=call.body.encode() or None, headers=call.headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def shown(call: Call, answer: tuple[int, str], masks: mask.Mask) -> Shown:
    """An answer without what differs from one time to the next."""
    status, body = answer
    for pattern, to in WORDS:
        body = re.sub(pattern, to, body)
    return Shown(call.line, masks.json(body), "", status)


def wait_until_serving(api: Api) -> None:
    """Until the namespace answers."""
    deadline = time.monotonic() + cli.SERVING_S_MAX
    probe = Call("", "GET", "/namespaces/default/workflow-count", "")
    while True:
        try:
            if api.ask(probe, probe.path)[0] == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("the HTTP API does not answer")
        time.sleep(0.2)


def play(api: Api, played: list[Call], pause_s: float, both: bool) -> tuple[list[Shown], list[str]]:
    """What the calls show, and which of them the two families of paths answer differently."""
    masks = mask.Mask({})
    answers, apart = [], []
    for call in played:
        first = shown(call, api.ask(call, call.path), masks)
        answers.append(first)
        if call.verb != "GET":
            # Lists of Temporal lag.
            time.sleep(pause_s)
        second = call.second() if both and call.verb == "GET" else None
        if second and shown(call, api.ask(call, second), masks) != first:
            apart.append(f"{call.line}: {second} answers something else")
    return answers, apart


def main() -> None:
    """Records or compares, and ends with a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="on a Temporal server of its own, into expected.txt")
    parser.add_argument("--only", metavar="TEXT", default="", help="calls whose line contains this; with all others before them")
    options = parser.parse_args()
    played = calls()
    with tempfile.TemporaryDirectory() as folder:
        if options.record:
            with temporal(Path(folder)) as address:
                api = Api(address)
                wait_until_serving(api)
                answers, _ = play(api, played, 0.3, False)
            compare.write(EXPECTED, {"calls": answers})
            print(f"{len(answers)} calls recorded")
            return
        with everlog(Path(folder)) as address:
            api = Api(address)
            wait_until_serving(api)
            answers, wrong = play(api, played, 0.0, True)
    expected = compare.read(EXPECTED).get("calls", [])
    known = compare.Known(HERE / "known_differences.txt")
    failed = len(wrong)
    for line in wrong:
        print(line)
    if [answer.command for answer in expected] != [answer.command for answer in answers]:
        sys.exit("calls.txt and expected.txt have other calls: record them")
    passed = 0
    for wanted, got in zip(expected, answers, strict=True):
        different = [found for found in compare.differences(wanted, got) if not known.has(f"{wanted.command.split(' {')[0]} {found[0]}")]
        passed += not different
        failed += bool(different)
        if different and options.only in wanted.command:
            print(f"--- {wanted.command}")
            print("\n".join(f"    {path}: {how}" for path, how in different))
    for pattern in known.unmet():
        failed += 1
        print(f"known_differences.txt: nothing differs any more at {pattern}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


def temporal(folder: Path):
    """A Temporal server; gives the address of its HTTP API."""
    return cli.temporal_server(cli.temporal_binary(), folder, of_http=True)


def everlog(folder: Path):
    """An Everlog server; gives the address of its HTTP API."""
    return cli.everlog_server(folder, listener="http")


if __name__ == "__main__":
    main()
