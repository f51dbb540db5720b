"""The reference JavaScript engine of HL7 CQL: install it beside, translate, run.

npm packages go into a folder outside the tree and are never part of the project.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers.answers import Answers
from peers.cql import Compiled

PACKAGES = {"cql-execution": "3.3.2", "cql-exec-fhir": "2.2.0", "@cqframework/cql": "5.3.0"}
"""The engine, FHIR for it, and the translator of the CQL framework."""

_HERE = Path(__file__).parent


class UnavailableError(Exception):
    """A tool is not there or cannot be installed. The message says which."""


@dataclass
class Run:
    """Answers, and the seconds from the first byte of the bundles to the last answer."""

    answers: Answers
    cpu: float
    wall: float


def install(folder: Path) -> Path:
    """Install the packages into a folder, unless they are there; gives the folder. Raises UnavailableError."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed")
    if all((folder / "node_modules" / name / "package.json").is_file() for name in PACKAGES):
        return folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *wanted], 300)
    return folder.resolve()


def versions(folder: Path) -> dict[str, str]:
    """The versions of node and of the installed packages."""
    found = {"node": _run(["node", "--version"], 30).strip().removeprefix("v")}
    for name in PACKAGES:
        data = json.loads((folder / "node_modules" / name / "package.json").read_text(encoding="utf-8"))
        found[name] = data["version"]
    return found


def translate(modules: Path, compiled: Compiled, folder: Path) -> None:
    """Write the CQL, its value sets and its ELM into a folder."""
    (folder / "peer.cql").write_text(compiled.text, encoding="utf-8")
    (folder / "value-sets.json").write_text(json.dumps(compiled.value_sets), encoding="utf-8")
    script = str(_HERE / "translate.mjs")
    _run(["node", script, str(modules), str(folder / "peer.cql"), str(folder / "peer.elm.json")], 300)


def run(modules: Path, folder: Path, bundles: bytes, as_of: str) -> Run:
    """Run the translated library on bundles, a line each."""
    source, out = folder / "bundles.ndjson", folder / "answers.ndjson"
    source.write_bytes(bundles)
    names = ["peer.elm.json", "value-sets.json"]
    paths = [str(folder / name) for name in names]
    _run(["node", str(_HERE / "run.cjs"), str(modules), *paths, str(source), as_of, str(out)], 3600)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    used = rows.pop()
    return Run({row.pop("patient"): row for row in rows}, used["cpu"], used["wall"])


def _run(command: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command[:2])} took longer than {timeout:g} s") from None
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-600:]}")
    return done.stdout
