"""The output for a wrong command line, and its exit code: one sentence on stderr, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from processhub.cli.durations import age, seconds
from processhub.cli.errors import UsageError
from processhub.cli.main import main, split_command, verb_first

CHILD = """
apiVersion: processhub.dev/v1alpha1
kind: Child
metadata: {name: a}
spec: {hub: my-hub, exec: {command: [sleep]}}
"""
HUB = "apiVersion: processhub.dev/v1alpha1\nkind: Hub\nmetadata: {name: my-hub}\n"
FILES = {
    "child.yaml": CHILD,
    "empty.yaml": "",
    "text.yaml": "hello",
    "broken.yaml": "a: [1",
    "pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}",
    "old.yaml": "apiVersion: processhub.dev/v1\nkind: Child\nmetadata: {name: a}\nspec: {}",
    "no-spec.yaml": "apiVersion: processhub.dev/v1alpha1\nkind: Child\nmetadata: {name: a}",
    "no-id.yaml": "exec: {command: [sleep]}\n---\nexec: {command: [sleep]}",
    "typo.yaml": CHILD.replace("command", "comand"),
    "two-hubs.yaml": f"{CHILD}---{CHILD.replace('my-hub', 'other')}",
    "binary.yaml": "\x00\x01",
    "date.yaml": "id: a\ntags: [2026-13-01]",
    "endless.yaml": "&a [*a]",
    "hub.yaml": f"{HUB}spec: {{members: {{replicas: many}}}}",
    "good-hub.yaml": f"{HUB}spec: {{}}",
}

BAD: list[tuple[str, str, int]] = [
    ("frob", "no such command 'frob'; see 'kubectl hub --help'", 2),
    ("lits", "no such command 'lits'; did you mean 'list'?; see 'kubectl hub --help'", 2),
    ("delete a", "no such command 'delete'; did you mean 'stop'?; see 'kubectl hub --help'", 2),
    ("list --frob", "no such option: --frob; see 'kubectl hub list --help'", 2),
    ("list -o xml", "invalid value for '-o' / '--output': 'xml' is not one of 'table', 'json', 'yaml', 'name'; see", 2),
    ("list extra", "got unexpected extra argument", 2),
    ("where", "missing argument 'ID'; see 'kubectl hub where --help'", 2),
    ("stop", "missing argument 'ID…'", 2),
    ("start a", "start needs exactly one of --exec -- CMD…, --python MODULE:CLASS and -f FILE; none is given", 2),
    ("start a --python m:C --exec -- sleep", "--exec and --python are given", 2),
    ("start a --exec", "--exec needs the program to run: start ID… --exec -- CMD ARG…", 2),
    ("start a --exec --", "--exec needs the program to run", 2),
    ("start --exec -- sleep", "start --exec needs the ids to start", 2),
    ("start a --python Poller", "--python 'Poller' names no class; write MODULE:CLASS", 2),
    ("start a --python m:C --timeout soon", "--timeout 'soon' is not a duration; write seconds (10) or 500ms", 2),
    ("start a --python m:C --timeout 0", "--timeout '0' is out of range", 2),
    ("start a --python m:C --on-failure stop", "invalid value for '--on-failure'", 2),
    ("start -f nowhere.yaml", "file nowhere.yaml not found", 2),
    ("start -f empty.yaml", "error: empty.yaml holds no child", 2),
    ("start -f text.yaml", "text.yaml, document 1: expected a manifest or a child's spec, got 'hello'", 2),
    ("start -f broken.yaml", "file broken.yaml is not valid YAML", 2),
    ("start -f binary.yaml", "file binary.yaml is not valid YAML", 2),
    ("start -f date.yaml", "file date.yaml is not valid YAML: month must be in 1..12", 2),
    ("start -f endless.yaml", "file endless.yaml is not valid YAML", 2),
    ("start -f .", "file binary.yaml is not valid YAML", 2),
    ("start -f pod.yaml", "expected kind Child of processhub.dev/v1alpha1, got kind Pod of v1", 2),
    ("start -f old.yaml", "expected kind Child of processhub.dev/v1alpha1, got kind Child of processhub.dev/v1", 2),
    ("start -f no-spec.yaml", "a Child needs a spec with hub and a workload", 2),
    ("start -f no-id.yaml", "child 1 has no id; write one, or name the ids: start ID… -f FILE", 2),
    ("start b -f child.yaml", "child.yaml has no child 'b'; it has a", 2),
    ("start -f good-hub.yaml -f child.yaml", "expected kind Child of processhub.dev/v1alpha1, got kind Hub of", 2),
    ("start -f two-hubs.yaml", "the children name different hubs: my-hub, other", 2),
    ("start -f child.yaml --hub other", "the children name different hubs: my-hub, other", 2),
    ("logs a --tail -1", "invalid value for '--tail': it must be at least 0; see", 2),
    ("plan --add many", "invalid value for '--add': it must be a whole number; see", 2),
    ("plan --add 1001", "invalid value for '--add': it must be at most 1000; see", 2),
    ("plan -f good-hub.yaml -f typo.yaml", "typo.yaml, document 1: exec.command is missing; 'comand' is no field", 2),
    ("exec a", "exec needs the command to run: exec ID -- CMD ARG…", 2),
    ("exec a --", "exec needs the command to run: exec ID -- CMD ARG…", 2),
    ("list --request-timeout soon", "--request-timeout 'soon' is not a duration", 2),
    ("list --as-group ops", "--as-group and --as-uid need --as, the user to impersonate", 2),
    ("list --insecure-skip-tls-verify --certificate-authority f", "takes any certificate: leave out --certif", 2),
    (
        "list -s https://127.0.0.1:9",
        "GET /apis/processhub.dev/v1alpha1/namespaces/default/hubs: no connection to 127.0.0.1:9: Connection refused",
        1,
    ),
    ("plan -f child.yaml", "the files need the Hub to plan for; they have none", 2),
    ("plan -f hub.yaml", "hub.yaml, document 1: spec.members.replicas must be a whole number, not text", 2),
    (
        "plan -f good-hub.yaml --remove my-hub-9",
        "no member 'my-hub-9' to remove; it has my-hub-0, my-hub-1, my-hub-2",
        2,
    ),
    ("plan -f good-hub.yaml -f child.yaml -f child.yaml", "the files have child 'a' twice", 2),
    ("call a {", "the request is not JSON", 2),
    ("cast a x", "the request is not JSON", 2),
    ("call a {} --timeout soon", "not a duration", 2),
    (f"call a {'9' * 5000}", "the request can't be read: Exceeds the limit", 2),
    (f"call a {'[' * 100_000}", "the request can't be read: maximum recursion depth exceeded", 2),
    ("quorum", "missing command; see 'kubectl hub quorum --help'", 2),
    ("list --request-timeout 0s", "no cluster to talk to", 1),
    ("quorum reset", "no cluster to talk to", 1),
    ("list --kubeconfig nowhere", "kubeconfig nowhere not found", 1),
    ("list", "no cluster to talk to", 1),
    ("await a", "no cluster to talk to", 1),
]


@pytest.fixture
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a folder with the files and no configured cluster."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("KUBECONFIG", "HUB_NAME", "HUB_NAMESPACE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("processhub.cluster.kubeconfig.DEFAULT_KUBECONFIG", tmp_path / "none")


@pytest.mark.usefixtures("_nowhere")
@pytest.mark.parametrize(("line", "sentence", "code"), BAD, ids=[row[0][:60] for row in BAD])
def test_a_bad_command_line_prints_one_sentence_and_has_its_exit_code(
    line: str, sentence: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split(" ")) == code

    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("line", ["", "--help", "-h", "start --help", "quorum --help"])
def test_help_is_no_error(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0

    assert "Usage: kubectl hub" in capsys.readouterr().out


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])

    said = capsys.readouterr().out
    verbs = "start stop await list where lookup call cast members explain plan drain undrain move dump top logs exec"
    verbs += " status version completion options quorum"
    assert all(f"\n  {verb} " in said for verb in verbs.split())


def test_the_arguments_after_exec_are_the_childs_command_line() -> None:
    assert split_command(["start", "a", "--exec", "--", "sh", "-c", "--", "--wait"]) == (
        ["start", "a", "--exec"],
        ["sh", "-c", "--", "--wait"],
    )
    assert split_command(["stop", "--", "--odd-id"]) == (["stop", "--", "--odd-id"], None)


@pytest.mark.parametrize(
    ("line", "closed", "code"),
    [("plan -f -", "<&-", 2), ("call a -", "<&-", 2), ("plan -f good-hub.yaml", ">&-", 0), ("list", "2>&-", 1)],
)
@pytest.mark.usefixtures("_nowhere")
def test_a_stream_that_the_caller_has_closed_is_empty(line: str, closed: str, code: int) -> None:
    program = f"from processhub.cli.main import main; raise SystemExit(main({line.split()!r}))"

    ended = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, "a bug" in ended.stderr) == (code, False)


def test_common_options_may_stand_before_the_verb() -> None:
    assert verb_first(["-n", "prod", "--hub=h", "list", "-o", "json"]) == [
        "list",
        "-n",
        "prod",
        "--hub=h",
        "-o",
        "json",
    ]
    assert verb_first(["-nprod", "-ojson", "list", "-A"]) == ["list", "-nprod", "-ojson", "-A"]
    assert verb_first(["-x", "list"]) == ["-x", "list"]
    assert verb_first(["list"]) == ["list"]
    assert verb_first(["--help"]) == ["--help"]


@pytest.mark.parametrize(
    ("seconds_ago", "shown"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (303, "5m3s"),
        (3599, "59m"),
        (10800, "3h"),
        (86400, "24h"),
        (180000, "2d"),
    ],
)
def test_ages_are_printed_as_by_kubectl(seconds_ago: float, shown: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)

    assert age((now - timedelta(seconds=seconds_ago)).isoformat(), now) == shown


def test_a_missing_time_has_no_age() -> None:
    assert age("", datetime.now(UTC)) == "<none>"


@pytest.mark.parametrize(
    ("text", "value"), [("10", 10), ("0.5", 0.5), ("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200)]
)
def test_durations_are_parsed(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "10 s", "1d", "s", "1e3", "nan", "0", "0s", "169h"])
def test_invalid_durations_are_rejected(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)


@pytest.mark.parametrize(("package", "verb"), [("typer", "list"), ("numpy", "plan")])
def test_a_package_that_only_the_extra_installs_is_named(package: str, verb: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from processhub.cli.main import main; sys.exit(main([{verb!r}]))"
    )

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert answer.stderr == (
        f"error: kubectl hub needs the Python package {package}; install ProcessHub with its extra cli: "
        "pip install './operator[cli]'\n"
    )
