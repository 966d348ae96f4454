"""What the pages show beside commands that other tests run: manifests, Helm values, Python, and options of the CLI.

Manifests must fit the CRDs, without an unknown field. Values and ``--set`` must render. Python must compile, and name
only what there is. Verbs and options of ``kubectl hub`` must exist.
"""

from __future__ import annotations

import ast
import copy
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memoryschemas
import msgspec
import pytest
import typer
import yaml
from renderedchart import CHART, ROOT, template

import render_manifests
from check_docs import pages
from processhub import Hub
from processhub.cli.app import app
from processhub.controller.hooks.verdicts import HookVerdict

Json = dict[str, Any]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in pages(ROOT) if page.name != "CHANGELOG.md"}
PLURALS = {"Hub": "hubs", "Child": "children", "ChildSet": "childsets"}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text()).keys()
# Parts of objects that are not this project's. They are read as YAML, and no more.
OF_OTHERS = ({"volumes"}, {"ignoreDifferences", "syncPolicy"})
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S)
_HERE = re.compile(r"<<-?'?(\w+)'?\n(.*?)^\1$", re.M | re.S)
_SIGNATURE = re.compile(r"(@\w+\n)*(async )?def .*[^:]\n", re.S)  # of the reference, which is made of the code
_SET = re.compile(r"--set(?:-string)?[ =]([\w.]+=[^\s`\\]+)")
_HUB = re.compile(r"(?:^|`|\$\()kubectl(?: |-)hub +([^`\n|#<>;]+)", re.M)


def blocks(*languages: str) -> list[Any]:
    """The fenced blocks in these languages, each with its place."""
    return [
        pytest.param(re.sub(f"^{match['indent']}", "", match["code"], flags=re.M), id=f"{name}:{line_of(text, match)}")
        for name, text in PAGES.items()
        for match in _FENCE.finditer(text)
        if match["language"] in languages
    ]


def line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 2


def manifests() -> Iterator[Any]:
    """The objects of this project in YAML blocks, in commands, and in files to apply, each with its place."""
    texts = {param.id: param.values[0] for param in blocks("yaml")}
    for param in blocks("sh"):
        texts |= {f"{param.id}<<{number}": match[2] for number, match in enumerate(_HERE.finditer(param.values[0]))}
    for folder in ("manifests/examples", "examples"):
        texts |= {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / folder).rglob("*.yaml"))}
    for where, text in texts.items():
        for number, item in enumerate(yaml.load_all(text, Loader=yaml.CSafeLoader)):
            if isinstance(item, dict) and is_ours(item):
                yield pytest.param(item, id=f"{where}#{number}")


def is_ours(item: Json) -> bool:
    group = str(item.get("apiVersion", "")).partition("/")[0]
    return group == "processhub.dev" or (
        item.keys() == {"spec"} and not any(item["spec"].keys() == it for it in OF_OTHERS)
    )


@pytest.mark.parametrize("manifest", list(manifests()))
def test_a_manifest_fits_its_crd(manifest: Json) -> None:
    """A part of one that begins with ``spec`` is that of a Hub."""
    rules = memoryschemas.rules_of(PLURALS[manifest.get("kind", "Hub")])
    assert rules is not None
    whole = copy.deepcopy(manifest)
    rules.complete(whole)

    assert rules.errors(whole) == []
    assert list(missing_in(whole, manifest)) == [], "no such field"


def missing_in(whole: Any, given: Any, path: str = "") -> Iterator[str]:
    """The fields that were given and dropped."""
    if isinstance(given, dict):
        for name, value in given.items():
            if path or name in ("spec", "status"):
                if name in whole:
                    yield from missing_in(whole[name], value, f"{path}.{name}")
                else:
                    yield f"{path}.{name}"
    elif isinstance(given, list):
        for number, value in enumerate(given):
            yield from missing_in(whole[number], value, f"{path}[{number}]")


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_yaml_block_is_a_manifest_or_values_that_render(text: str, tmp_path: Path) -> None:
    for item in yaml.safe_load_all(text):
        if "apiVersion" in item:
            assert {"kind", "metadata"} <= item.keys()
        elif item.keys() != {"spec"} and item.keys() not in OF_OTHERS:
            assert item.keys() <= VALUES
            path = tmp_path / "values.yaml"
            path.write_text(yaml.safe_dump(item))
            assert template(render_manifests.helm(), "-f", str(path))


@pytest.mark.parametrize(
    ("page", "option"), [(name, it[1]) for name, text in PAGES.items() for it in _SET.finditer(text)]
)
def test_an_option_of_helm_is_a_value_of_the_chart(page: str, option: str) -> None:
    assert option.partition("=")[0].split(".")[0] in VALUES, page
    assert template(render_manifests.helm(), "--set", option.replace("…", "x"))


@pytest.mark.parametrize("text", blocks("json"))
def test_a_json_block_is_the_answer_of_a_hook(text: str) -> None:
    assert msgspec.convert(json.loads(text), HookVerdict).allow


@pytest.mark.parametrize(
    "code", [param for param in blocks("python") if not _SIGNATURE.fullmatch(str(param.values[0]))]
)
def test_python_compiles_and_names_what_there_is(code: str) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(code, "page", "exec", flags=flags)
    tree = compile(code, "page", "exec", flags=flags | ast.PyCF_ONLY_AST)
    assert list(unknown_names(tree)) == []


def unknown_names(tree: ast.AST) -> Iterator[str]:
    """The names of the package, and of ``hub``, that do not exist."""
    known: dict[str, Any] = {"hub": Hub}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                importlib.import_module(name)
                known[name.partition(".")[0]] = importlib.import_module(name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            known |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            first, *names = path.split(".") if re.fullmatch(r"[\w.]+", path) else [""]
            found = known.get(first)
            for name in names if found is not None else ():
                if not hasattr(found, name):
                    yield path
                    break
                found = getattr(found, name)


COMMANDS: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("page", "command"),
    sorted({(name, it[1].strip()) for name, text in PAGES.items() for it in _HUB.finditer(text)}),
)
def test_a_command_line_has_a_verb_and_options_that_there_are(page: str, command: str) -> None:
    words = command.partition(" -- ")[0].replace("[", " ").replace("]", " ").split()
    found = COMMANDS
    while words and hasattr(found, "commands") and words[0] in found.commands:
        found = found.commands[words.pop(0)]
    if found is COMMANDS and words and (words[0].isupper() or words[0].startswith(("…", "-"))):
        return  # Of any verb.
    assert found is not COMMANDS, f"{page}: no verb {words[:1]}"
    options = {option for each in found.params for option in each.opts}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options, page


def test_the_checks_find_what_they_look_for() -> None:
    unknown = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {}, "spec": {"memberz": {}}}
    with pytest.raises(AssertionError, match="memberz"):
        test_a_manifest_fits_its_crd(unknown)
    with pytest.raises(AssertionError, match="drains"):
        test_python_compiles_and_names_what_there_is("await hub.drains()")
    with pytest.raises(AssertionError, match=r"page: no verb \['drian'\]"):
        test_a_command_line_has_a_verb_and_options_that_there_are("page", "drian MEMBER")
    with pytest.raises(AssertionError, match="page"):
        test_a_command_line_has_a_verb_and_options_that_there_are("page", "drain MEMBER --forse")
