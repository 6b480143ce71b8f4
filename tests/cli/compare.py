"""What was printed, as files and side by side: JSON by its fields, anything else by its lines."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, Iterator

from stage import Shown


def write(path: Path, scenarios: dict[str, list[Shown]]) -> None:
    """Writes down what an area has shown."""
    lines = []
    for name, commands in scenarios.items():
        lines.append(f"== {name}")
        for shown in commands:
            lines.append(f"$ {shown.command}")
            lines += [f"| {line}".rstrip() for line in shown.out.splitlines()]
            lines += [f"! {line}".rstrip() for line in shown.error.splitlines()]
            lines += [f"exit {shown.status}"] if shown.status else []
        lines.append("")
    path.write_text("\n".join(lines))


def read(path: Path) -> dict[str, list[Shown]]:
    """What `write` has written."""
    scenarios: dict[str, list[Shown]] = {}
    commands: list[Shown] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        mark, _, rest = line.partition(" ")
        match mark:
            case "==":
                commands = scenarios.setdefault(rest, [])
            case "$":
                commands.append(Shown(rest, "", "", 0))
            case "|":
                commands[-1].out += f"{rest}\n"
            case "!":
                commands[-1].error += f"{rest}\n"
            case "exit":
                commands[-1].status = int(rest)
    return scenarios


def differences(expected: Shown, seen: Shown) -> Iterator[tuple[str, str]]:
    """Where two outputs differ (a path or a line), and how."""
    if expected.status != seen.status:
        yield "exit", f"expected {expected.status}, seen {seen.status}"
    fields = [as_json(expected.out), as_json(seen.out)]
    if None not in fields:
        wanted, got = (dict(flat(parsed, "")) for parsed in fields)
        for path in sorted(wanted.keys() | got.keys()):
            if wanted.get(path) != got.get(path):
                yield path, f"expected {wanted.get(path, 'nothing')}, seen {got.get(path, 'nothing')}"
    else:
        yield from lines(expected.out, seen.out)
    yield from lines(expected.error, seen.error)


def lines(expected: str, seen: str) -> Iterator[tuple[str, str]]:
    """Lines that only one of two texts has."""
    texts = [[line.rstrip() for line in text.strip().splitlines()] for text in (expected, seen)]
    for line in difflib.ndiff(*texts):
        if line.startswith("- "):
            yield line[2:].strip(), f"expected: {line[2:]}"
        elif line.startswith("+ "):
            yield line[2:].strip(), f"seen:     {line[2:]}"


def as_json(text: str) -> Any:
    """The value that a text is, or the values of its lines; None if it is no JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        try:
            return [json.loads(line) for line in text.splitlines()]
        except ValueError:
            return None


def flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every leaf with the way to it."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from flat(inner, f"{path}.{number}".lstrip("."))
    else:
        yield path, json.dumps(value, ensure_ascii=False)


class Known:
    """The differences that are known: patterns of `area/scenario command-number where`, with `*` for anything, under their reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.patterns: dict[str, re.Pattern[str]] = {}
        self.met: set[str] = set()
        reason = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("#"):
                reason = True
            elif not line.strip():
                reason = False
            elif not reason or line in self.patterns:
                raise SystemExit(f"{path.name}:{number}: a pattern {'without a reason' if not reason else 'for the second time'}")
            else:
                self.patterns[line] = re.compile(".*".join(map(re.escape, line.split("*"))))

    def has(self, where: str) -> bool:
        """Whether a difference is known."""
        found = [line for line, pattern in self.patterns.items() if pattern.fullmatch(where)]
        self.met.update(found)
        return bool(found)

    def unmet(self) -> list[str]:
        """Patterns that no difference has met."""
        return [line for line in self.patterns if line not in self.met]
