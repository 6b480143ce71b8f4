"""Takes out of what a command prints what differs from one time to the next."""

import itertools
import json
import re
from typing import Any

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
UNITS = "second|minute|hour|day|week|month|year"

# Fields of JSON whose value is an implementation's own, or chance.
COUNTS = "historySizeBytes|stateSizeBytes|stateTransitionCount|taskId|startId|endId|durationMillis"
RATES = "backlogIncreaseRate|tasksAddRate|tasksDispatchRate"
VERSIONS = "sdkVersion|coreVersion"

MASKS = [
    (r"\btemporal-cli:[^\s\"@]+@[^\s\"]+", "temporal-cli:<user>@<host>"),
    (r"\bRequested from CLI by [^\s\"]+", "Requested from CLI by <user>"),
    (r'("message"\s*:\s*)"[^"\s:]+: why"', r'\1"<user>: why"'),
    (r'("stackTrace"\s*:\s*)"(?:[^"\\]|\\.)*"', r'\1"<stack>"'),
    (r"(?m)^(\S*stackTrace:)(?:.*\n?)(?:(?![a-z]\S*: |-----).*\n?)*", r"\1 <stack>\n"),
    (r"(StackTrace:)\n(?:(?!\s*Cause:).*\n?)*", r"\1 <stack>\n"),
    (r"\b127\.0\.0\.1:\d+", "<address>"),
    (rf'("(?:{COUNTS})"\s*:\s*)"?\d+"?', r'\1"<number>"'),
    (rf'("(?:{RATES})"\s*:\s*)"?-?\d+\.[\de-]+"?', r'\1"<rate>"'),
    (rf'("(?:{VERSIONS})"\s*:\s*)"[^"]+"', r'\1"<version>"'),
    (r'"eyJzZXEi[^"]+"', '"<what an SDK keeps of a local activity>"'),
    (r"(?m)(_time\.(?:nanos|seconds): |^taskId: |historySizeBytes: |coreUsedFlags\[\d+\]: )\d+", r"\1<number>"),
    (r'("(?:coreUsedFlags|langUsedFlags)"\s*:\s*)\[[\s\d,]*\]', r'\1"<flags>"'),
    (r'("longPollToken"\s*:\s*)"[^"]*"', r'\1"<token>"'),
    (r'("seconds"\s*:\s*)\d{9,}', r'\1"<number>"'),
    (r'("nanos"\s*:\s*)[1-9]\d*', r'\1"<number>"'),
    (r"HistoryEvents \(\d+/\d+\)", "HistoryEvents (<number>)"),
    (r"\b(Keyword|Text)\d\d\b", r"\1<number>"),
    (r"allowed values are: .*", "allowed values are: <in any order>"),
    (r"\brequest-from-RespondWorkflowTaskCompleted\b", "<uuid>"),
    # As long as a timer has yet to go, which was set a moment after what it is counted from.
    (r'("currentRetryInterval"\s*:\s*")(\d+)(?:\.0\d+)?s', r"\1about \2s"),
    (r"(?m)^(\s*RunTime\s+)\S+", r"\1<duration>"),
    (r'(?m)"Stack for .*"$', '"<stack>"'),
    (r"(?m)^(?:searchAttributes\.)?(indexedFields\.)", r"\1"),
    (r"(?m)^(\s*(?:HistorySize|StateTransitionCount)\s+)\d+", r"\1<number>"),
    (r"(?<=  )-?\d+\.\d{3,}(?:e-\d+)?(?=\s)", "<rate>"),
    (r"\b(?!0001-01-01)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} UTC", "<time>"),
    (rf"\b(?:in )?(?:\d+|an?|a few) (?:{UNITS})s?(?: ago| from now)", "<when>"),
    (r"(?<=  )now\b", "<when>"),
    (r"\(\d+s\)", "(<duration>)"),
    (r"\b(?:\d+h)?(?:\d+m)?\d+\.\d+(?:s|ms|µs)|\b\d+(?:ms|µs)\b", "<duration>"),
    (r"\b[0-9a-f]{32}\b", "<hash>"),
    # The search attribute BuildIds of a worker without a version, whose hash is of its code.
    (r'"WyJ1bnZlcnNpb25lZCIsInVu[^"]+"', '"<build ids>"'),
    (r"\bdata: WyJ1bnZlcnNpb25lZCIsInVu\S+", "data: <build ids>"),
]
MASKS = [(re.compile(pattern), to) for pattern, to in MASKS]


# Lists whose order nothing says.
UNORDERED = {"pendingActivities", "pendingChildren", "pollers", "stats", "reachability"}

# Lines that the command line itself prints in an order that is chance: the types of a task queue, the fields of an event.
UNORDERED_LINE = r"  \S+  (?:activity|workflow)  |[a-z]\S*: "


def ordered(value: Any, key: str = "") -> Any:
    """JSON whose lists are in order."""
    if isinstance(value, dict):
        return {name: ordered(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        entries = [ordered(entry) for entry in value]
        return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True)) if key in UNORDERED else entries
    return value


class Mask:
    """Of one scenario: the same run is always the same `<run-1>`."""

    def __init__(self, names: dict[str, str]) -> None:
        """`names` are the scenario's own and what takes their place."""
        self.names = names
        self.runs: dict[str, str] = {}

    def run(self, run_id: str) -> str:
        """What stands for a run."""
        return self.runs.setdefault(run_id, f"<run-{len(self.runs) + 1}>")

    def text(self, text: str) -> str:
        """A whole output."""
        for name, stands in self.names.items():
            text = text.replace(name, stands)
        for match in re.finditer(rf'(?i)run ?id"?:?\s*"?({UUID})', text):
            self.run(match[1])
        text = re.sub(UUID, lambda match: self.runs.get(match[0], "<uuid>"), text)
        for pattern, to in MASKS:
            text = pattern.sub(to, text)
        return text

    def json(self, text: str) -> str:
        """A whole output that is JSON, or JSON line by line."""
        masked = self.text(text)
        try:
            return json.dumps(ordered(json.loads(masked)), indent=2, ensure_ascii=False)
        except ValueError:
            return masked

    def table(self, text: str) -> str:
        """A whole output, whose columns are as wide as what was in them."""
        lines = [re.sub(r"\s{2,}", "  ", line).rstrip() for line in self.text(text).splitlines()]
        sorted_lines: list[str] = []
        for is_unordered, group in itertools.groupby(lines, lambda line: bool(re.match(UNORDERED_LINE, line))):
            sorted_lines += sorted(group) if is_unordered else group
        return "\n".join(sorted_lines)
