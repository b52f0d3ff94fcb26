"""What a file is, told by its first bytes: the images that are read, and what else lies about."""

from __future__ import annotations

import re

HEAD_BYTES = 64
"""From the start of a file: what :func:`image_kind` and :func:`what_it_is` look at."""

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".apng", ".jfif", ".jpe", ".mpo", ".dib", ".pbm", ".pnm"),
)
"""Of names of images, lower-case, the usual ones first."""

RAW_ENDINGS = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".srf", ".orf", ".pef", ".srw"),
    *(".rw2", ".rwl", ".3fr", ".fff", ".iiq", ".erf", ".kdc", ".dcr", ".mef", ".mos", ".raw"),
)
"""Of cameras' RAW files. Many begin like a TIFF file, but hold only a small preview as such."""

# Pillow reads more. Left out is what starts other programs (EPS), what is drawn rather than decoded
# (WMF), what has no mark at its start and so would be a guess (TGA), and what is so rare that few
# have tried to break its decoder (JPEG 2000, PSD, FLI, ICNS and the like).
_IMAGES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",  # also MPO: phones put further pictures into such files
    "WEBP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftyp(avi[fs]|(mif1|msf1).{0,40}avi[fs])",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00{3}",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\x00|MM\x00[*+]",
    "PPM": rb"P[1-6]\s+[#\d]",
}
"""By the names that Pillow has for them."""

_OTHERS = {
    "a HEIC photo": rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "a camera's RAW file": rb".{4}ftypcrx|FUJIFILMCCD-RAW|II(RO|RS|U\x00)|MMOR|FOVb|\x00MRM",
    "a JPEG 2000 file": rb"\x00{3}\x0cjP|\xff\x4f\xff\x51",
    "a JPEG XL file": rb"\xff\x0a|\x00{3}\x0cJXL",
    "a video": rb".{4}(ftyp|moov|mdat)|RIFF.{4}AVI|\x1a\x45\xdf\xa3",
    "a PDF file": rb"%PDF",
    "a PostScript file": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a Photoshop file": rb"8BPS",
    "an icon": rb"\x00\x00[\x01\x02]\x00[^\x00]",  # a TGA file has a zero there
    "a zip archive": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
    "a NumPy file": rb"\x93NUMPY",
    "macOS' notes about another file (AppleDouble)": rb"\x00\x05\x16\x07",
    "a Git LFS pointer (git lfs pull gets the file)": rb"version https://git-lfs",
    "an SVG drawing": rb"\s*(<\?xml.*)?<svg",
    "a web page": rb"(?i:\s*<(!doctype|html|head))",
    "text": rb"[\t\n\r\x20-\x7e]+\Z",
    "nothing but zero bytes": rb"\x00+\Z",
}

ACCEPTED = f"accepted: {', '.join(_IMAGES)}"
HEIC_ADVICE = "convert HEIC photos first, for example with heif-convert photo.heic photo.jpg"


def image_kind(head: bytes) -> str | None:
    """The format of an image that is read, as Pillow calls it; None for anything else."""
    return _first_match(_IMAGES, head)


def is_known(head: bytes) -> bool:
    """Whether a file is an image, or something else that certainly is no model, or empty."""
    return not head or any(_first_match(kinds, head) for kinds in (_IMAGES, _OTHERS))


def what_it_is(head: bytes) -> str:
    """In words, why a file that is no image is none."""
    kind = _first_match(_OTHERS, head)
    if kind is None:
        return f"its first bytes are those of no known format ({ACCEPTED})"
    advice = f"; {HEIC_ADVICE}" if "HEIC" in kind else ""
    return f"it is {kind} ({ACCEPTED}{advice})"


def _first_match(patterns: dict[str, bytes], head: bytes) -> str | None:
    matches = (kind for kind, pattern in patterns.items() if re.match(pattern, head, re.DOTALL))
    return next(matches, None)
