"""The Grafana dashboard: it shows what curate exports, all of it, by expressions that are right for many processes."""

import ast
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import ray

from curate.pipeline.meter import COUNTERS

DASHBOARD = json.loads((Path(__file__).parent.parent / "docs" / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
EXPORTED = {f"ray_curate_{name}_total" for name in COUNTERS}
RAYS_OWN = {"ray_object_store_memory", "ray_resources", "ray_node_gpus_utilization"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
COUNTER = r'ray_curate_\w+_total\{SessionName=~"\$session",stage=~"\$stage"\}'
# Counters of processes that ended stay, or go with their node; neither changes a rate.
RATE = rf"sum by \(stage\) \(rate\({COUNTER}\[\$__rate_interval\]\)\)"
# What was added in a time, from 0 if the counter is younger. `increase` would leave out its first value, often the only
# one where rows are quarantined.
ADDED = (
    rf"sum by \(stage\) \(max_over_time\((?P<counter>{COUNTER})\[(?P<time>\$__(?:range|interval))\]\)"
    r" - \((?P=counter) offset (?P=time) or 0 \* max_over_time\((?P=counter)\[(?P=time)\]\)\)\)"
)
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


ALL = [expression for panel in PANELS for expression in expressions(panel)]
OURS = [expression for expression in ALL if "ray_curate_" in expression]


def arithmetic(expression: str) -> str:
    """The expression with a 1 for every counter that stands in a sum as it should."""
    return re.sub(RATE, "1", re.sub(ADDED, "1", expression))


def only_sums(expression: str) -> bool:
    return bool(re.fullmatch(r"[1 ()/+-]+", arithmetic(expression)))


def test_every_metric_is_exported_by_curate_or_ray():
    for expression in ALL:
        assert set(re.findall(r"\b(?:ray|curate)_\w+", expression)) <= EXPORTED | RAYS_OWN, expression
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert set(re.findall(r"ray_\w+", variable["query"]["query"])) <= EXPORTED


def test_rays_own_metrics_are_those_of_rays_own_dashboard():
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = (folder / "default_dashboard_panels.py").read_text()
    for name in RAYS_OWN:
        assert f"{name}{{{{" in text, name


def test_each_metric_is_of_the_session_that_was_chosen():
    for expression in ALL:
        assert len(re.findall(r"\bray_\w+\{", expression)) == expression.count('SessionName=~"$session"'), expression


@pytest.mark.parametrize("name", COUNTERS)
def test_every_counter_is_shown(name):
    assert any(f"ray_curate_{name}_total{{" in expression for expression in ALL)


@pytest.mark.parametrize("expression", OURS)
def test_counters_are_summed_over_processes_by_stage(expression):
    assert only_sums(expression), arithmetic(expression)
    ast.parse(arithmetic(expression), mode="eval")  # parentheses match


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("rate(", "("),
        ("sum by (stage) ", ""),
        ("by (stage)", "by (WorkerId)"),
        ("rate(", "avg_over_time("),
        ("[$__rate_interval]", "[5m]"),
        ('stage=~"$stage"', 'stage="score"'),
    ],
)
def test_a_wrong_rate_would_be_found(right, wrong):
    [expression] = next(expressions(panel) for panel in PANELS if panel["title"] == "Samples per second")
    assert right in expression
    assert only_sums(expression)
    assert not only_sums(expression.replace(right, wrong))


def test_a_total_of_two_counters_would_be_found():
    [expression] = next(expressions(panel) for panel in PANELS if panel["title"] == "Samples")
    assert only_sums(expression)
    assert not only_sums(expression.replace("samples", "tokens", 1))


@each_panel
def test_every_panel_says_what_it_shows_from_the_source_that_was_chosen(panel):
    assert panel["title"]
    assert len(panel["description"]) > 80, "what the number means, and what to do when it is bad"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == SOURCE
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE


@each_panel
def test_legends_name_labels_that_the_expression_keeps(panel):
    for target in panel["targets"]:
        kept = {label for labels in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for label in labels.split(", ")}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == kept
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)


def test_panels_can_be_told_apart():
    for key in ("id", "title"):
        assert Counter(panel[key] for panel in PANELS).most_common(1)[0][1] == 1
    for panel in PANELS:
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)


def test_panels_lie_side_by_side():
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= COLUMNS
        for cell in product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert len(taken) == COLUMNS * (1 + max(y for _, y in taken)), "a gap"


def test_variables_that_are_used_are_there():
    text = json.dumps(PANELS)
    used = {name for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"  # whoever imports it chooses a Prometheus
    assert DASHBOARD["refresh"] == "10s"
