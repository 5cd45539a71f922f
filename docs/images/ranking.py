"""Draws ranking.png, the picture in the README: `python docs/images/ranking.py RUN`."""

import io
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from curate.datasets.demo import demo_row
from curate.manifest.record import MANIFEST, read_record

CARD, PICTURE, COLUMNS = (196, 262), 112, 6


def card(row: dict, sample: dict) -> Image.Image:
    """One sample: rank and score, its image unstretched, its label, question and chosen response."""
    small, bold = ImageFont.load_default(12), ImageFont.load_default(14)
    image = Image.new("RGB", CARD, "#f6f7f9")
    pen = ImageDraw.Draw(image)
    pen.text((10, 8), f"rank {row['rank']:,}", fill="#111", font=bold)
    pen.text((CARD[0] - 10, 8), f"{row['score']:.2f}", fill="#555", font=bold, anchor="ra")
    picture = Image.open(io.BytesIO(sample["image"]["bytes"]))
    image.paste(picture, ((CARD[0] - picture.width) // 2, 32 + (PICTURE - picture.height) // 2))
    colour = "#0b6e4f" if row["quality"] == "clean" else "#b3261e"
    pen.text((10, 150), row["quality"], fill=colour, font=bold)
    better = sample["overall_response"]
    y = 170
    for text, ink in ((sample["question"], "#111"), (sample[f"response_{better}"], "#555")):
        for line in wrapped(text, pen, small, CARD[0] - 20, 3):
            pen.text((10, y), line, fill=ink, font=small)
            y += 15
    return image


def wrapped(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """The text in at most so many lines of that many pixels."""
    lines, line = [], ""
    for word in text.split():
        if pen.textlength(f"{line} {word}".strip(), font=font) > width:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-2] + " …"]


def main(run: Path) -> None:
    """The six best and the six worst samples of a demo run, under a line that says what they are."""
    record = read_record(run)
    rows = pq.read_table(run / MANIFEST).to_pylist()
    seed = record.arguments["dataset"]["seed"]  # type: ignore[index,call-overload]
    sheet = Image.new("RGB", (COLUMNS * (CARD[0] + 8) + 8, 2 * (CARD[1] + 40) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (title, part) in enumerate((("best", rows[:COLUMNS]), ("worst", rows[-COLUMNS:]))):
        top = line * (CARD[1] + 40)
        text = f"{title} {COLUMNS} of {len(rows):,} demo samples by {record.metrics[0]}"
        pen.text((10, top + 10), text, fill="#111", font=ImageFont.load_default(18))
        for place, row in enumerate(part):
            sheet.paste(card(row, demo_row(int(str(seed)), row["source_row"])), (8 + place * (CARD[0] + 8), top + 40))
    sheet.save(Path(__file__).with_name("ranking.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
