"""POST /v1/predict and its neighbors: answers, errors, limits."""

import asyncio
import json
import struct
import threading
import time
import zlib

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.serving import batching


def labels(response):
    return [result["predictions"][0]["label"] for result in response.json()["results"]]


@pytest.mark.parametrize(
    "kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_a_body_is_an_image(serving, light, classifier, kind):
    async def scenario(client, models):
        headers = {"content-type": kind} if kind else {}
        response = await client.post("/v1/predict?top_k=2", content=light, headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["model"], answer["version"]) == ("m", "0123456789ab")
        assert answer["milliseconds"] > 0
        (result,) = answer["results"]
        expected = classifier.predict(light, top_k=2)[0]
        assert result["predictions"] == [
            {"label": p.label, "index": p.index, "probability": p.probability} for p in expected
        ]
        assert result["known"] is True

    serving(scenario)


def test_files_of_a_form_are_answered_in_order_and_one_may_be_broken(serving, light, dark):
    async def scenario(client, models):
        files = [
            ("a", ("l.png", light)),
            ("a", ("=x\n.png", b"no image")),
            ("b", ("d.png", dark)),
            ("c", ("c.png", light[:60])),
        ]
        response = await client.post("/v1/predict", files=files)
        assert response.status_code == 200, response.text
        first, second, third, fourth = response.json()["results"]
        assert (first["image"], first["predictions"][0]["label"]) == ("l.png", "light")
        assert "text" in second["error"]
        assert third["predictions"][0]["label"] == "dark"
        assert "error" in fourth

    serving(scenario)


def test_below_the_threshold_nothing_is_known(serving, light, classifier):
    classifier.min_confidence = 1.1

    async def scenario(client, models):
        (result,) = (await client.post("/v1/predict", content=light)).json()["results"]
        assert result["known"] is False
        assert (
            'vitsd_images_total{model="m",outcome="unknown"} 1.0'
            in (await client.get("/metrics")).text
        )

    serving(scenario)


def test_names_that_are_no_text_are_sent(serving, light, classifier):
    spec = classifier.spec
    object.__setattr__(spec, "class_names", ("\ud800", *spec.class_names[1:]))

    async def scenario(client, models):
        response = await client.post("/v1/predict", content=light)
        assert labels(response) == ["\ud800"]

    serving(scenario)


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
PART = 'Content-Disposition: form-data; name="a"; filename="b"\r\n\r\ncontent'
REFUSED = {
    "empty": ({"content": b""}, 400, "no image"),
    "text": ({"content": b"some text"}, 400, "it is text"),
    "json": ({"content": b"{}", "headers": JSON}, 415, "multipart/form-data"),
    "packed": ({"content": b"x", "headers": {"content-encoding": "gzip"}}, 415, "packed"),
    "too large": ({"content": bytes((1 << 20) + 1)}, 413, "1 MiB"),
    "no end": ({"content": b"--x\r\n", "headers": FORM}, 400, "cut off"),
    "an end too early": (
        {"content": f"--x\r\n{PART}\r\n--x\r\n{PART}", "headers": FORM},
        400,
        "cut",
    ),
    "no form": ({"content": b"hello", "headers": FORM}, 400, "form"),
    "no boundary": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}},
        400,
        "form",
    ),
    "an odd charset": (
        {
            "content": f"--x\r\n{PART}\r\n--x--\r\n",
            "headers": {"content-type": "multipart/form-data; boundary=x; charset=undefined"},
        },
        400,
        "form",
    ),
    "empty form": ({"content": b"--x--\r\n", "headers": FORM}, 400, ""),  # no form, for some
    "a field": ({"files": {"a": b"x"}, "data": {"top_k": "1"}}, 400, "go into the address"),
    "many files": ({"files": [("a", b"x")] * 4}, 413, "3 images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_good_request_is_refused_in_words(serving, name):
    request, status, words = REFUSED[name]

    async def scenario(client, models):
        response = await client.post("/v1/predict", **request)
        assert response.status_code == status, response.text
        assert words in response.json()["error"]
        assert response.json()["error"].isprintable()
        assert next(iter(models)).waiting == 0

    serving(scenario, max_body=1, max_images=3)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/predict?top_k=0", 400, "top_k must be a whole number from 1"),
        ("/v1/predict?top_k=many", 400, "top_k must be a whole number"),
        ("/v1/predict?top-k=3", 400, "no option top-k: use model, version, top_k"),
        ("/v1/predict?model=%1b%5b2J", 404, r"no model \x1b[2J; there are m (version"),
        ("/v1/predict?version=2", 404, "no model m in version 2"),
        ("/v1/elsewhere", 404, "/v1/predict"),
        ("/v1/predict/", 404, "/v1/predict"),  # sent elsewhere, it would leave a proxy's address
        ("/page/../server.py", 404, ""),
        ("/page/server.py", 404, ""),
    ],
)
def test_addresses_that_lead_nowhere(serving, light, path, status, words):
    async def scenario(client, models):
        post = path.startswith("/v1")
        response = await (client.post(path, content=light) if post else client.get(path))
        assert response.status_code == status, response.text
        assert words in response.json()["error"]

    serving(scenario)


def test_an_empty_name_is_none(serving, light):
    async def scenario(client, models):
        response = await client.post("/v1/predict?model=&version=", content=light)
        assert response.status_code == 200, response.text

    serving(scenario)


def test_the_wrong_method_says_which_is_right(serving):
    async def scenario(client, models):
        response = await client.get("/v1/predict")
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"
        assert "POST" in response.json()["error"]

    serving(scenario)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(serving, monkeypatch, light):
    def load(image):
        raise AssertionError("decoded")

    async def scenario(client, models):
        await client.post("/v1/predict", content=light)
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        response = await client.post("/v1/predict", content=light)
        assert response.status_code == 400
        assert "30x40 pixels; more than 1,000 are refused" in response.json()["error"]

    serving(scenario, max_pixels=1000)


def test_while_uploads_fill_the_room_others_are_refused(serving, light):
    async def scenario(client, models):
        go, kib = asyncio.Event(), bytes(1024)

        async def body(wait=go.wait):
            yield light + 400 * kib
            await wait()
            yield 400 * kib

        async def no_wait():
            pass

        waiting = [
            asyncio.create_task(client.post("/v1/predict", content=body())) for _ in range(20)
        ]
        await asyncio.sleep(0.05)
        for _ in range(50):  # what they leave behind would fill the room
            response = await client.post("/v1/predict", content=body(no_wait))
            assert response.status_code == 503
            assert "too many uploads" in response.json()["error"]
        go.set()
        await asyncio.gather(*waiting)
        assert labels(await client.post("/v1/predict", content=light + 1000 * kib)) == ["light"]

    serving(scenario, max_body=1)


def test_a_decompression_bomb_is_an_error_of_that_image(serving, light):
    size = struct.pack(">II", 60_000, 60_000)  # in a PNG's header, which is read first
    header = b"IHDR" + size + bytes([1, 0, 0, 0, 0])
    checksum = struct.pack(">I", zlib.crc32(header))
    bomb = light[:8] + struct.pack(">I", 13) + header + checksum + light[33:]

    async def scenario(client, models):
        response = await client.post("/v1/predict", files=[("a", bomb), ("a", light)])
        first, second = response.json()["results"]
        assert "exceeds limit" in first["error"]
        assert second["predictions"][0]["label"] == "light"

    serving(scenario)


def test_very_large_images_are_decoded_one_at_a_time(serving, light, monkeypatch):
    load, at_once, lock = batching.load_for_model, [0], threading.Lock()

    def watched(image, spec, max_pixels):
        pixels = load(image, spec, max_pixels=max_pixels)
        with lock:
            at_once[0] += 1
            most.append(at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return pixels

    async def scenario(client, models):
        response = await client.post("/v1/predict", files=[("a", light)] * 8)
        assert [r["known"] for r in response.json()["results"]] == [True] * 8

    monkeypatch.setattr(batching, "load_for_model", watched)
    monkeypatch.setattr("vitsd_runtime.serving.models.usable_cores", lambda: 4)
    for large, expected in ((40 * 30, 4), (40 * 30 - 1, 1)):
        monkeypatch.setattr(batching, "_LARGE", large)
        most = []
        serving(scenario)
        assert max(most) == expected


def test_what_is_not_decoded_at_the_end_is_given_up(serving, light, monkeypatch):
    load, seen = batching.load_for_model, threading.Event()
    decoded = []

    def slow(*arguments, **more):
        seen.set()
        time.sleep(0.02)
        decoded.append(arguments)
        return load(*arguments, **more)

    async def scenario(client, models):
        monkeypatch.setattr(batching, "load_for_model", slow)
        task = asyncio.create_task(client.post("/v1/predict", files=[("a", light)] * 30))
        while not seen.is_set():
            await asyncio.sleep(0.001)
        task.cancel()

    serving(scenario)
    assert 0 < len(decoded) < 30


@pytest.mark.parametrize("error", [VitsdError("it broke"), ZeroDivisionError("secret")])
def test_an_engine_that_fails_is_the_servers_fault_and_no_end(
    serving, engine, light, monkeypatch, caplog, error
):
    def fail(batch):
        raise error

    async def scenario(client, models):
        monkeypatch.setattr(engine, "run", fail)
        response = await client.post("/v1/predict", content=light)
        assert response.status_code == 500
        assert "secret" not in response.text
        assert next(iter(models)).waiting == 0

    serving(scenario)
    assert ("secret" in caplog.text) == isinstance(error, ZeroDivisionError)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    serving, engine, light, monkeypatch
):
    go, run = threading.Event(), engine.run

    def wait(batch):
        go.wait(30)
        return run(batch)

    async def scenario(client, models):
        monkeypatch.setattr(engine, "run", wait)
        working = [asyncio.create_task(client.post("/v1/predict", content=light)) for _ in range(3)]
        while next(iter(models)).waiting < 3:
            await asyncio.sleep(0.001)
        refused = await client.post("/v1/predict", content=light)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "busy" in refused.json()["error"]
        go.set()
        assert [r.status_code for r in await asyncio.gather(*working)] == [200] * 3
        assert (await client.post("/v1/predict", content=light)).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'vitsd_images_total{model="m",outcome="refused"} 1.0' in metrics
        assert 'vitsd_requests_total{route="predict",status="503"} 1.0' in metrics

    serving(scenario, queue_size=3, max_images=2)


def test_what_waits_is_run_together(serving, engine, light, dark, monkeypatch):
    sizes, run, go = [], engine.run, threading.Event()

    def watched(batch):
        go.wait(30)
        sizes.append(len(batch))
        return run(batch)

    async def scenario(client, models):
        monkeypatch.setattr(engine, "run", watched)
        images = [light, dark] * 6
        working = [asyncio.create_task(client.post("/v1/predict", content=i)) for i in images]
        while next(iter(models)).waiting < 12:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)  # until they are decoded
        go.set()
        answers = [labels(response) for response in await asyncio.gather(*working)]
        assert answers == [["light"], ["dark"]] * 6
        assert max(sizes) == 4  # the classifier's batch
        assert sum(sizes) == 12

    serving(scenario, workers=1)


def test_a_client_that_goes_away_takes_nobody_with_it(serving, engine, light, dark, monkeypatch):
    go, run = threading.Event(), engine.run

    def wait(batch):
        go.wait(30)
        return run(batch)

    async def scenario(client, models):
        monkeypatch.setattr(engine, "run", wait)
        model = next(iter(models))
        tasks = []
        for image in (light, light, dark):  # the first alone, the others together
            tasks.append(asyncio.create_task(client.post("/v1/predict", content=image)))
            while model.waiting < len(tasks):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        go.set()
        assert labels(await asyncio.wait_for(tasks[0], 20)) == ["light"]
        assert labels(await asyncio.wait_for(tasks[2], 20)) == ["dark"]
        assert model.waiting == 0

    serving(scenario, workers=1)


def test_the_models_are_listed(serving, classifier):
    async def scenario(client, models):
        first, second = (await client.get("/v1/models")).json()["models"]
        assert (first["name"], first["default"]) == ("a", True)
        assert (second["name"], second["version"], second["default"]) == ("b", "2", False)
        assert first["classes"] == ["light", "dark", "grey"]
        assert first["input_size"] == [32, 24, 3]
        assert first["test_top1"] is None
        assert first["sha256"] == classifier.spec.integrity.sha256
        assert first["min_confidence"] == 0
        assert first["quantization"] == "none"

    path = serving.hooks.path
    serving(scenario, f"a={path}", f"b@2={path}")


def test_models_are_found_by_name_and_version(serving, light):
    async def scenario(client, models):
        for query, found in (("", "1"), ("?model=a&version=2", "2"), ("?version=2", "2")):
            response = await client.post(f"/v1/predict{query}", content=light)
            assert (response.json()["model"], response.json()["version"]) == ("a", found)

    path = serving.hooks.path
    serving(scenario, f"a@1={path}", f"a@2={path}")


@pytest.mark.parametrize("words", [["a={}", "a={}"], ["a@1={}", "b={}", "a@1={}"]])
def test_two_models_of_one_name_are_misuse(serving, words):
    async def scenario(client, models):
        raise AssertionError("served")

    with pytest.raises(UsageError, match="Two models are called a"):
        serving(scenario, *(word.format(serving.hooks.path) for word in words))


TOKEN = "a-secret-of-some-length"


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        "Bearer \xe9",
        f"Basic {TOKEN}",
    ],
)
def test_without_the_token_there_is_no_answer(serving, light, sent):
    async def scenario(client, models):
        headers = {} if sent is None else {"authorization": sent.encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/v2", "/v2/models/m", "/v1/nothing"):
            response = await client.get(path, headers=headers)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in response.text
        response = await client.post("/v1/predict", content=light, headers=headers)
        assert response.status_code == 401

    serving(scenario, token=TOKEN)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_there_is(serving, light, scheme):
    async def scenario(client, models):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        response = await client.post("/v1/predict", content=light, headers=headers)
        assert labels(response) == ["light"]
        for path in ("/", "/v2/health/live", "/v2/health/ready"):  # they tell nothing
            assert (await client.get(path)).status_code == 200

    serving(scenario, token=TOKEN)


def test_the_page_may_load_nothing_from_elsewhere(serving):
    async def scenario(client, models):
        response = await client.get("/")
        assert response.headers["content-type"].startswith("text/html")
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"

    serving(scenario)


def test_the_access_log_is_safe_to_show(serving, light, caplog):
    async def scenario(client, models):
        await client.get("/%1b%5b2J%0aforged")
        await client.post("/v1/predict", content=light)

    with caplog.at_level("INFO"):
        serving(scenario, access_log=True)
    lines = [record.getMessage() for record in caplog.records if " ms" in record.getMessage()]
    assert len(lines) == 2
    assert r"\x1b[2J\nforged 404" in lines[0]
    assert "POST /v1/predict 200" in lines[1]


def test_the_answer_is_exact_json(serving, light):
    async def scenario(client, models):
        response = await client.post("/v1/predict", content=light)
        assert response.headers["content-type"] == "application/json"
        json.loads(response.content.decode("ascii"))

    serving(scenario)
