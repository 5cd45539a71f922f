"""Which patches of an image matter: the best are kept, the rest masked, and what the model still sees is measured.

The SAE-V paper's section 3.2 and Figure 6, with classification by the likelihood of each class's answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor

from curate import __version__
from curate.errors import DataError, RunStopped, SampleError, first_line
from curate.interpret.patches.classify import about, guess
from curate.interpret.patches.job import OURS, RECORD, ROWS, WEIGHTS, Method
from curate.interpret.patches.masks import mask, masked_pixels, n_kept, patches_with_pixels
from curate.interpret.patches.plan import PatchesPlan
from curate.interpret.patches.results import ImageRow, Outcome, PatchesRecord, UsedWeights, found
from curate.interpret.patches.scores import patch_scores, ranked
from curate.interpret.scales import with_scales
from curate.interpret.study import LeftOut, study_folder
from curate.manifest.atomic import write_text
from curate.manifest.journal import append, cut_torn_line
from curate.manifest.weights import WEIGHTS_RECORD, read_weights, write_weights
from curate.models.family import InputBuilder, WholeModel
from curate.models.inputs import ModelInputs
from curate.models.packing import pack, packed_tokens
from curate.models.patches import Patches
from curate.sae.dictionary import Dictionary, known_scale
from curate.sae.load import load_dictionary
from curate.scoring.memory import is_out_of_memory
from curate.scoring.prepare import Prepared, token_batches
from curate.scoring.weights_pass import WeightsPass
from curate.storage import location

# Of (stage, done, in all); the stages are `weights` and `patches`.
Report = Callable[[str, int, int], None]


def study_patches(plan: PatchesPlan, report: Report, overwrite: bool = False) -> PatchesRecord:
    """Look at every image whole and masked, and say how much is left of it by each method's best patches.

    An image is kept as soon as it is done, and runs by itself, so that the same command goes on where it was cut off,
    to the same result.

    Raises:
        ConfigurationError: the output folder holds something else.
        DataError: no image could be looked at, or what was kept is damaged.
        RunStopped: out of memory.
    """
    job, decides = plan.job, plan.decides()
    with study_folder(job, decides, OURS, overwrite, "patch study") as output:
        plan = plan._replace(subject=with_scales(plan.subject, plan.images))
        weights, used = _weights(plan, decides["images"], output / WEIGHTS, report)
        _look_at_all(plan, weights, output / ROWS, report)
        left_out = [
            LeftOut(id=row.id, error=row.error, reason=row.reason)
            for row in read_rows(output / ROWS)
            if row.error is not None
        ]
        images = len(plan.images.labels) - len(left_out)
        if not images:
            raise DataError(f"no image could be looked at; the first, {left_out[0].id}: {left_out[0].reason}")
        record = PatchesRecord(
            version=__version__,
            job=job.model_dump(mode="json"),
            model_sha256=plan.pair.model.sha256,
            sae_sha256=plan.pair.sae.sha256,
            images_sha256=decides["images"],
            hook_layer=plan.pair.hook_layer,
            classes=list(plan.images.classes),
            images=images,
            left_out=left_out,
            weights=used,
            notes=list(plan.subject.notes),
            found=found(row for row in read_rows(output / ROWS) if row.error is None),
        )
        write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
        return record


def read_rows(path: Path) -> Iterator[ImageRow]:
    """What came of each image, in order.

    Raises:
        DataError: a line is damaged.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield ImageRow.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{path}:{number} is damaged ({first_line(error)}); --overwrite begins anew") from error


def _weights(
    plan: PatchesPlan, images_sha256: str, folder: Path, report: Report
) -> tuple[Float[Tensor, " d_sae"], UsedWeights | None]:
    """The feature weights, those given or those of the images' prompts; zeros where no method reads them."""
    job = plan.job
    if "cosine" not in job.methods:
        return torch.zeros(plan.pair.sae.d_sae, dtype=torch.float64), None
    if job.weights is None and not (folder / WEIGHTS_RECORD).exists():
        _compute_weights(plan, images_sha256, folder, report)
    weight, record = read_weights(location(job.weights or str(folder)))
    facts = record.model_dump(include={"text", "samples", "features", "features_without_weight", "sha256"})
    return weight, UsedWeights(source=job.weights or "the images of this study", **facts)


def _compute_weights(plan: PatchesPlan, images_sha256: str, folder: Path, report: Report) -> None:
    """Feature weights from the images with their questions, so that no answer tells a label; written to a folder."""
    job, pair, images = plan.job, plan.pair, plan.images
    builder, parameters = plan.subject.load_builder(), plan.parameters
    n = len(images.labels)
    dictionary = load_dictionary(pair.sae, plan.subject.device)
    share = WeightsPass(plan.subject.load_cut(), dictionary, parameters, range(n), pair.model.context)
    for place in range(n):
        try:
            inputs = builder.build(images.decode(place), job.asked(images, place), None)
            share.add(Prepared(images.ids[place], place, None, inputs))
        except SampleError:
            pass  # it is left out of the study, which says so
        report("weights", place + 1, n)
    weight, has_weight = share.weights()
    write_weights(
        location(str(folder)),
        weight,
        has_weight,
        share.places(),
        model_sha256=pair.model.sha256,
        sae_sha256=pair.sae.sha256,
        sae_scale=known_scale(pair.sae),
        dataset_sha256=images_sha256,
        hook_layer=pair.hook_layer,
        text="prompt",
        rule=parameters.weight_rule,
        top_k=parameters.top_k,
        seed=job.images.seed,
        samples=share.n_samples,
    )


def _look_at_all(plan: PatchesPlan, weights: Float[Tensor, " d_sae"], path: Path, report: Report) -> None:
    """Add the row of every image to a file; those that it holds are not made again."""
    images, subject = plan.images, plan.subject
    cut_torn_line(path)
    kept = [row.id for row in read_rows(path)]
    if kept != list(images.ids[: len(kept)]):
        raise DataError(f"{path} holds other images; --overwrite begins anew")
    n = len(images.labels)
    report("patches", len(kept), n)
    if len(kept) == n:
        return
    dictionary = load_dictionary(plan.pair.sae, subject.device)
    looker = Looker(plan, subject.load_builder(), subject.load_whole(), dictionary, weights.to(subject.device))
    for place in range(len(kept), n):
        try:
            row = looker.look(place)
        except SampleError as error:
            row = ImageRow(
                id=images.ids[place], label=images.labels[place], error=type(error).__name__, reason=str(error)
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunStopped("out of memory: begin anew with --overwrite and a lower --batch-size") from error
        append(path, [row.model_dump(mode="json", exclude_defaults=True)])
        report("patches", place + 1, n)


@dataclass(frozen=True)
class _Masked:
    """An image of which some patches are left, with each class's answer."""

    method: Method
    ratio: float
    answers: list[ModelInputs]

    def __len__(self) -> int:
        """The tokens that are run: all answers share the image."""
        return packed_tokens(self.answers)


@dataclass(frozen=True)
class Looker:
    """A model with its SAE, which looks at images whole and masked.

    Attributes:
        weights: feature weights on the SAE's device.
    """

    plan: PatchesPlan
    builder: InputBuilder
    model: WholeModel
    dictionary: Dictionary
    weights: Float[Tensor, " d_sae"]

    def look(self, place: int) -> ImageRow:
        """What the model takes the image at a place for, whole and by the best patches of each method.

        Raises:
            SampleError: the image cannot be decoded, or does not fit the model, or something is not finite.
        """
        job, images, layer = self.plan.job, self.plan.images, self.plan.pair.hook_layer
        image, question, name = images.decode(place), job.asked(images, place), images.ids[place]
        prompt = self.builder.build(image, question, None)
        answers = [self.builder.build(image, question, answer) for answer in job.answers(images, place)]
        patches = self.builder.patches(image)
        packed = pack([prompt, *answers])
        hidden, said = self.model.read(packed, layer)
        of_prompt, bound = hidden[packed.places[0].to(hidden.device)], self.plan.parameters.bound
        scores = patch_scores(self.dictionary, of_prompt, prompt.is_image, patches, bound, self.weights)
        there = patches_with_pixels(patches)
        orders: dict[Method, list[int]] = {
            each: ranked(scores[each], there, job.seed, name, each) for each in job.methods
        }

        def outcome(method: Method | None, ratio: float, said: list[Float[Tensor, " response"]]) -> Outcome:
            predicted, of_classes = guess(said, job.score)
            right, top = of_classes[images.labels[place]], of_classes[predicted]
            return Outcome(method=method, ratio=ratio, predicted=predicted, right=right, top=top)

        outcomes = [outcome(None, 1.0, said[1:])]
        for batch in token_batches(self._masked(image, question, answers, patches, orders), self.plan.tokens_per_pass):
            said = self.model.read(pack([text for each in batch for text in each.answers]), layer).log_probabilities
            outcomes += [
                outcome(each.method, each.ratio, said[first : first + len(answers)])
                for each, first in zip(batch, range(0, len(said), len(answers)), strict=True)
            ]
        grid = (patches.rows, patches.columns)
        return ImageRow(id=name, label=images.labels[place], grid=grid, ranked=orders, outcomes=outcomes)

    def _masked(
        self,
        image: Image,
        question: str,
        answers: list[ModelInputs],
        patches: Patches,
        orders: dict[Method, list[int]],
    ) -> Iterator[_Masked]:
        colour = self.builder.mean_colour() if self.plan.job.fill == "mean" else (0, 0, 0)
        for method, order in orders.items():
            for ratio in self.plan.job.ratios:
                masked = mask(image, masked_pixels(patches, order[: n_kept(ratio, len(order))]), colour)
                yield _Masked(method, ratio, about(self.builder.build(masked, question, None), answers))
