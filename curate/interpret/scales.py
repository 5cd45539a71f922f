"""Activation scales that SAEs' configs leave open, measured on the images of a study."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from curate.datasets import spread
from curate.datasets.labelled.labelled import LabelledImages
from curate.errors import SampleError
from curate.interpret.subject import Subject
from curate.models.packing import Packed
from curate.scoring.fit import READING_SAMPLES, Text, reading_of
from curate.scoring.hidden import hidden_alone


def with_scales(subject: Subject, images: LabelledImages) -> Subject:
    """The subject with the activation scale of each SAE; what configs leave open is measured on some of the images.

    Raises:
        ConfigurationError: it cannot be told.
    """
    if all(pair.sae.scale is not None for pair in subject.pairs.values()):
        return subject
    builder, cut = subject.load_builder(), subject.load_cut()
    texts: dict[int, list[Text]] = {layer: [] for layer in subject.layers}
    lost: list[str] = []

    def run(packed: Packed) -> Float[Tensor, "layers tokens d_model"]:
        after = cut.hidden_states_after(packed, subject.layers)
        return torch.stack([after[layer] for layer in subject.layers])

    for index in spread(range(len(images.labels)), READING_SAMPLES):
        try:
            inputs = builder.build(images.decode(index), images.question(index), None)
            for layer, states in zip(subject.layers, hidden_alone(run, inputs), strict=True):
                texts[layer].append((states, inputs.is_image))
        except SampleError as error:
            lost.append(str(error))
    pairs = dict(subject.pairs)
    for name, pair in pairs.items():
        if pair.sae.scale is None:
            reading = reading_of(pair.sae, texts[pair.hook_layer], subject.device, lost)
            sae = replace(pair.sae, scale=reading.scale)
            pairs[name] = pair._replace(sae=sae, notes=(*pair.notes, reading.note))
    return replace(subject, pairs=pairs)
