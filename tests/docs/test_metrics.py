"""docs/metrics.md lists the program's metrics."""

from __future__ import annotations

import re

from replicator.harbor.events import Fate
from replicator.server.metrics import FAMILIES
from tests.docs.metrics_table import PAGE, page


def test_the_table_of_metrics_is_current() -> None:
    assert PAGE.read_text() == page(), "renew it: make docs"


def test_every_label_is_explained() -> None:
    cells = " ".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text().split("| label | values |")[1], re.MULTILINE))
    explained = set(re.findall(r"`(\w+)`", cells))
    assert {label for family in FAMILIES for label in family.labels} - {"version", "python"} <= explained


def test_every_fate_of_a_delivery_is_explained() -> None:
    (row,) = re.findall(r"^\| `result` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert {str(fate) for fate in Fate} <= set(re.findall(r"`(\w+)`", row))


def test_no_metric_is_named_that_there_is_not() -> None:
    families = {family.name: family for family in FAMILIES}
    named = re.findall(r"\b(replicator_[a-z_]+[a-z])(?=[{\[) ,`])", PAGE.read_text())
    assert len(named) > len(FAMILIES)
    for name in named:
        plain = name.removesuffix("_bucket")
        assert plain in families, name
        assert (families[plain].kind == "histogram") or plain == name
    for metric, label in re.findall(r"(replicator_[a-z_]+)\{(\w+)", PAGE.read_text()):
        assert label in families[metric].labels, metric
