"""The wheel: the knowledge travels in it, and kbtool works from any folder, without the project beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, cwd=out, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return next(out.glob("*.whl"))


def test_the_knowledge_travels_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("ontology", "shapes", "queries"):
        here = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
        assert here
        assert {f"kbtool/knowledge_base/{name}" for name in here} <= names
    assert "kbtool/assess.schema.json" in names
    assert "kbtool/py.typed" in names
    assert not any(name.startswith("tests") for name in names)


def test_the_installed_package_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    facts = (ROOT / "tests" / "patients" / "P01.ttl").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "kbtool", "assess", "-", "--as-of", "2026-02-10T12:00:00Z"],
        input=facts,
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert b"Raise magnesium through the dialysate" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import kbtool.knowledge as k; print(k.HOME)"],
        capture_output=True,
        check=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
