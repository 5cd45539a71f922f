"""Writes `schemas/` from the pydantic models: `make generated`."""

import json
from pathlib import Path

from curate.jobs.files import KINDS
from curate.manifest.annotations import Annotation
from curate.manifest.record import RunRecord
from curate.manifest.selection import SelectionRecord
from curate.manifest.weights import WeightsRecord
from curate.sae.known import KnownSAEs

SCHEMAS = {
    "annotation.schema.json": Annotation,
    "run.schema.json": RunRecord,
    "saes.schema.json": KnownSAEs,
    "selection.schema.json": SelectionRecord,
    "weights.schema.json": WeightsRecord,
    **{f"{kind}-job.schema.json": model for kind, model in KINDS.items()},
}


def render(name: str) -> str:
    """The JSON Schema of one model, as text."""
    return json.dumps(SCHEMAS[name].model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    folder = Path(__file__).parent.parent / "schemas"
    folder.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (folder / name).write_text(render(name))
