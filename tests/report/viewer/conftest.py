import shutil

import pytest
from fastapi.testclient import TestClient
from upath import UPath

from curate.manifest.annotations import ANNOTATIONS
from curate.manifest.record import MANIFEST, read_record
from curate.report.samples import open_samples
from curate.report.viewer.app import build
from curate.report.viewer.contents import Contents
from curate.report.viewer.said import Said
from curate.report.viewer.table import Table
from curate.report.viewer.viewed import Viewed, stamp


@pytest.fixture
def run(scored_run, tmp_path) -> UPath:
    """A copy of the scored run, to write into."""
    return UPath(shutil.copytree(scored_run, tmp_path / "run"))


@pytest.fixture
def client(run) -> TestClient:
    """A browser that has a page of the viewer's open, without a server between."""
    return TestClient(build(viewed(run), None), base_url="http://localhost", headers={"HX-Request": "true"})


def viewed(run: UPath, **given) -> Viewed:
    record, manifest = read_record(run), UPath(run / MANIFEST)
    parts = {
        "record": record,
        "table": Table(manifest, record.metrics, record.counts.scored),  # type: ignore[arg-type]
        "contents": Contents(open_samples(record)),
        "said": Said(run / ANNOTATIONS, "ann"),  # type: ignore[arg-type]
        "labels": {},
        "explainer": None,
        "jobs": None,
    }
    return Viewed(run=run, manifest=manifest, stamp=stamp(manifest), **(parts | given))  # type: ignore[arg-type]
