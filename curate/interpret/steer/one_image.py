"""`curate steer --image`: what the model says of one image, without an edit and with edits of several strengths."""

from pathlib import Path

from curate.datasets.images import decode_image, image_bytes
from curate.errors import ConfigurationError, DataError, SampleError
from curate.interpret.steer.job import IMAGE, WHAT, SteerImage
from curate.interpret.steer.plan import check_features
from curate.interpret.steer.record import OneImage
from curate.interpret.steer.speaker import enough_memory, fired, load_speaker, measured
from curate.interpret.subject import look_at
from curate.manifest.atomic import write_text
from curate.manifest.inputs import own_files
from curate.sae.dictionary import known_scale
from curate.storage import location


def steer_image(asked: SteerImage, overwrite: bool = False) -> OneImage:
    """Answer about one image; where an output is named, what was said is written there as `image.json`.

    Raises:
        ConfigurationError: model, SAE and features do not fit; a feature is active nowhere on the prompt, and no
            unit is given; or the output folder holds something else.
        DataError: the file is no image that can be read, or image or question do not fit the model.
        RunStopped: out of memory.
    """
    if asked.output is not None and own_files(Path(asked.output), {IMAGE}, WHAT) and not overwrite:
        raise ConfigurationError(f"--output {asked.output} holds {IMAGE}; choose another folder, or --overwrite")
    subject = look_at(asked.model, [asked.sae], asked.hook_layer, asked.allow_model_mismatch)
    known_scale(subject.pairs[asked.sae].sae)
    check_features(asked.edit, subject.pairs[asked.sae])
    file = asked.image.resolve()
    try:
        image = decode_image(image_bytes(file.name, location(str(file.parent))))
        with enough_memory():
            speaker = load_speaker(subject, asked.edit)
            prompts = [speaker.prompt(image, asked.question)]
            ((before, z),) = speaker.observed(prompts, asked.max_new_tokens)
            units = measured(asked.edit, [fired(z)])
            edited = []
            for strength in asked.edit.steps:
                edit = speaker.edit([each.unit for each in units], strength)
                edited += [(strength, said.text) for said in speaker.answers(prompts, asked.max_new_tokens, edit)]
    except SampleError as error:
        raise DataError(f"--image {asked.image}: {error}") from error
    found = OneImage(image=str(asked.image), question=asked.question, units=units, unedited=before.text, edited=edited)
    if asked.output is not None:
        folder = location(asked.output)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / IMAGE, found.model_dump_json(indent=2) + "\n")
    return found
