"""What a run was scored with, in words."""

from collections.abc import Iterator
from typing import Any

from curate.manifest.record import RunRecord


def provenance(record: RunRecord) -> Iterator[tuple[str, str]]:
    """What decides the scores, then what they were computed on; a name and a value each."""
    dataset, parameters = _part(record, "dataset"), _part(record, "parameters")
    yield "data set", str(dataset.get("name", "unknown"))
    for name in ("data_dir", "split", "limit", "sample", "image_size", "columns"):
        if dataset.get(name) is not None:
            yield f"data set: {name.replace('_', ' ')}", str(dataset[name])
    if dataset.get("name") == "demo" or dataset.get("sample") is not None:
        yield "data set: seed", str(dataset.get("seed"))
    yield "data hash", record.hashes.dataset
    yield "model", str(_part(record, "model").get("name", "unknown"))
    yield "model hash", record.hashes.model
    yield "SAE", str(record.arguments.get("sae", "unknown"))
    yield "SAE hash", record.hashes.sae
    if (sae := record.sae) is not None:
        yield "SAE's licence", sae.licence or "not known"
        yield "SAE's fit", sae.summary
        yield "SAE's activation scale", sae.reading or f"{sae.scale:g}"
        yield "units of activations", sae.units
    yield "hook layer", str(record.hook_layer)
    yield "metrics", ", ".join(record.metrics)
    yield "delta", f"{record.delta:g}"
    yield "top-K", str(record.top_k)
    for name in ("text", "cosine_over", "weight_rule", "weight_samples", "seed"):
        if parameters.get(name) is not None:
            yield name.replace("_", " "), str(parameters[name])
    yield "feature weights hash", record.hashes.weights or "none were needed"
    yield "manifest hash", record.run_hash
    yield "started", record.started
    yield "device", f"{record.device}, {record.dtype}"
    yield "tokens per forward pass", f"{record.batch_size:,}"
    yield "versions", ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield "seconds", ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in record.timings.items())


def _part(record: RunRecord, name: str) -> dict[str, Any]:
    """A part of the arguments, which other versions may have written otherwise."""
    part = record.arguments.get(name)
    return part if isinstance(part, dict) else {}
