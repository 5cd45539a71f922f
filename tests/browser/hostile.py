"""A run whose every text would run a script, or fetch something from elsewhere, if a page took it for markup."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from curate.datasets import DatasetSpec
from curate.datasets.demo import demo_row
from curate.demo import SAE
from curate.manifest.record import read_record
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters

RUNS = "window.pwned=1"
ELSEWHERE = "http://elsewhere.example"
PAYLOADS = (
    f"<script>{RUNS}</script>",
    f'"><img src=x onerror={RUNS}>',
    f"'><svg/onload={RUNS}>",
    f"</textarea><svg/onload={RUNS}>",
    f"</title></style></script><script>{RUNS}</script>",
    f"--><img src=x onerror={RUNS}>",
    f'" onmouseover="{RUNS}" onfocus="{RUNS}" autofocus x="',
    f'<a href="javascript:{RUNS}">javascript:{RUNS}</a>',
    f"<iframe srcdoc='<script>parent.{RUNS}</script>'></iframe>",
    f"<iframe src={ELSEWHERE}></iframe><img src={ELSEWHERE}/a.png>",
    f"<link rel=stylesheet href={ELSEWHERE}/a.css><style>body{{background:url({ELSEWHERE}/b.png)}}</style>",
    f'" style="background:url({ELSEWHERE}/c.png)',
    f"<meta http-equiv=refresh content='0;url={ELSEWHERE}'><base href={ELSEWHERE}>",
    f"<form action={ELSEWHERE}><button autofocus>{RUNS}</button></form>",
    f'<div hx-get="{ELSEWHERE}" hx-trigger="load" hx-on::load="{RUNS}">hx</div>',
    "{{7*7}}{% include 'page/base.html' %}${7*7}",
)
ESCAPES = ("../../../../etc/passwd", "/etc/passwd", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd")
FOLDER = f'run"><img src=x onerror={RUNS}>{{{{7*7}}}}'
REVIEWER = f"<img src=x onerror={RUNS}>"
CHANGED = ("another question", "another image", "a link to a secret")  # what becomes of rows once they are scored
SECRET = "root:x:0:0:"


class Hostile(NamedTuple):
    """A run, the rows it holds, and a file of what features are called."""

    run: Path
    labels: Path
    scored: int
    quarantined: int


def fill(folder: Path) -> None:
    """Score such data, then change the last of them."""
    texts = [PAYLOADS[n:] + PAYLOADS[:n] for n in range(len(PAYLOADS))]
    rows = [
        {"question": question, "chosen": chosen, "rejected": rejected, "quality": label, "image": f"images/{name}"}
        for (question, chosen, rejected, label, *_), name in zip(texts, _images(folder), strict=True)
    ]
    rows += [{**rows[0], "image": path} for path in ESCAPES]
    for what in CHANGED:
        rows.append({**rows[0], "question": f"before {what}", "image": _image(folder, f"{what}.png", len(rows))})
    _write(folder / "rows.jsonl", rows)
    job = ScoreJob(
        output=str(folder / FOLDER),
        dataset=DatasetSpec(name=str(folder / "rows.jsonl")),
        model=ModelSpec(name="demo"),
        sae="demo",
        parameters=ScoringParameters(),
        max_error_rate=1,
    )
    score(job, lambda step: None, lambda plan, found: None)
    _write(folder / "rows.jsonl", [*rows[:-3], {**rows[-3], "question": "after"}, *rows[-2:]])
    shutil.copy(folder / rows[0]["image"], folder / rows[-2]["image"])
    (folder / rows[-1]["image"]).unlink()
    (folder / rows[-1]["image"]).symlink_to("/etc/passwd")
    features = range(json.loads((SAE / "cfg.json").read_text())["d_sae"])
    called = {str(feature): PAYLOADS[feature % len(PAYLOADS)] for feature in features}
    (folder / "labels.json").write_text(json.dumps(called))


def hostile(folder: Path, own: Path) -> Hostile:
    """A copy of the run in such a folder, for people's notes."""
    run = shutil.copytree(folder / FOLDER, own / FOLDER)
    counts = read_record(run).counts
    return Hostile(run, folder / "labels.json", counts.scored, counts.quarantined)


def _images(folder: Path) -> list[str]:
    (folder / "images").mkdir()
    names = []
    for number, payload in enumerate(PAYLOADS):
        names.append(f"{payload.replace('/', '|')}.png")
        _image(folder, f"images/{names[-1]}", number)
    return names


def _image(folder: Path, name: str, number: int) -> str:
    (folder / name).write_bytes(demo_row(0, number)["image"]["bytes"])  # type: ignore[index]
    return name


def _write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
