"""What a request carries, within limits, in memory only."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vitsd_runtime.serving.settings import Settings

_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""What clients say of bytes, beside ``image/...``; the last is curl's ``--data-binary``."""


class Upload(NamedTuple):
    """An image file as a client sent it."""

    name: str
    """May be anything; empty if it has none."""
    content: bytes


async def read_body(request: Request, settings: Settings) -> bytes:
    """All bytes of a request.

    Raises:
        HTTPException: they are too many, or packed.
    """
    return b"".join([part async for part in _parts(request, settings)])


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request: its body, or the files of a form.

    Raises:
        HTTPException: there is none, or what there is is too much or of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _read_form(request, settings)
    elif kind in _RAW_TYPES or kind.startswith("image/"):
        uploads = [Upload("", await read_body(request, settings))]
    else:
        raise HTTPException(
            415, "Send an image file as the body (image/...), or files as multipart/form-data."
        )
    if not uploads or not any(upload.content for upload in uploads):
        raise HTTPException(400, "There is no image in the request.")
    return uploads


class _FormParser(MultiPartParser):
    spool_max_size = sys.maxsize  # nothing goes to disk: memory is bounded by the body
    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _read_form(request: Request, settings: Settings) -> list[Upload]:
    parser = _FormParser(
        request.headers, _parts(request, settings), max_files=settings.max_images, max_fields=0
    )
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError) as error:
        raise _form_error(str(getattr(error, "message", "")), settings) from error
    if not parser.ended:
        raise _form_error("", settings)
    uploads = []
    for _, file in form.multi_items():
        assert isinstance(file, UploadFile)
        uploads.append(Upload(file.filename or "", await file.read()))
    return uploads


def _form_error(message: str, settings: Settings) -> HTTPException:
    if message.startswith("Too many files"):
        return HTTPException(413, f"A request may hold {settings.max_images} images.")
    if message.startswith("Too many fields"):
        return HTTPException(
            400,
            "A form may hold files only: options such as top_k go into the address, "
            "/v1/predict?top_k=3.",
        )
    return HTTPException(400, "The form (multipart/form-data) is damaged or cut off.")


async def _parts(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    limit = settings.max_body << 20
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "The body is packed (Content-Encoding): send it as it is.")
    left = limit - int(request.headers.get("content-length", 0))
    if left >= 0:
        left = limit
        async for part in request.stream():
            left -= len(part)
            if left < 0:
                break
            yield part
    if left < 0:
        raise HTTPException(413, f"A request may have {settings.max_body} MiB.")
