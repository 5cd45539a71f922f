"""What a bench is: questions about images, each with what a judge needs to know."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL.Image import Image

from curate.datasets.images import decode_image
from curate.errors import ConfigurationError, SampleError
from curate.evaluation.rules import Rule
from curate.fingerprint import text_sha256


@dataclass(frozen=True)
class Question:
    """One question of a bench.

    Attributes:
        category: as the published reviews name it.
        image: its name.
        context: what is in the image, in words, for a judge that does not see it.
        reference: the answer that others are measured against; reference_id: its `answer_id`.
    """

    question_id: int | str
    category: str
    text: str
    image: str
    context: str
    reference: str
    reference_id: str


@dataclass(frozen=True)
class Bench:
    """A bench, opened.

    Attributes:
        sha256: over all but its images.
        rules: by category, what a judge is asked.
        image_bytes: an image's encoded bytes, by its name; raises SampleError.
        share_right: of an answer, 0 to 1, where right answers are known.
        max_new_tokens: of an answer, unless the job says otherwise.
    """

    name: str
    questions: tuple[Question, ...]
    sha256: str
    rules: Mapping[str, Rule]
    image_bytes: Callable[[str], bytes]
    share_right: Callable[[Question, str], float] | None = None
    max_new_tokens: int = 1024

    def image(self, question: Question) -> Image:
        """The question's image, decoded.

        Raises:
            SampleError: it cannot be.
        """
        return decode_image(self.image_bytes(question.image))

    def images_sha256(self) -> str:
        """SHA-256 over names and bytes of the questions' images.

        Raises:
            ConfigurationError: some are missing.
        """
        names = list(dict.fromkeys(question.image for question in self.questions))
        lines, missing = [], []
        for name in names:
            try:
                lines.append(f"{name} {hashlib.sha256(self.image_bytes(name)).hexdigest()}\n")
            except SampleError as error:
                missing.append(str(error))
        if missing:
            raise ConfigurationError(
                f"--bench {self.name}: {len(missing)} of its {len(names)} images are not to be had, the first: "
                f"{missing[0]}; name their folder with --images"
            )
        return text_sha256("".join(lines))
