"""What clients of a server under load send: mostly good requests, and some of every bad kind."""

from __future__ import annotations

import io
import json
import random

import numpy as np
from PIL import Image

from tools.serving.load import post
from vitsd_runtime.types import AnyArray

_BOUNDARY = "boundary-of-a-form"


def pictures(count: int, side: int = 32) -> list[bytes]:
    """PNGs of coarse noise, which differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return [encode(image) for image in pixels.repeat(8, 1).repeat(8, 2)]


def encode(pixels: AnyArray, kind: str = "PNG") -> bytes:
    """An image file of uint8 pixels ``(height, width, 3)``."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def form(images: list[bytes]) -> bytes:
    """A request with several files."""
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=a; filename={{}}.png\r\n\r\n"
    parts = [head.format(i).encode() + image + b"\r\n" for i, image in enumerate(images)]
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    return post("/v1/predict", body, Content_Type=f"multipart/form-data; boundary={_BOUNDARY}")


def tensor(pixels: AnyArray, model: str) -> bytes:
    """A request of the Open Inference Protocol for uint8 pixels ``(n, height, width, 3)``."""
    content = pixels.tobytes()
    given = {"name": "images", "datatype": "UINT8", "shape": pixels.shape}
    header = json.dumps(
        {"inputs": [{**given, "parameters": {"binary_data_size": len(content)}}]}
    ).encode()
    return post(
        f"/v2/models/{model}/infer",
        header + content,
        Inference_Header_Content_Length=str(len(header)),
    )


def mixed(model: str) -> list[bytes]:
    """A hundred requests: small pictures, forms, tensors, photos, and bad ones."""
    small = pictures(20)
    ramp = (np.indices((600, 800, 3)).sum(0) // 6).astype(np.uint8)
    photo = encode(ramp, "JPEG")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    bad = [
        post("/v1/predict", b"no image"),
        post("/v1/predict", small[0][:80]),
        post("/v1/predict?top_k=0", small[0]),
        post("/v2/models/none/infer", b"{}"),
        form([small[0], b"broken"]),
    ]
    requests = [post("/v1/predict", image) for image in small * 4]
    requests += [form(small[i : i + 4]) for i in range(0, 20, 4)]
    requests += [tensor(pixels, model)] * 5 + [post("/v1/predict", photo)] * 5 + bad
    random.Random(0).shuffle(requests)
    return requests
