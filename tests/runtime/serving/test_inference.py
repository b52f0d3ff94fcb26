"""The Open Inference Protocol: hostile requests here, the real client with a real server below."""

import base64
import io
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


LIGHT, DARK = (np.full((8, 8, 3), value, np.uint8) for value in (250, 5))
HEADER = "Inference-Header-Content-Length"


def tensor(datatype, array, **more):
    data = array if isinstance(array, list) else array.tolist()
    shape = [len(array)] if isinstance(array, list) else list(array.shape)
    return {"name": "images", "datatype": datatype, "shape": shape, "data": data, **more}


def outputs(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


BOTH = np.stack([LIGHT, DARK])
INPUTS = {
    "uint8": tensor("UINT8", BOTH),
    "uint16": tensor("UINT16", BOTH.astype(np.uint16) * 257),
    "float": tensor("FP32", BOTH.astype(np.float32)),
    "flat": {**tensor("UINT8", BOTH), "data": BOTH.ravel().tolist()},
    "files": tensor("BYTES", [base64.b64encode(png(image)).decode() for image in BOTH]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_images_in_json(serving, classifier, name):
    async def scenario(client, models):
        body = {"id": "seven", "inputs": [INPUTS[name]]}
        response = await client.post("/v2/models/m/infer", json=body)
        found = outputs(response)
        assert response.json()["id"] == "seven"
        assert response.json()["model_name"] == "m"
        assert response.json()["model_version"] == "0123456789ab"
        assert found["labels"]["data"] == ["light", "dark"]
        assert found["known"]["data"] == [True, True]
        assert found["probabilities"]["shape"] == [2, 3]
        expected = classifier.predict_proba(list(BOTH)).ravel()
        np.testing.assert_allclose(found["probabilities"]["data"], expected, atol=1e-6)
        assert found["logits"]["shape"] == [2, 3]
        expected = classifier.logits(list(BOTH)).ravel()
        np.testing.assert_allclose(found["logits"]["data"], expected, rtol=1e-6)

    serving(scenario)


def test_a_temperature_changes_probabilities_and_no_logits(serving, classifier):
    confidence = SimpleNamespace(temperature=2.0, threshold=0.0)
    object.__setattr__(classifier.spec, "confidence", confidence)

    async def scenario(client, models):
        body = {"inputs": [INPUTS["uint8"]]}
        found = outputs(await client.post("/v2/models/m/infer", json=body))
        expected = classifier.predict_proba(list(BOTH)).ravel()
        np.testing.assert_allclose(found["probabilities"]["data"], expected, atol=1e-6)
        expected = classifier.logits(list(BOTH)).ravel()
        np.testing.assert_allclose(found["logits"]["data"], expected, rtol=1e-6)

    serving(scenario)


def test_float_pixels_of_a_model_with_a_range(serving, classifier):
    classifier.spec = classifier.spec.replace(value_range=(0.0, 1.0), integrity=None)

    async def scenario(client, models):
        body = {"inputs": [tensor("FP32", BOTH / 255)]}
        found = outputs(await client.post("/v2/models/m/infer", json=body))
        assert found["labels"]["data"] == ["light", "dark"]

    serving(scenario)


def test_outputs_are_those_that_are_asked_for(serving):
    async def scenario(client, models):
        body = {"inputs": [INPUTS["uint8"]], "outputs": [{"name": "labels"}]}
        found = outputs(await client.post("/v2/models/m/infer", json=body))
        assert list(found) == ["labels"]

    serving(scenario)


PIXELS = BOTH.tobytes()


def binary(content=PIXELS, size=None, **changes):
    given = {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 3]}
    given["parameters"] = {"binary_data_size": len(content) if size is None else size}
    header = json.dumps({"inputs": [{**given, **changes}]}).encode()
    return {"content": header + content, "headers": {HEADER: str(len(header))}}


FILES = b"".join(struct.pack("<I", len(png(image))) + png(image) for image in BOTH)


def test_binary_tensors(serving):
    async def scenario(client, models):
        for request in (binary(), binary(FILES, datatype="BYTES", shape=[2, 1])):
            found = outputs(await client.post("/v2/models/m/infer", **request))
            assert found["labels"]["data"] == ["light", "dark"]

    serving(scenario)


def given(**changes):
    return {"json": {"inputs": [{**INPUTS["uint8"], **changes}]}}


BAD = {
    "no json": ({"content": b"{"}, "No inference request"),
    "a list": ({"json": []}, "must be an object"),
    "no inputs": ({"json": {}}, "inputs must be a list of one"),
    "two inputs": ({"json": {"inputs": [INPUTS["uint8"]] * 2}}, "inputs must be a list of one"),
    "an odd input": ({"json": {"inputs": [3]}}, "the input must be an object"),
    "another name": (given(name="x"), "must be called images"),
    "another type": (given(datatype="INT64"), "datatype must be BYTES, UINT8, UINT16, FP32"),
    "no type": (given(datatype=[[]]), "datatype must be"),
    "no shape": (given(shape=None), "shape must be a list"),
    "a shape of no numbers": (given(shape=[True, 8, 8, 3]), "shape must be a list"),
    "an empty shape": (given(shape=[0, 8, 8, 3]), "from 1"),
    "a huge shape": (given(shape=[2, 2**30, 2**30, 3]), "do not fit the shape"),
    "another shape": (given(shape=[2, 8, 8, 2]), "(images, height, width, 1 or 3)"),
    "too few": (given(data=[1, 2]), "2 numbers do not fit"),
    "no numbers": (given(data=["x"] * 384), "data must be numbers"),
    "ragged": (given(data=[[1], [1, 2]]), "data must be numbers"),
    "huge numbers": (given(data=[10**30] * 384), "pixels must be 0 to 255"),
    "negative": (given(data=[-1] * 384), "pixels must be 0 to 255"),
    "null": (given(data=[None] * 384), "pixels must be 0 to 255"),
    "no data": (given(data="x"), "data must be a list"),
    "no base64": (given(datatype="BYTES", shape=[1], data=["%"]), "base64"),
    "base64 of numbers": (given(datatype="BYTES", shape=[1], data=[1]), "base64"),
    "no file": (given(datatype="BYTES", shape=[1], data=["aGVsbG8="]), "Image 0: "),
    "other bytes": (given(datatype="BYTES", shape=[2], data=["aGVsbG8="]), "1 elements do not fit"),
    "many": (given(shape=[40, 8, 8, 3]), "may hold 32 images"),
    "an output": (
        {"json": {"inputs": [INPUTS["uint8"]], "outputs": [{"name": "scores"}]}},
        "no output 'scores'",
    ),
    "an odd output": ({"json": {"inputs": [INPUTS["uint8"]], "outputs": [{"name": []}]}}, "output"),
    "classification": (
        {
            "json": {
                "inputs": [INPUTS["uint8"]],
                "outputs": [{"name": "labels", "parameters": {"classification": 2}}],
            }
        },
        "classification",
    ),
    "odd parameters": ({"json": {"inputs": [INPUTS["uint8"]], "parameters": 3}}, "parameters"),
    "an odd id": ({"json": {"inputs": [INPUTS["uint8"]], "id": {}}}, "id must be text"),
    "a wrong size": (binary(size=5), "384 bytes follow"),
    "an odd size": (binary(b"", size=[]), "binary_data_size"),
    "few bytes": (binary(b"abc"), "3 bytes do not fit"),
    "a cut off file": (binary(FILES[:-1], datatype="BYTES", shape=[2]), "cut off"),
    "a cut off length": (binary(FILES + b"a", datatype="BYTES", shape=[2]), "cut off"),
    "a huge length": (binary(b"\xff" * 8, datatype="BYTES", shape=[1]), "cut off"),
    "not finite": (
        binary(struct.pack("<192f", *[float("nan")] * 192), datatype="FP32", shape=[1, 8, 8, 3]),
        "pixels must be 0 to 255",
    ),
    "no header": ({"content": b"{}", "headers": {HEADER: "-1"}}, "is no number"),
    "a long header": ({"content": b"{}", "headers": {HEADER: "5"}}, "more than the body has"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_in_words(serving, name):
    request, words = BAD[name]

    async def scenario(client, models):
        response = await client.post("/v2/models/m/infer", **request)
        assert response.status_code == 400, response.text
        assert words in response.json()["error"]
        assert response.json()["error"].isprintable()

    serving(scenario)


def test_what_is_said_of_models(serving):
    async def scenario(client, models):
        found = (await client.get("/v2/models/a")).json()
        assert (found["name"], found["versions"]) == ("a", ["1", "2"])
        assert found["inputs"] == [
            {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 24, 3]}
        ]
        body = {"inputs": [INPUTS["uint8"]]}
        response = await client.post("/v2/models/a/versions/2/infer", json=body)
        assert response.json()["model_version"] == "2"
        for path in ("models/b", "models/a/versions/3", "models/b/ready", "models/b/infer"):
            ask = client.post if "infer" in path else client.get
            assert (await ask(f"/v2/{path}")).status_code == 404
        assert (await client.get("/v2/models/a/versions/2/ready")).json()["ready"] is True
        assert (await client.get("/v2")).json()["extensions"] == ["binary_tensor_data"]

    path = serving.hooks.path
    serving(scenario, f"a@1={path}", f"a@2={path}")
