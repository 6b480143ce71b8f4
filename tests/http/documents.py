"""What the OpenAPI documents of a Temporal server name: written to engine/http/src/openapi/recorded.txt, with which Everlog's are compared.

    documents.py       starts a Temporal server, reads its documents, and writes the table

Only what a generated client depends on is kept, a line for each operation and definition of either version: verb, path, the query's parameters
with their types, body and answer; the name of a definition and how many fields it has. Needs the packages of tests/cli/requirements.txt, and
pyyaml.
"""

import http.client
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "cli"))

import run as cli  # noqa: E402

TABLE = HERE.parent.parent / "engine/http/src/openapi/recorded.txt"
HEAD = "# What the OpenAPI documents of a Temporal server name, versions 2 and 3; made by tests/http/documents.py.\n"

Schema = dict[str, object]


def last(reference: str) -> str:
    """The name of a definition."""
    return reference.rpartition("/")[2]


def kind(schema: Schema) -> str:
    """The type of a parameter, with its format, if it is one of a number or of a text that is none."""
    if schema.get("type") == "array":
        return f"{kind(schema['items'])}[]"
    # Version 3 has no format for numbers in texts, and other names for others.
    of = {"bytes": "byte", "enum": "", "int64": "", None: ""}.get(schema.get("format"), schema.get("format"))
    return f"{schema['type']}{of and '/'}{of}"


def query(parameters: list[Schema], schema_of) -> str:
    """The parameters of a query, by name."""
    in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
    names = [f"{p['name']}:{kind(schema_of(p))}" for p in parameters if p["in"] == "query" and not repeats(p["name"], in_path)]
    return f" ?{','.join(sorted(names))}" if names else ""


def repeats(name: str, in_path: set[str]) -> bool:
    """Whether a field of a field is in the path, too: version 3 names it in both places, in two spellings."""
    return any("." in path and path.replace("_", "").lower() == name.lower() for path in in_path)


def version_2(document) -> list[str]:
    """The lines of a document of version 2."""
    lines = []
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            parameters = operation.get("parameters", [])
            bodies = [f" <{last(p['schema']['$ref'])}>" for p in parameters if p["in"] == "body"]
            answer = last(operation["responses"]["200"]["schema"]["$ref"])
            lines.append(f"2 {verb.upper()} {path}{query(parameters, lambda p: p)}{''.join(bodies)} -> {answer}")
    return lines + [f"2 {name} {len(of.get('properties', ()))}" for name, of in document["definitions"].items()]


def version_3(document) -> list[str]:
    """The lines of a document of version 3."""

    def of_json(content) -> str:
        return last(content["content"]["application/json"]["schema"]["$ref"])

    lines = []
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            body = f" <{of_json(operation['requestBody'])}>" if "requestBody" in operation else ""
            parameters = query(operation.get("parameters", []), lambda p: p["schema"])
            lines.append(f"3 {verb.upper()} {path}{parameters}{body} -> {of_json(operation['responses']['200'])}")
    return lines + [f"3 {name} {len(of.get('properties', ()))}" for name, of in document["components"]["schemas"].items()]


def read(address: str, path: str) -> str:
    """A document, as soon as the server answers."""
    deadline = time.monotonic() + cli.SERVING_S_MAX
    while True:
        try:
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status == 200:
                return response.read().decode()
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"{path} is not answered")
        time.sleep(0.2)


def main() -> None:
    """Records."""
    with tempfile.TemporaryDirectory() as folder, cli.temporal_server(cli.temporal_binary(), Path(folder), of_http=True) as address:
        lines = version_2(json.loads(read(address, "/swagger.json"))) + version_3(yaml.safe_load(read(address, "/openapi.yaml")))
    TABLE.write_text(HEAD + "\n".join(sorted(lines)) + "\n")
    print(f"{len(lines)} lines recorded")


if __name__ == "__main__":
    main()
