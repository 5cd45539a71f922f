"""Job files: read and checked with the line of what is wrong, and written."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from curate.errors import ConfigurationError, first_line
from curate.evaluation.job import EvaluateJob
from curate.experiments.calibrate_job import CalibrateJob
from curate.experiments.sweep_job import SweepJob
from curate.harvest.evaluate_job import SAEEvaluateJob
from curate.harvest.job import SAETrainJob
from curate.interpret.features_job import FeaturesJob
from curate.interpret.patches.job import PatchesJob
from curate.interpret.probe.job import ProbeJob
from curate.interpret.steer.job import SteerJob
from curate.jobs.pipeline import STAGE_KINDS, PipelineJob
from curate.manifest.select import SelectJob
from curate.pipeline.job import ScoreJob
from curate.pipeline.retry_job import RetryJob
from curate.training.job import TrainJob

Job = (
    ScoreJob
    | SelectJob
    | RetryJob
    | SAETrainJob
    | SAEEvaluateJob
    | TrainJob
    | EvaluateJob
    | SweepJob
    | CalibrateJob
    | FeaturesJob
    | PatchesJob
    | ProbeJob
    | SteerJob
    | PipelineJob
)
# A verb that does work adds its job here, and to the stages of a pipeline if others can take its output.
KINDS: dict[str, type[Job]] = {
    "score": ScoreJob,
    "select": SelectJob,
    "retry": RetryJob,
    "sae-train": SAETrainJob,
    "sae-evaluate": SAEEvaluateJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
    "sweep": SweepJob,
    "calibrate": CalibrateJob,
    "features": FeaturesJob,
    "patches": PatchesJob,
    "probe": ProbeJob,
    "steer": SteerJob,
    "pipeline": PipelineJob,
}
SCHEMAS = Path(__file__).parent.parent.resolve() / "schemas"


def schema_file(kind: str) -> Path:
    """The JSON Schema of a kind's job files, by which editors complete them."""
    return SCHEMAS / f"{kind}-job.schema.json"


def read_job(file: Path) -> Job:
    """The job that a file describes.

    Raises:
        ConfigurationError: with file, line and field of the first thing that is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_doubles(file, node, set())
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the job file {file} cannot be read: {first_line(error)}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{file}:{line}: not YAML: {error.problem}") from error
    # Brackets in thousands of brackets, characters that YAML does not have, dates that are none.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{file}: not YAML: {first_line(error)}") from error
    kinds = ", ".join(KINDS)
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        raise ConfigurationError(f"{file}:1: kind: a job file says what it is, as kind: score; there are: {kinds}")
    model = KINDS.get(content["kind"])
    if model is None:
        line = _line(node, ("kind",))
        raise ConfigurationError(f"{file}:{line}: kind: there is no {content['kind']}; there are: {kinds}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first, *others = error.errors()
        place = [part for part in first["loc"] if part not in ("[key]",)]
        # pydantic names the kind of a stage among the fields that lead to it.
        if place[:1] == ["stages"] and len(place) > 2:
            del place[2]
        field = ".".join(map(str, place)) or "the job"
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigurationError(f"{file}:{_line(node, place)}: {field}: {_what(first)}{more}") from error


def _what(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "missing":
        return "this field is needed"
    if error["type"].startswith("union_tag"):
        return f"a stage says its kind: {' or '.join(STAGE_KINDS)}"
    return error["msg"].removeprefix("Value error, ")


def _refuse_doubles(file: Path, node: yaml.Node | None, seen_nodes: set[int]) -> None:
    """YAML's readers take the last of two fields of one name, silently. Aliases make one node stand in many places."""
    if id(node) in seen_nodes:
        return
    seen_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConfigurationError(f"{file}:{key.start_mark.line + 1}: {key.value}: this field stands here twice")
            seen.add(str(key.value))
            _refuse_doubles(file, value, seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_doubles(file, value, seen_nodes)


def _line(node: yaml.Node | None, place: Any) -> int:
    """The line, from 1, of a field, or of what it should stand in."""
    line = node.start_mark.line + 1 if node else 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1  # type: ignore[union-attr]  # PyYAML's stubs
        else:
            break
    return line


class _Dumper(yaml.SafeDumper):
    """Decimals as numbers, tuples as lists."""


_Dumper.add_representer(Decimal, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", str(value)))
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(value))


def write_job(job: Job) -> str:
    """The text of a job's file: every field that has a value, and first the schema that says what they mean."""
    content = job.model_dump(exclude_none=True)
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# yaml-language-server: $schema={schema_file(job.kind)}\n{text}"
