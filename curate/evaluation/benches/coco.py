"""LLaVA-Bench (COCO): 90 questions about 30 images of COCO val2014, each with captions and boxes (Liu et al. 2023)."""

from pydantic import BaseModel, ConfigDict

from curate.evaluation.benches.folder import ContextRow, FolderLayout


class Instance(BaseModel):
    """An object in the image; `bbox` is (x1, y1, x2, y2) as shares of width and height."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    category: str
    bbox: list[int | float]


class CaptionsAndBoxes(ContextRow):
    """Five captions, and the objects in the image."""

    captions: list[str]
    instances: list[Instance]

    @property
    def text(self) -> str:
        boxes = [f"{instance.category}: {instance.bbox}" for instance in self.instances]
        return "\n".join(self.captions) + "\n\n" + "\n".join(boxes)


LAYOUT = FolderLayout(
    name="llava-bench-coco",
    repo=None,
    questions="qa90_questions.jsonl",
    context="caps_boxes_coco2014_val_80.jsonl",
    references=("qa90_gpt4_answer.jsonl",),
    category_prefix="",
    context_row=CaptionsAndBoxes,
    # The questions leave out what COCO puts before the number.
    image_names=("{}", "COCO_val2014_{}"),
)
