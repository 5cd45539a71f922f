"""Job files: what is wrong is named with its line, what is written is read again, schemas agree."""

import contextlib
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import ConfigurationError
from curate.jobs.files import KINDS, read_job, schema_file, write_job
from curate.jobs.submit import submission_id

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "jobs").rglob("*.yaml"))
SCORE = "kind: score\noutput: run\n"


def refusal(tmp_path: Path, text: str) -> str:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        read_job(file)
    return str(error.value).removeprefix(str(tmp_path) + "/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "job.yaml:1: kind: a job file says what it is, as kind: score; there are: score, select, retry, sae-train",
        ),
        ("[score]", "job.yaml:1: kind: "),
        ("\nkind: scores\n", "job.yaml:2: kind: there is no scores; there are: score, "),
        ("kind: score\n", "job.yaml:1: output: this field is needed"),
        (SCORE + "shard_rows: 0\n", "job.yaml:3: shard_rows: Input should be greater than or equal to 1"),
        (SCORE + "dataset:\n  name: demo\n  limt: 3\n", "job.yaml:5: dataset.limt: there is no such field"),
        (SCORE + "dataset: demo\nshards: 1\n", "job.yaml:3: dataset: .* (and 1 more)"),
        (SCORE + "parameters:\n  metrics: [l0, l9]\n", "job.yaml:4: parameters.metrics: no metric l9; there are: "),
        (SCORE + "model: {name: some/model}\n", "job.yaml:1: sae: no SAE is named for some/model, "),
        (SCORE + "resources:\n  min_actors: 3\n", "job.yaml:3: resources: --min-actors 3 ≤ --initial-actors 3 ≤"),
        (SCORE + "resources: {gpus_per_actor: 1.5}\n", "job.yaml:3: resources: --gpus-per-actor 1.5: a part of one"),
        (SCORE + "resources: {actor_resources: {GPU: 1}}\n", "job.yaml:3: resources: --actor-resources GPU: "),
        (
            SCORE + "resources: {gpus_per_actor: .inf}\n",
            "job.yaml:3: resources.gpus_per_actor: Input should be a finite",
        ),
        (SCORE + "resources: {gpus_per_actor: 0}\n", "job.yaml:3: resources.gpus_per_actor: Input should be greater"),
        ("kind: retry\nrun: r\nactors: 0\n", "job.yaml:3: actors: Input should be greater than or equal to 1"),
        ("kind: retry\nrun: r\nsample_timeout: 0\n", "job.yaml:3: sample_timeout: Input should be greater than 0"),
        ("kind: score\noutput: s3://me:hush@store/run\n", "job.yaml:2: output: s3://…/run: credentials and options do"),
        (
            SCORE + "dataset:\n  name: s3://store/data?key=hush\n",
            "job.yaml:4: dataset.name: s3://…/data: credentials and options do not belong in a URL",
        ),
        (SCORE + "output: other\n", "job.yaml:3: output: this field stands here twice"),
        (SCORE + "a: [\n", "job.yaml:4: not YAML: "),
        (SCORE + "? [a]\n: b\n", "job.yaml:3: not YAML: found unhashable key"),
        (SCORE + "a: &a [*a]\n", "job.yaml"),
        (SCORE + "a: \x00\n", "job.yaml: not YAML: "),
        ("kind: select\nrun: r\nratio: 2\n", "job.yaml:3: ratio: Input should be less than or equal to 1"),
        ("kind: select\nrun: r\n", "job.yaml:1: the job: give exactly one of --ratio, --top and --min-score"),
        ("kind: pipeline\nstages: {}\n", "job.yaml:2: stages: "),
        ("kind: pipeline\nstages:\n  a: {kind: retry, run: r}\n", "job.yaml:3: stages.a: a stage says its kind"),
        (
            "kind: pipeline\nstages:\n  a:\n    kind: select\n    run: r\n    top: none\n",
            "job.yaml:6: stages.a.top: Input should be a valid integer",
        ),
        (
            "kind: pipeline\nstages:\n  a:\n    kind: select\n    run: ${b}\n    top: 1\n",
            "job.yaml:1: the job: stage a names ${b}; there are: a",
        ),
        (
            "kind: pipeline\nstages:\n  a: {kind: select, run: '${b}', top: 1, output: x}\n"
            "  b: {kind: select, run: '${a}', top: 1, output: y}\n",
            "job.yaml:1: the job: the stages .* wait for each other",
        ),
        (
            "kind: pipeline\nstages:\n  a: {kind: select, run: '${b}', top: 1}\n  b: {kind: select, run: r, top: 1}\n",
            "job.yaml:1: the job: stage a names ${b}, so the stage b must say its output",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(tmp_path, text, message):
    found = refusal(tmp_path, text)
    assert re.match(re.escape(message).replace(r"\.\*", ".*"), found), found
    assert "hush" not in found


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read: "):
        read_job(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00k")
    with pytest.raises(ConfigurationError, match=r"binary\.yaml"):
        read_job(tmp_path / "binary.yaml")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_job_or_a_configuration_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    for prefix in ("", SCORE, "kind: pipeline\nstages:\n  a: "):
        file.write_bytes((prefix + text).encode("utf-8", "surrogatepass"))
        with contextlib.suppress(ConfigurationError):
            assert read_job(file).kind in KINDS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_jobs_in_the_repository_fit_the_schema_that_their_first_line_names(file):
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", file.read_text().splitlines()[0])
    assert named
    schema = (file.parent / named[1]).resolve()
    content = yaml.safe_load(file.read_text())
    assert schema == schema_file(content["kind"]).resolve()
    jsonschema.validate(content, json.loads(schema.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "no_such_field": 1}, json.loads(schema.read_text()))
    assert isinstance(read_job(file), KINDS[content["kind"]])


def test_there_is_an_example_of_every_kind():
    assert {yaml.safe_load(file.read_text())["kind"] for file in FILES} == set(KINDS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_job_that_is_written_is_read_as_the_same(tmp_path, file):
    job = read_job(file)
    copy = tmp_path / "copy.yaml"
    copy.write_text(write_job(job))
    assert read_job(copy) == job
    assert Path(copy.read_text().splitlines()[0].partition("=")[2]).is_file()
    content = yaml.safe_load(copy.read_text())
    jsonschema.validate(content, json.loads(schema_file(job.kind).read_text()))


def test_the_id_comes_from_the_content_alone(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(SCORE + "shard_rows: 5\n")
    other.write_text("# the same\nshard_rows: 5\noutput: 'run'\nkind: score\n")
    assert submission_id(read_job(one)) == submission_id(read_job(other))
    other.write_text(SCORE + "shard_rows: 6\n")
    assert submission_id(read_job(one)) != submission_id(read_job(other))


def test_the_order_of_stages_and_columns_makes_no_other_job(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    stages = ["  a: {kind: select, run: r, top: 1}\n", "  b: {kind: select, run: r, top: 2}\n"]
    for file, order in ((one, stages), (other, stages[::-1])):
        file.write_text("kind: pipeline\nstages:\n" + "".join(order))
    assert submission_id(read_job(one)) == submission_id(read_job(other))


def test_aliases_of_aliases_are_looked_at_once(tmp_path):
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join([SCORE, "a0: &a0 [x]", *lines])
    assert "there is no such field" in refusal(tmp_path, text)


def test_a_pipelines_stages_come_in_order_with_each_others_outputs():
    job = read_job(ROOT / "jobs" / "pipeline.yaml")
    assert job.order()[0] == "scores"
    assert job.resolved("best").run == job.stages["scores"].output
    absolute = job.absolute()
    assert absolute.stages["best"].run == "${scores}"
    assert absolute.resolved("best").run == str(Path("runs/pipeline-demo").absolute())
