"""The benches: by name, or in a folder of LLaVA-Bench's layout."""

from dataclasses import replace

from curate.errors import ConfigurationError
from curate.evaluation.benches import coco, demo, in_the_wild
from curate.evaluation.benches.bench import Bench
from curate.evaluation.benches.folder import open_folder, open_published
from curate.storage import location

LAYOUTS = {layout.name: layout for layout in (in_the_wild.LAYOUT, coco.LAYOUT)}
NAMES = (demo.NAME, *LAYOUTS)


def open_bench(name: str, data_dir: str | None = None, images: str | None = None, limit: int | None = None) -> Bench:
    """A bench with its questions; its images are looked at only when they are asked for.

    Args:
        name: one of `NAMES`, or a folder.
        data_dir: a local copy of a named bench.
        images: the folder of its images, where they lie apart.
        limit: only so many questions, from the first.

    Raises:
        ConfigurationError: there is no such bench, or it is not whole.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    bench = _opened(name, data_dir, images)
    return replace(bench, name=name, questions=bench.questions[:limit])


def _opened(name: str, data_dir: str | None, images: str | None) -> Bench:
    if name == demo.NAME:
        if data_dir or images:
            raise ConfigurationError("--data-dir and --images do not go with the demo bench")
        return demo.open_demo()
    if name in LAYOUTS:
        return open_published(LAYOUTS[name], data_dir, images)
    folder = location(name)
    layout = next((layout for layout in LAYOUTS.values() if (folder / layout.questions).is_file()), None)
    if layout is None:
        files = " or ".join(layout.questions for layout in LAYOUTS.values())
        raise ConfigurationError(f"--bench {name}: none of {', '.join(NAMES)}, and no folder with {files}")
    if data_dir:
        raise ConfigurationError("--data-dir goes with a named bench; a folder is read as it is")
    return open_folder(layout, folder, images)
