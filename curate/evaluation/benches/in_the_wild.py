"""LLaVA-Bench (in the wild): 60 questions about 24 images, each described in a few sentences (Liu et al. 2023)."""

from curate.evaluation.benches.folder import ContextRow, FolderLayout


class Caption(ContextRow):
    """A description, in one piece or in several."""

    caption: str | list[str]

    @property
    def text(self) -> str:
        return self.caption if isinstance(self.caption, str) else "\n".join(self.caption)


LAYOUT = FolderLayout(
    name="llava-bench-in-the-wild",
    repo="liuhaotian/llava-bench-in-the-wild",
    questions="questions.jsonl",
    context="context.jsonl",
    references=("answers_gpt4.jsonl", "answers_reference.jsonl"),
    category_prefix="llava_bench_",
    context_row=Caption,
)
