"""What a release is made of: one version, wheels that pages and workflow agree on, a description without dead links."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import index_description
import pytest
import wheels
import yaml  # type: ignore[import-untyped]

import rmsprop
from rmsprop.__main__ import main

ROOT = Path(__file__).resolve().parent.parent

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW: dict[str, Any] = yaml.safe_load(wheels.WORKFLOW.read_text())
JOBS = WORKFLOW["jobs"]


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_version_and_authors_are_those_of_the_package_everywhere() -> None:
    assert version("rmsprop") == rmsprop.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    (heading,) = re.findall(r"\A[^#]*# Changelog\n[^#]*## (.*)\n", changelog)
    assert re.fullmatch(rf"{re.escape(rmsprop.__version__)} \((not released|\d{{4}}-\d\d-\d\d)\)", heading)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rmsprop.__version__
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["project"]["authors"] == citation["authors"]
    assert PROJECT["project"]["license"] == citation["license"]


def test_the_command_says_its_version_without_its_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    monkeypatch.setattr(sys, "argv", ["rmsprop", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"{rmsprop.__version__}\n"


def test_the_description_for_an_index_stands_without_the_project() -> None:
    text = index_description.description((ROOT / "README.md").read_text())
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]*)\)", text))
    assert "pip install 'rmsprop[torch]'" in text
    assert "pip install ." not in text
    assert not re.search(r"`?make \w|<!--", text)
    assert len(text) > 1500


def test_the_workflow_builds_what_pyproject_says() -> None:
    settings = PROJECT["tool"]["cibuildwheel"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert wheels.pythons()[0] == oldest
    assert JOBS["windows"]["strategy"]["matrix"]["python"] == wheels.pythons()
    assert PROJECT["tool"]["scikit-build"]["wheel"]["py-api"] == f"cp{wheels.pythons()[1].replace('.', '')}"
    (build,) = commands("wheels")
    words = build.split()
    assert re.fullmatch(r"cibuildwheel==\d+\.\d+\.\d+", words[2])
    assert {w for w in words if w.startswith("--")} == {"--platform", "--archs", "--output-dir"}
    assert settings["test-command"] == "python {project}/scripts/try_wheel.py kernel"
    assert any("-C wheel.cmake=false -C wheel.py-api=py3" in command for command in commands("anywhere"))
    assert "python scripts/try_wheel.py none" in commands("windows")


def test_jobs_of_the_workflow_wait_for_each_other_and_publish_what_was_checked() -> None:
    assert set(JOBS["check"]["needs"]) == set(JOBS) - {"check", "publish"}
    assert JOBS["publish"]["needs"] == "check"
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if job.get("permissions", {}).get("id-token")] == ["publish"]
    tools = re.findall(r"^([\w-]+)", (ROOT / "scripts" / "release-tools.txt").read_text(), re.MULTILINE)
    assert {command.split()[0] for command in commands("check")} >= {"twine", "check-wheel-contents"}
    assert {"twine", "check-wheel-contents", "cyclonedx-bom"} <= set(tools)
    for job in JOBS:
        for command in commands(job):
            for script in re.findall(r"scripts/[\w.-]+", command):
                assert (ROOT / script).is_file(), script


def test_the_workflow_takes_a_tag_whose_version_has_a_date(tmp_path: Path) -> None:
    (ask,) = (command for command in commands("publish") if "CHANGELOG" in command)
    for heading, status in (("## 1.2.3 (2027-01-31)", 0), ("## 1.2.3 (not released)", 1), ("## 1.2.4 (2027-01-31)", 1)):
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
        environment = {"GITHUB_REF_NAME": "v1.2.3", "PATH": "/usr/bin:/bin"}
        assert subprocess.run(["sh", "-c", ask], cwd=tmp_path, env=environment, check=False).returncode == status


def test_the_tables_of_wheels_are_those_of_the_stored_results() -> None:
    text = wheels.PAGE.read_text()
    assert wheels.up_to_date(text) == text
