"""The page of a cluster's jobs."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.viewing import viewer
from tests.cli.test_cli import curate
from tests.cluster.nodes import cluster

pytestmark = pytest.mark.browser
JOB = """
kind: score
output: run
dataset: {name: demo, limit: 20}
parameters: {weight_samples: 20}
resources: {actors: 1, prepare_workers: 1}
"""


def test_without_a_cluster_it_says_so_in_a_line(looked_at, open_page):
    page = open_page(f"{looked_at.address}jobs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.get_by_text("no Ray dashboard answers there")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_role("link", name="Samples").click()
    expect(page.get_by_role("article")).to_have_count(24)


def test_a_job_that_is_not_there_is_said_to_be_none(looked_at, open_page, log):
    page = open_page(f"{looked_at.address}jobs/job/nobody")
    expect(page.get_by_role("heading", name="That did not work")).to_be_visible()
    page.get_by_role("link", name="All samples").click()
    log.forgive("400")


@pytest.mark.slow
def test_jobs_of_a_cluster_their_states_and_what_they_print(scored_run, tmp_path, open_page):
    (tmp_path / "job.yaml").write_text(JOB)
    with cluster(cpus=(3,)) as nodes:
        place = ("--address", nodes.dashboard)
        annotations = ("--annotations", tmp_path / "said.jsonl")
        with viewer(scored_run, *place, *annotations, **nodes.environment) as server:
            page = open_page(f"{server.address}jobs")
            expect(page.get_by_text("The cluster knows no job of curate's")).to_be_visible()
            result = curate("submit", "job.yaml", *place, "--installed", "--json", cwd=tmp_path, **nodes.environment)
            assert result.returncode == 0, result.stderr
            name = json.loads(result.stdout)[0]["id"]
            # It comes by itself, and so does its end.
            line = page.get_by_role("row", name=re.compile(name))
            expect(line).to_be_visible(timeout=30_000)
            expect(line).to_contain_text(str(tmp_path / "run"))
            page.get_by_role("link", name=name).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(name)
            expect(page.get_by_text("SUCCEEDED")).to_be_visible(timeout=150_000)
            printed = page.get_by_role("region", name="What the job printed")
            expect(printed).to_contain_text("20 scored + 0 quarantined = 20 read")
            assert page.locator("#state").get_attribute("hx-get") is None  # nobody asks on
            page.get_by_role("link", name="All jobs").click()
            expect(page.get_by_role("row", name=re.compile("SUCCEEDED"))).to_contain_text("Job finished successfully.")
            page.close()  # it would ask on
