"""The scripts: what is typed, and the state that it needs.

A file is an area. `== name` begins a scenario, `== name first` one that is played before all others, alone. Then, a line each:

    # a remark
    worker                  starts an SDK worker on the scenario's task queue; `worker NAME` on another one
    worker stop             stops the scenario's workers
    poll workflow           somebody asks for a task of the queue until workers are stopped
    poll activity [N]       the same for activities, with a limit of N a second
    await ID EVENT [N]      waits until the history of ID has N (1) events of the type EVENT
    listed N QUERY          waits until N workflows are listed for QUERY
    described ID FIELD      waits until a description of ID in JSON shows FIELD
    namespace               registers the namespace {namespace} and waits until it can be used
    ended                   waits until the batch job that was started last has ended, and is listed so
    sleep SECONDS           where only time can bring what is to be shown
    + workflow start ...    a command that must succeed, whose output is not compared
    $ workflow show ...     a command whose output is compared; ` <<< TEXT` at its end is what it reads

`{id}` is a prefix of the scenario's own for workflow ids, `{queue}` its task queue, `{namespace}` its namespace, `{job}` the
batch job that was started last, and `{run:ID}` the run that ID has.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

VERBS = {"worker", "poll", "await", "listed", "described", "namespace", "ended", "sleep", "+", "$"}


@dataclass
class Scenario:
    """A part of a script that stands for itself."""

    area: str
    name: str
    first: bool
    steps: list[tuple[str, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.area}/{self.name}"

    @property
    def commands(self) -> list[str]:
        """What is compared, as it stands in the script."""
        return [rest for verb, rest in self.steps if verb == "$"]


def read(folder: Path) -> list[Scenario]:
    """The scenarios of all areas, in the order of their names."""
    scenarios = []
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.name}:{number}"
            if heading := re.fullmatch(r"== (\w+)( first)?", line):
                scenarios.append(Scenario(path.stem, heading[1], bool(heading[2])))
                continue
            verb, _, rest = line.strip().partition(" ")
            if not verb or verb.startswith("#"):
                continue
            if verb not in VERBS or not scenarios or scenarios[-1].area != path.stem:
                raise SystemExit(f"{where}: what is {line!r}? See tests/cli/scripts.py.")
            scenarios[-1].steps.append((verb, rest))
    titles = [scenario.title for scenario in scenarios]
    if doubled := {title for title in titles if titles.count(title) > 1}:
        raise SystemExit(f"scenarios with the same name: {sorted(doubled)}")
    return scenarios
