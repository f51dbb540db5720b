"""Write the knowledge and every step of the derivation as files that any SPARQL 1.1 store can run."""

from __future__ import annotations

from pathlib import Path

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.knowledge import HOME
from kbtool.namespaces import local_name

_PARTS_A_FILE = 25
"""Updates in one exported file; parsers that recurse (rdflib's does) fail on a file with very many."""

_RUN_IT = """How to derive the answers in a store of your own
================================================

Everything here is plain SPARQL 1.1 and RDF. In an empty default graph:

1. Load {knowledge}.
2. Load the facts of your patients. Blank nodes must have become IRIs, except where a patient is one.
3. Say for which time: INSERT DATA {{ cg:Run cg:asOf "2026-02-10T12:00:00Z"^^xsd:dateTime }}
4. Find what does not conform with the SELECT queries in validate/. For each ?this: where it is an observation, delete
   the triple that links it to its patient; where it is anything else, delete the patient. Queries whose header says
   Warning only warn.
5. Run the updates in the order of their numbers. Each only adds triples.

Then ask: ?patient cg:recommended ?recommendation, and so on (queries in ask/). Do it in batches of some hundred
patients, or in one graph for all; clear what was derived before you run it again.
"""


class ExportError(Exception):
    """The files cannot be written where they were wanted."""


def export(kb: KnowledgeBase, folder: Path) -> list[str]:
    """Write the knowledge, the compiled shapes and every step as files, and how to run them. Returns the file names.

    Raises ExportError where the folder holds files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: is not an empty folder; nothing was written")
    for sub in ("", "validate", "ask"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    written: list[str] = []

    def write(name: str, text: str | bytes) -> None:
        data = text.encode("utf-8") if isinstance(text, str) else text
        (folder / name).write_bytes(data)
        written.append(name)

    triples = sorted({q.triple for q in kb.knowledge.graph}, key=str)
    write("00-knowledge.nt", ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES) or b"")
    for number, constraint in enumerate(kb.knowledge.shapes, 1):
        head = f"#+ summary: {_line(constraint.message)}\n#+ shape: {constraint.shape}\n"
        write(f"validate/{number:02}.rq", f"{head}#+ severity: {local_name(constraint.severity)}\n{constraint.query}\n")
    chunks = [
        (step, step.parts[start : start + _PARTS_A_FILE])
        for step in kb.knowledge.steps
        for start in range(0, len(step.parts), _PARTS_A_FILE)
    ]
    for number, (step, parts) in enumerate(chunks, 1):
        update = step.prologue + " ;\n\n".join(part.text for part in parts)
        write(f"{number:02}-{step.name.replace('/', '-')}.ru", update.rstrip() + "\n")
    for file in sorted((HOME / "queries" / "ask").glob("*.rq")):
        write(f"ask/{file.name}", file.read_text(encoding="utf-8"))
    write("README.txt", _RUN_IT.format(knowledge=written[0]))
    return written


def _line(text: str) -> str:
    return " ".join(text.split())
