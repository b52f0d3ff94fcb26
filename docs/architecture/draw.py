"""Draw the pictures of the architecture page: ``python docs/architecture/draw.py``.

Writes house.svg, image.svg and weight.svg beside this file. :data:`HOUSE` is also what
``tests/docs`` holds against the imports of the source trees, so the picture can't go stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH = 760
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK, SOFT, LINE = "#1f2933", "#52606d", "#7b8794"


@dataclass(frozen=True)
class Look:
    """Colors of a distribution."""

    fill: str
    room: str
    edge: str


LOOKS = {
    "vitsd_export": Look("#fff4e6", "#ffe3c2", "#c66a00"),
    "vitsd": Look("#eaf2fd", "#cfe2fb", "#1f5fa8"),
    "vitsd_runtime": Look("#e8f6ef", "#c9ecd9", "#1b7a4b"),
    "": Look("#f5f7fa", "#f5f7fa", LINE),
}

HOUSE: dict[str, tuple[tuple[str, ...], ...]] = {
    "vitsd_export": (
        ("cli/",),
        ("exporter", "deploy/", "keras2/"),
        ("artifact_writer", "gate", "devices/", "web/", "golden"),
        ("options", "data"),
        ("quantization/", "layouts/"),
        ("formats/",),
        ("graph/", "quiet"),
    ),
    "vitsd": (
        ("cli/",),
        ("training/",),
        ("evaluation/", "plots"),
        ("hub/",),
        ("model/", "data/"),
        ("presets/",),
        ("config", "recipe", "backend"),
    ),
    "vitsd_runtime": (
        ("cli/", "serving/"),
        ("release/",),
        ("benchmark", "verification", "accuracy"),
        ("classifier", "live/", "sharding", "batch/"),
        ("engines/",),
        ("formats/", "images/", "models/", "compatibility", "structure/"),
        ("spec/", "system/"),
        ("types", "validation", "errors"),
    ),
}
"""Floors of each distribution, the top one first; folders end in a slash. Imports go down, or stay
on a floor."""

ALLOWED = {
    "vitsd_export": ("vitsd", "vitsd_runtime"),
    "vitsd": ("vitsd_runtime",),
    "vitsd_runtime": (),
}
"""Which distributions each may import."""


class Picture:
    """SVG elements, collected from top to bottom."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, fill: str, edge: str) -> None:
        """A rounded rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{fill}" '
            f'stroke="{edge}"/>'
        )

    def text(self, x: float, y: float, text: str, style: str = "", room: float = WIDTH) -> None:
        """One line; ``style`` holds words out of mono, bold, soft, small, middle and end.

        Letters of fixed width become smaller where there is less ``room``.
        """
        words = style.split()
        ends = [word for word in ("middle", "end") if word in words]
        anchor = f' text-anchor="{ends[0]}"' if ends else ""
        family = f' font-family="{MONO}"' if "mono" in words else ""
        weight = ' font-weight="600"' if "bold" in words else ""
        color = SOFT if "soft" in words else INK
        size = 12.5 if "small" in words else 14.0
        if "mono" in words:
            size = min(size, round(room / (0.62 * len(text)), 1))
        look = f'font-size="{size:g}" fill="{color}"{anchor}{family}{weight}'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {look}>{escape(text)}</text>')

    def arrow(self, x: float, y: float, x2: float, y2: float) -> None:
        """A line with a head."""
        self.parts.append(
            f'<line x1="{x:g}" y1="{y:g}" x2="{x2:g}" y2="{y2:g}" stroke="{LINE}" '
            'stroke-width="1.6" marker-end="url(#head)"/>'
        )

    def save(self, path: Path, height: float) -> None:
        """Write the file, on a white sheet: the site may be read in the dark."""
        content = "\n".join(self.parts)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'width="{WIDTH}" height="{height:g}" font-family="{FONT}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker>'
            "</defs>\n"
            f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="#ffffff"/>\n'
            f"{content}\n</svg>\n",
            encoding="utf-8",
        )


def draw_house(path: Path) -> None:
    """Three distributions, their floors, and what each may import."""
    captions = {
        "vitsd_export": "TensorFlow",
        "vitsd": "Keras 3",
        "vitsd_runtime": "NumPy",
    }
    picture = Picture("The three distributions, their folders, and allowed imports")
    room_h, gap, head = 30, 6, 40
    floors = max(map(len, HOUSE.values()))
    building_h = head + floors * (room_h + gap) + 8
    building_w, street = 228, 26
    for column, (name, rows) in enumerate(HOUSE.items()):
        look = LOOKS[name]
        x, y = 12 + column * (building_w + street), 16
        picture.box(x, y, building_w, building_h, look.fill, look.edge)
        picture.text(x + 12, y + 25, name, "mono bold")
        picture.text(x + building_w - 12, y + 25, captions[name], "soft small end")
        for i, row in enumerate(rows):
            top = y + head + i * (room_h + gap)
            letters = sum(len(room) + 3 for room in row)
            left = x + 10
            for room in row:
                width = (building_w - 20 - gap * (len(row) - 1)) * (len(room) + 3) / letters
                picture.box(left, top, width, room_h, look.room, look.edge)
                style = "mono middle small" if len(row) > 1 else "mono middle"
                picture.text(left + width / 2, top + 20, room, style, width - 6)
                left += width + gap
    bottom = 16 + building_h
    centers = [12 + c * (building_w + street) + building_w / 2 for c in range(3)]
    edges = [(c - building_w / 2, c + building_w / 2) for c in centers]
    middle = 16 + head + 0.5 * floors * (room_h + gap)
    picture.arrow(edges[0][1] + 2, middle, edges[1][0] - 2, middle)
    picture.arrow(edges[1][1] + 2, middle, edges[2][0] - 2, middle)
    # Around the building in the middle: the exporter imports the runtime too.
    low = bottom + 18
    picture.parts.append(
        f'<path d="M{centers[0]:g} {bottom + 2:g}V{low:g}H{centers[2]:g}V{bottom + 4:g}" '
        f'fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#head)"/>'
    )
    picture.text(
        WIDTH / 2, low + 22, "Arrows: allowed imports. Inside a distribution, imports go down.",
        "soft middle small",
    )  # fmt: skip
    picture.save(path, low + 36)


Step = tuple[str, str, str, str, str]
"""Distribution, place in the code, what happens (two lines), what leaves it."""

IMAGE: tuple[Step, ...] = (
    ("", "a photo", "any size, mode and orientation", "", "file, PIL image or array"),
    (
        "vitsd_runtime", "images/", "decode within limits, turn upright, 8 bits,",
        "RGB or gray, input size, antialiased", "uint8 (height, width, channels) = input_size",
    ),
    (
        "vitsd_runtime", "images/preprocessing", "normalize with the spec's statistics,",
        "resize to what the model sees", "float32 (n, image_size, image_size, channels)",
    ),
    (
        "vitsd_runtime", "engines/", "to integers where the input tensor is int8,",
        "run the model, back to real numbers", "logits, float32 (n, classes)",
    ),
    (
        "vitsd_runtime", "classifier", "softmax, mean over the views of test-time",
        "augmentation, the k most probable classes", "Prediction(label, index, probability)",
    ),
)  # fmt: skip

WEIGHT: tuple[Step, ...] = (
    (
        "vitsd", "training/, hub/saving", "trained in float32, saved with the spec", "",
        "model.keras",
    ),
    (
        "vitsd_export", "graph/weights", "read by layer name,",
        "e.g. block_0_attention/query/kernel", "arrays by name, float32",
    ),
    (
        "vitsd_export", "graph/folding", "norms, biases, temperature and per-head",
        "products merged into dense layers", "dense kernels, float64",
    ),
    (
        "vitsd_export", "graph/", "one function from images to logits,",
        "weights as constants of named scopes", "TensorFlow graph, float32",
    ),
    (
        "vitsd_export", "formats/", "one converter per format", "",
        ".tflite, .onnx or SavedModel, float32",
    ),
    (
        "vitsd_export", "quantization/", "search: the lowest precision of each layer",
        "within the accuracy budget", "the same file in int8, int4 or float16",
    ),
    (
        "vitsd_export", "gate", "run as the device will run it, compared",
        "with the Keras model; else not kept", "parity figures",
    ),
    (
        "vitsd_runtime", "formats/", "the spec is written into the file, once,",
        "with SHA-256 of the model and of itself", "one file to copy",
    ),
)  # fmt: skip


def draw_way(path: Path, title: str, steps: tuple[Step, ...]) -> None:
    """Steps from top to bottom: where in the code, what happens there, what is handed on."""
    picture = Picture(title)
    left, width, height, gap = 12, WIDTH - 24, 54, 32
    y = 14.0
    for i, (distribution, place, first, second, result) in enumerate(steps):
        look = LOOKS[distribution]
        picture.box(left, y, width, height, look.room, look.edge)
        picture.text(left + 14, y + (32 if not distribution else 24), place, "mono bold")
        if distribution:
            picture.text(left + 14, y + 42, distribution, "mono soft small")
        middle = y + (32 if not second else 23)
        picture.text(left + 250, middle, first)
        picture.text(left + 250, middle + 18, second)
        below = y + height
        last = i == len(steps) - 1
        picture.arrow(left + 60, below + 1, left + 60, below + gap - 2)
        picture.text(left + 78, below + gap / 2 + 5, result, "bold small" if last else "soft small")
        y = below + gap
    picture.save(path, y + 4)


def main() -> None:
    """Draw all three."""
    folder = Path(__file__).parent
    draw_house(folder / "house.svg")
    draw_way(folder / "image.svg", "An image's way", IMAGE)
    draw_way(folder / "weight.svg", "A weight's way", WEIGHT)


if __name__ == "__main__":
    main()
