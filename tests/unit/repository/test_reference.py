"""The generation of docs/reference, and pictures in the docs. `make lint` checks that the pages are current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.core.acceptance import MIGRATIONS, PARTITIONS, REDUNDANCIES, STRATEGIES
from reference import python, vocabulary
from reference.crds import Kind
from reference.markdown import NotDescribedError, prose, table, words

ROOT = Path(__file__).resolve().parents[3]


def test_concepts_have_a_picture_of_each_strategy() -> None:
    fences = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / "concepts.md").read_text(), re.M | re.S)

    for name in (*STRATEGIES, *REDUNDANCIES, *MIGRATIONS, *PARTITIONS):
        assert any(re.search(rf"^{name}\b", fence, re.M) for fence in fences), name


def test_characters_with_a_meaning_in_markdown_are_escaped() -> None:
    assert words("ids <name>-0, *all*, ``a | b``") == "ids &lt;name&gt;-0, \\*all\\*, `a | b`"
    assert table(("a",), [("`x | y`",)]).endswith("| `x \\| y` |")


def test_a_docstrings_literal_block_is_code() -> None:
    assert prose("Named so::\n\n    [a]\n    b = 1\n\n    c = 2\n\nAnd\nthen.") == (
        "Named so:\n\n```python\n[a]\nb = 1\n\nc = 2\n```\n\nAnd then."
    )


def crd() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "children.yaml").read_text())
    return loaded


def test_a_field_is_shown_with_type_default_and_allowed_values() -> None:
    page = Kind(crd(), {}).page()

    assert "| `env[].name` | string | required | 1 to 128 characters |" in page
    assert '| `restartPolicy` | string | `"Permanent"` | `Permanent`, `Transient`, `Temporary` |' in page
    assert "| `spec.exec.command` | must name the program to run" in page


def test_a_field_without_a_description_is_rejected() -> None:
    broken = crd()
    schema = broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["pinned"]["description"]

    with pytest.raises(NotDescribedError, match="Child …pinned has no description; write one in crds/"):
        Kind(broken, {}).page()


@pytest.fixture(scope="module")
def package() -> Any:
    return python.load()


def test_a_value_without_a_text_is_rejected(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package["api.reasons.Role"].members["ACTIVE"], "docstring", None)

    with pytest.raises(NotDescribedError, match=r"api\.reasons\.Role\.ACTIVE has no text"):
        vocabulary.page(package)


def test_public_names_are_shown_as_users_import_them(package: Any) -> None:
    page = python.Page(package, "Title", "Intro")
    page.classes("strategies.Distribution", "strategies.Child", "client.hub.Hub", "client.errors.ChildError")

    assert "from processhub.strategies import Distribution" in page.text()
    assert "from processhub.strategies import Child" in page.text()
    assert "from processhub import Hub" in page.text()
    assert "from processhub.client.errors import ChildError" in page.text()
    assert "Hub.attached" not in page.text()


def test_a_class_is_shown_with_the_methods_of_its_base(package: Any) -> None:
    page = python.Page(package, "Title", "Intro")
    page.classes("client.hub.Hub")

    assert "#### Hub.connect" in page.text()
    assert "#### Hub.start_children" in page.text()
