"""The Open Inference Protocol, version 2, over HTTP, as KServe and Triton define it.

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors. A
model has one input, ``images``: pixels as UINT8, UINT16 or FP32 ``(n, height, width, channels)``,
or image files as BYTES ``(n,)``, in JSON as base64.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import vitsd_runtime
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.serving import tensors
from vitsd_runtime.serving.failures import EngineFailedError
from vitsd_runtime.serving.models import Loaded, Model, Models
from vitsd_runtime.serving.responses import json_response, refusal
from vitsd_runtime.serving.settings import Settings
from vitsd_runtime.serving.uploads import read_body
from vitsd_runtime.spec import MAX_JSON_BYTES
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.text import printable

_HEADER = "Inference-Header-Content-Length"
_INPUT = "images"


class Inference:
    """What is under ``/v2``.

    Args:
        models: that are served.
        settings: of the server.
    """

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models, self._settings = models, settings

    def routes(self) -> list[Route]:
        """For the application."""
        routes = [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._server),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(f"{path}/infer", self._infer, methods=["POST"]),
                Route(f"{path}/ready", self._model_ready),
                Route(path, self._model),
            ]
        return routes

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        # A model is there only once it is loaded and, if it can be, verified.
        return json_response({"ready": True})

    async def _server(self, request: Request) -> Response:
        return json_response(
            {
                "name": "vitsd-serve",
                "version": vitsd_runtime.__version__,
                "extensions": ["binary_tensor_data"],
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        return json_response({"name": self._find(request).name, "ready": True})

    async def _model(self, request: Request) -> Response:
        model = self._find(request)
        loaded = model.current
        height, width, channels = loaded.spec.input_size
        outputs = (
            {"name": name, "datatype": kind, "shape": [-1, *shape]}
            for name, kind, shape in (
                ("logits", "FP32", [loaded.spec.num_classes]),
                ("probabilities", "FP32", [loaded.spec.num_classes]),
                ("labels", "BYTES", []),
                ("known", "BOOL", []),
            )
        )
        return json_response(
            {
                "name": model.name,
                "versions": [m.current.version for m in self._models if m.name == model.name],
                "platform": f"vitsd_{loaded.classifier.engine.extra}",
                "inputs": [
                    {"name": _INPUT, "datatype": "UINT8", "shape": [-1, height, width, channels]}
                ],
                "outputs": list(outputs),
            }
        )

    async def _infer(self, request: Request) -> Response:
        model = self._find(request)
        model.check_room()
        body = await read_body(request, self._settings)
        # Numbers as JSON take long to read.
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(
            None, _read, body, request.headers.get(_HEADER), model.current, self._settings
        )
        loaded, rows = await model.answer(asked.images)
        scores = []
        for index, row in enumerate(rows):
            if isinstance(row, EngineFailedError):
                return refusal(request, row)
            if isinstance(row, VitsdError):
                raise HTTPException(400, f"Image {index}: {row}")
            scores.append(row)
        content = {"model_name": model.name, "model_version": loaded.version}
        if asked.id is not None:
            content["id"] = asked.id
        return _answer(content, tensors.outputs(loaded.classifier, scores), asked.outputs)

    def _find(self, request: Request) -> Model:
        return self._models.find(request.path_params["name"], request.path_params.get("version"))


class _Asked:
    """What a request asks for.

    Args:
        header: its JSON.
        binary: what follows.
        loaded: the model that it is for.
        settings: of the server.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, header: Any, binary: bytes, loaded: Loaded, settings: Settings) -> None:
        header = _mapping(header, "the request")
        self.id = header.get("id")
        if not isinstance(self.id, (str, type(None))):
            raise ValueError("id must be text")
        inputs = header.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1:
            raise ValueError(f"inputs must be a list of one, {_INPUT}")
        given = _mapping(inputs[0], "the input")
        if given.get("name") != _INPUT:
            raise ValueError(f"the input must be called {_INPUT}")
        self.images = tensors.images(given, binary, loaded.spec, settings.max_images)
        self.outputs = _wanted(header)
        """Whether each output is to be binary, by its name."""


def _read(body: bytes, length: str | None, loaded: Loaded, settings: Settings) -> _Asked:
    try:
        size = len(body) if length is None else _whole(length)
        if size > len(body):
            raise ValueError(f"{_HEADER} is more than the body has")
        return _Asked(parse_json(body[:size], MAX_JSON_BYTES), body[size:], loaded, settings)
    except ValueError as error:
        raise HTTPException(400, f"No inference request: {printable(error)}.") from error


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"{_HEADER} is no number")
    return int(text)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    return value


def _wanted(header: Mapping[str, Any]) -> dict[str, bool]:
    parameters = _mapping(header.get("parameters", {}), "parameters")
    binary = parameters.get("binary_data_output") is True
    outputs = header.get("outputs")
    if outputs is None:
        return dict.fromkeys(tensors.OUTPUTS, binary)
    if not isinstance(outputs, list):
        raise ValueError("outputs must be a list")
    wanted = {}
    for output in outputs:
        name = _mapping(output, "an output").get("name")
        if name not in tensors.OUTPUTS:
            raise ValueError(f"there is no output {name!r:.80}: use {', '.join(tensors.OUTPUTS)}")
        parameters = _mapping(output.get("parameters", {}), "parameters")
        if "classification" in parameters:
            raise ValueError("classification is not supported: ask for labels")
        wanted[name] = parameters.get("binary_data", binary) is True
    return wanted


def _answer(
    content: dict[str, Any], outputs: Mapping[str, tensors.Output], wanted: Mapping[str, bool]
) -> Response:
    described, parts = [], []
    for name, binary in wanted.items():
        output = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": output.datatype, "shape": output.shape}
        if binary:
            parts.append(output.to_bytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = output.values
        described.append(entry)
    response = json_response({**content, "outputs": described})
    if parts:
        head = bytes(response.body)
        headers = {_HEADER: str(len(head))}
        return Response(head + b"".join(parts), 200, headers, "application/octet-stream")
    return response
