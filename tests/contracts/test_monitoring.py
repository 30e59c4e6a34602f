"""Docs, dashboard and alerts speak of what is measured; WRITE_DOCS=1 writes the table of metrics."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from tests.need import need_promtool
from workers import fleet, metrics

PAGE = Path("docs/metrics.md")
MONITORING = Path("deploy/monitoring")
HEAD = "<!-- The table is written by tests/contracts/test_monitoring.py. -->\n"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]


def rows() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Kind, labels and meaning of each metric by its name."""
    ours = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    found = {
        one._name + ("_total" if isinstance(one, Counter) else ""): (
            type(one).__name__.lower(),
            tuple(one._labelnames),
            one._documentation,
        )
        for one in ours
    }
    source = ast.parse(inspect.getsource(fleet.Fleet))
    for call in ast.walk(source):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "GaugeMetricFamily":
            name, text = (ast.literal_eval(one) for one in call.args[:2])
            labels = next((ast.literal_eval(one.value) for one in call.keywords if one.arg == "labels"), [])
            found[name] = ("gauge", tuple(labels), text)
    return found


def table() -> str:
    lines = ["| metric | kind | labels | meaning |\n", "|---|---|---|---|\n"]
    for name, (kind, labels, meaning) in sorted(rows().items()):
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |\n")
    return "".join(lines)


def expressions() -> list[str]:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return shown + [rule["expr"] for rule in RULES]


def test_every_metric_is_in_the_docs() -> None:
    head, _, rest = PAGE.read_text("utf-8").partition(HEAD)
    written, blank, tail = rest.partition("\n\n")
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(head + HEAD + table() + "\n" + tail, "utf-8")
        return
    assert written + "\n" == table()
    assert blank


def test_dashboard_and_alerts_ask_only_for_what_is_measured() -> None:
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    known = {name + end for name, (kind, _, _) in rows().items() for end in ends.get(kind, ("",))}
    asked = {name for expression in expressions() for name in re.findall(r"rsrefseg_\w+", expression)}
    assert asked <= known


def test_the_dashboard_shows_all_that_is_measured() -> None:
    shown = " ".join(expressions())
    assert [name for name in rows() if name not in shown] == []


def test_labels_are_those_that_the_metric_has() -> None:
    for expression in expressions():
        for name, inside in re.findall(r"(rsrefseg_\w+)\{([^}]*)\}", expression):
            base = next(one for one in rows() if name == one or name.removesuffix("_bucket") == one)
            assert set(re.findall(r"(\w+)=", inside)) <= set(rows()[base][1])


def test_every_alert_has_its_paragraph() -> None:
    headings = {line.removeprefix("### ").lower() for line in PAGE.read_text("utf-8").splitlines()}
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert Path(page) == PAGE
        assert anchor == rule["alert"].lower()
        assert anchor in headings


def test_every_panel_takes_its_data_from_the_source_that_is_chosen() -> None:
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "targets" in panel} == {"${datasource}"}


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([need_promtool(), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_reads_rules_and_panels(tmp_path: Path) -> None:
    panels = [expression.replace("$__rate_interval", "1m") for expression in expressions()]
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(panels)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    for path in (file, MONITORING / "alerts.yml"):
        promtool("check", "rules", path)


def test_promtool_reads_the_scrape_example(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    (tmp_path / "password").write_text("secret\n", "utf-8")
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts.yml"))


def test_prometheus_shows_the_name_that_the_example_of_the_environment_has() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", Path(".env.example").read_text("utf-8"), re.MULTILINE))
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    names = [job["basic_auth"]["username"] for job in jobs if "basic_auth" in job]
    assert names == [example["RSREFSEG_BASIC_USER"]]
