"""Judging SAEs: what they reconstruct, and what their reconstruction does to the model's next-token loss."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curate import __version__
from curate.datasets import DEMO, DatasetSpec
from curate.errors import ConfigurationError, DataError, NonFinite, RunStopped
from curate.harvest.activations import Harvest, Piece, blocks, learned_from
from curate.harvest.compare import Compared, compare, draw, training_facts
from curate.harvest.evaluate_job import PICTURE, RESULT, SAEEvaluateJob
from curate.harvest.evaluate_plan import EvaluatePlan
from curate.harvest.reading import READERS, all_chunks, first_states
from curate.manifest.atomic import write_text
from curate.manifest.rows import QuarantineRow
from curate.models.family import ModelInfo, WholeModel
from curate.sae.decoder import Decoder, load_decoder
from curate.sae.dictionary import Dictionary, DictionaryInfo
from curate.sae.load import load_dictionary
from curate.sae.quality import Modality, Quality, Reconstruction, loss_recovered, reconstruct, text_loss
from curate.sae.reading import measure_reading
from curate.scoring.memory import is_out_of_memory
from curate.scoring.prepare import quarantined
from curate.storage import location

# Of (rows done, rows in all, tokens).
Report = Callable[[int, int, int], None]


class Splice(BaseModel):
    """Mean losses in nats with positions' hidden states replaced. The first position and BOS are never replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reconstruction: float
    zero: float
    recovered: float | None = Field(description="(zero - reconstruction) / (zero - original)")


class Losses(BaseModel):
    """Of the next token, where that is text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: int = Field(description="tokens that the mean is over")
    original: float
    spliced: dict[Modality, Splice] = Field(description="by the positions replaced")


class LeftOut(BaseModel):
    """Rows that could not be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error: str
    rows: int
    reason: str = Field(description="of the first of them")


class Judgement(BaseModel):
    """One SAE on one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    sae: str
    sae_sha256: str
    d_sae: int
    model: str
    model_sha256: str
    hook_layer: int
    reconstruction: Reconstruction
    losses: Losses | None
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


class Evaluation(BaseModel):
    """The whole of `evaluation.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    package_version: str = __version__
    dataset: DatasetSpec
    dataset_sha256: str
    rows: int
    delta: float
    judgements: tuple[Judgement, ...]
    compared: tuple[Compared, ...] = Field(description="one row for each SAE, its seeds together, and model")


@dataclass
class _Judged:
    """A loaded SAE, and what it came to so far.

    Attributes:
        losses: summed, with its reconstruction in place of the positions named.
    """

    name: str
    info: DictionaryInfo
    dictionary: Dictionary
    decoder: Decoder
    quality: Quality
    notes: tuple[str, ...]
    losses: dict[Modality, float] = field(default_factory=dict)

    def reconstruct(
        self, hidden: Float[Tensor, "tokens d_model"], is_image: Bool[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens d_model"]:
        """The reconstruction, taken into the quality's sums."""
        return reconstruct(self.dictionary, self.decoder, hidden, is_image, self.quality)


@dataclass
class _LossSums:
    """Summed losses without an SAE: untouched, and with zero in place of the positions named."""

    targets: int = 0
    original: float = 0.0
    zero: dict[Modality, float] = field(default_factory=dict)


def evaluate(plan: EvaluatePlan, report: Report) -> Evaluation:
    """Judge every SAE of the plan on every model, and write what the job wants written.

    Raises:
        ConfigurationError: weights are damaged, or a file cannot be written.
        DataError: no row could be used, or figures are not finite.
        RunStopped: out of memory.
    """
    job = plan.job
    done = _Progress(report, plan.rows)
    judgements: list[Judgement] = []
    try:
        for harvest, names in plan.passes:
            judgements += _judge(plan, harvest, names, done)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunStopped("out of memory: take a lower --batch-size with --no-loss, or fewer SAEs at once") from error
    order = {name: place for place, name in enumerate(job.saes)}
    models = {model.name: place for place, model in enumerate(job.models)}
    judgements.sort(key=lambda each: (models[each.model], order[each.sae]))
    evaluation = Evaluation(
        dataset=job.dataset,
        dataset_sha256=plan.dataset_sha256,
        rows=len(plan.corpus),
        delta=job.delta,
        judgements=tuple(judgements),
        compared=tuple(compare([(each.sae, each.model, _measures(each)) for each in judgements], plan.saes)),
    )
    _write(job, evaluation)
    return evaluation


def _write(job: SAEEvaluateJob, evaluation: Evaluation) -> None:
    try:
        if job.output is not None:
            folder = location(job.output)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / RESULT, evaluation.model_dump_json(indent=2) + "\n")
            draw(folder / PICTURE, evaluation.compared)
        if job.plot is not None:
            location(job.plot).parent.mkdir(parents=True, exist_ok=True)
            draw(location(job.plot), evaluation.compared)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or job.output or job.plot}: {error.strerror}") from error


def _measures(judgement: Judgement) -> dict[str, float | None]:
    """What is compared: Table 1 and Figures 3 and 4 of the SAE-V paper, and the same of each modality."""
    found, losses = judgement.reconstruction, judgement.losses
    spliced = None if losses is None else losses.spliced["all"]
    parts = found.modalities
    return {
        "l0": parts["all"].l0,
        "mse": parts["all"].mse,
        "mse_text": parts["text"].mse,
        "mse_image": parts["image"].mse,
        "explained_variance": parts["all"].explained_variance,
        "cosine": parts["all"].cosine,
        "loss_original": losses and losses.original,
        "loss_spliced": spliced and spliced.reconstruction,
        "loss_recovered": spliced and spliced.recovered,
        "features_on_both": float(found.on_both),
        "dead": float(parts["all"].dead),
    }


@dataclass
class _Progress:
    report: Report
    total: int
    rows: int = 0
    tokens: int = 0

    def add(self, rows: int, tokens: int) -> None:
        self.rows, self.tokens = self.rows + rows, self.tokens + tokens
        self.report(self.rows, self.total, self.tokens)


@torch.inference_mode()
def _judge(plan: EvaluatePlan, harvest: Harvest, names: Sequence[str], done: _Progress) -> list[Judgement]:
    job = plan.job
    infos = {name: plan.saes[name] for name in names}
    # Those whose scale is open are all tried on the same hidden states.
    first = first_states(harvest) if any(info.scale is None for info in infos.values()) else None
    judged = []
    for name, info in infos.items():
        notes = [*info.notes, *_notes(info, harvest.model, job.dataset, plan.dataset_sha256)]
        if info.scale is None and first is not None:
            reading = measure_reading(info, *first)
            info = replace(info, scale=reading.scale)
            notes.append(reading.note)
        dictionary, decoder = load_dictionary(info, harvest.device), load_decoder(info, harvest.device)
        quality = Quality(info.d_model, info.d_sae, harvest.device, job.delta)
        judged.append(_Judged(name, info, dictionary, decoder, quality, tuple(notes)))
    left_out: list[QuarantineRow] = []
    sums = _LossSums()
    if job.loss:
        bos_token_id = harvest.load_builder().bos_token_id
        whole = harvest.model.family.load_whole(harvest.model, harvest.dtype, harvest.device)
        for block in blocks(harvest, 0, READERS, harvest.n_blocks):
            left_out += block.left_out
            for piece in block.pieces:
                if (lost := _splice(whole, harvest.hook_layer, piece, bos_token_id, judged, sums)) is not None:
                    left_out.append(lost)
            done.add(_rows(harvest, block.ordinal), sum(map(len, block.pieces)))
    else:
        for block, chunk in all_chunks(harvest):
            left_out += chunk.left_out
            for each in judged:
                each.reconstruct(chunk.hidden, chunk.is_image)
            if chunk.last:
                done.add(_rows(harvest, block.ordinal), sum(map(len, block.pieces)))
    counts = Counter(row.error for row in left_out)
    reasons = {row.error: row.reason for row in reversed(left_out)}
    lost_rows = tuple(LeftOut(error=name, rows=n, reason=reasons[name]) for name, n in sorted(counts.items()))
    found = []
    for each in judged:
        reconstruction = each.quality.result()
        if reconstruction.modalities["all"].tokens == 0:
            why = f": {lost_rows[0].error}: {lost_rows[0].reason}" if lost_rows else ""
            raise DataError(f"no row of {plan.corpus.name} gives {harvest.model.name} a token to judge on{why}")
        judgement = Judgement(
            sae=each.name,
            sae_sha256=each.info.sha256,
            d_sae=each.info.d_sae,
            model=harvest.model.name,
            model_sha256=harvest.model.sha256,
            hook_layer=harvest.hook_layer,
            reconstruction=reconstruction,
            losses=_losses(each, sums) if sums.targets else None,
            left_out=lost_rows,
            notes=each.notes,
        )
        if not all(map(math.isfinite, _numbers(judgement.model_dump(include={"reconstruction", "losses"})))):
            raise DataError(
                f"the reconstruction of the SAE {each.name}, or the loss with it, is NaN or infinite on "
                f"{harvest.model.name}; try --dtype float32"
            )
        found.append(judgement)
    return found


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
    elif value is not None:
        yield value


def _rows(harvest: Harvest, ordinal: int) -> int:
    """Rows of a block on the average, the last making up for all: which rows a block has, only its reader knows."""
    total, n = len(harvest.corpus), harvest.n_blocks
    return total * (ordinal + 1) // n - total * ordinal // n


def _splice(
    whole: WholeModel,
    hook_layer: int,
    piece: Piece,
    bos_token_id: int | None,
    judged: Sequence[_Judged],
    sums: _LossSums,
) -> QuarantineRow | None:
    """Take one input's reconstructions and losses into the sums, or say why it cannot be."""
    inputs, caught = piece.inputs, []

    def catch(hidden: Tensor, _: Tensor) -> Tensor:
        caught.append(hidden.clone())
        return hidden

    original, targets = text_loss(whole.logits(inputs, hook_layer, catch), inputs.input_ids, inputs.is_image)
    (hidden,) = caught
    if not bool(hidden.isfinite().all()):
        return quarantined(piece.source_row, NonFinite("hidden states are NaN or infinite at the hook layer"))
    kept = learned_from(inputs, bos_token_id)
    places: dict[Modality, Tensor] = {"all": kept, "text": kept & ~inputs.is_image, "image": kept & inputs.is_image}
    at, is_image = kept.to(hidden.device), inputs.is_image[kept]

    def losses(states: Float[Tensor, "kept d_model"]) -> dict[Modality, float]:
        whole_states = hidden.clone()
        whole_states[at] = states.to(hidden.device, hidden.dtype)
        found: dict[Modality, float] = {}
        for place, where in places.items():
            if not bool(where.any()):
                found[place] = original
            elif place == "text" and not bool(places["image"].any()):
                found[place] = found["all"]
            else:
                mixed = torch.where(where.to(hidden.device)[:, None], whole_states, hidden)
                logits = whole.logits(inputs, hook_layer, lambda *_, mixed=mixed: mixed)
                found[place], _ = text_loss(logits, inputs.input_ids, inputs.is_image)
        return found

    for each in judged:
        reconstruction = each.reconstruct(hidden[at], is_image)
        if targets:
            _add(each.losses, losses(reconstruction))
    if targets:
        sums.targets += targets
        sums.original += original
        _add(sums.zero, losses(torch.zeros_like(hidden[at])))
    return None


def _add(sums: dict[Modality, float], more: Mapping[Modality, float]) -> None:
    for place, value in more.items():
        sums[place] = sums.get(place, 0.0) + value


def _losses(judged: _Judged, sums: _LossSums) -> Losses:
    n, original = sums.targets, sums.original / sums.targets
    spliced: dict[Modality, Splice] = {}
    for place, total in judged.losses.items():
        tokens = judged.quality.image.tokens if place == "image" else judged.quality.text.tokens
        if place == "all" or tokens:
            mean, zero = total / n, sums.zero[place] / n
            recovered = loss_recovered(original, zero, mean)
            spliced[place] = Splice(reconstruction=mean, zero=zero, recovered=recovered)
    return Losses(targets=n, original=original, spliced=spliced)


def _notes(sae: DictionaryInfo, model: ModelInfo, data: DatasetSpec, data_sha256: str) -> Iterator[str]:
    """What a reader of the figures should know: another model than it was trained on, or data that it has seen."""
    if sae.model_hash is None and sae.model_name is None:
        yield "it does not say which model it was trained on"
    elif sae.model_hash not in (None, model.sha256):
        yield (
            f"transfer: it was trained on {sae.model_name or 'a model'} with hash {sae.model_hash[:12]}, and "
            f"{model.name} has {model.sha256[:12]}"
        )
    elif sae.model_hash is None and str(sae.model_name).rpartition("/")[2].lower() != Path(model.name).name.lower():
        yield f"transfer: it was trained on {sae.model_name}, and the model is {model.name}"
    training = training_facts(sae)
    learned = training.get("dataset")
    learned = learned if isinstance(learned, dict) else {}
    # The demo world's fingerprint is of its length too, which does not change a row.
    same_world = DEMO == learned.get("name") == data.name and learned.get("seed", 0) == data.seed
    if training.get("dataset_sha256") == data_sha256 or same_world:
        part = learned.get("sample") or learned.get("limit")
        yield (
            "not held out: it was trained on these data"
            + (f" ({part:,} rows of them)" if isinstance(part, int) else "")
            + ", so it may reconstruct them better than others; name another --split or --dataset"
        )
