"""A model's file is replaced, damaged or deleted while it is served."""

import asyncio
import base64
import gc
import os
import threading
import weakref

import pytest

from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.serving import loading
from vitsd_runtime.serving import models as module
from vitsd_runtime.verification import Stage, Verification


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)


def renamed(classifier, first):
    """The model with another name of its first class."""
    spec = classifier.spec
    names = (first, *spec.class_names[1:])
    new = spec.replace(class_names=names, integrity=None, golden=None)
    object.__setattr__(new, "integrity", spec.integrity)
    return Classifier(classifier.engine, new, classifier.path, 1, batch_size=4)


async def label(client, image):
    response = await client.post("/v1/predict?top_k=1", content=image)
    assert response.status_code == 200, response.text
    return response.json()["results"][0]["predictions"][0]["label"]


async def until(condition):
    for _ in range(2000):
        if await condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def reloading(serving, scenario, *words, **settings):
    async def with_reloads(client, models):
        task = asyncio.create_task(models.keep_up())
        try:
            await scenario(client, models)
        finally:
            assert not task.done()
            task.cancel()

    serving(with_reloads, *words, **settings)


def in_place(path):
    path.write_bytes(b"second, written into the old file")


def renamed_over(path):
    new = path.with_name("new")
    new.write_bytes(b"second")
    os.replace(new, path)


def by_a_link(path):
    path.unlink()
    target = path.with_name("other.tflite")
    target.write_bytes(b"second")
    path.symlink_to(target)


@pytest.mark.parametrize("replace", [in_place, renamed_over, by_a_link])
def test_a_new_file_takes_over(serving, light, classifier, caplog, replace):
    async def scenario(client, models):
        assert await label(client, light) == "light"
        serving.hooks.load = lambda path, **_: renamed(classifier, "bright")
        replace(serving.hooks.path)

        async def replaced():
            return await label(client, light) == "bright"

        await until(replaced)
        metrics = (await client.get("/metrics")).text
        assert 'vitsd_reloads_total{model="m",outcome="loaded"} 1.0' in metrics

    with caplog.at_level("INFO"):
        reloading(serving, scenario)
    assert sum("replaced by" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("error", [VitsdError("damaged"), OSError("damaged"), KeyError("damaged")])
def test_a_bad_file_is_refused_once_and_the_old_model_stays(
    serving, light, classifier, caplog, error
):
    def refuse(path, **_):
        raise error

    async def scenario(client, models):
        serving.hooks.load = refuse
        in_place(serving.hooks.path)

        async def refused():
            return "damaged" in caplog.text

        await until(refused)
        await asyncio.sleep(0.1)
        assert await label(client, light) == "light"
        metrics = (await client.get("/metrics")).text
        assert 'vitsd_reloads_total{model="m",outcome="refused"} 1.0' in metrics
        # And the next one is tried again.
        serving.hooks.load = lambda path, **_: renamed(classifier, "bright")
        renamed_over(serving.hooks.path)

        async def replaced():
            return await label(client, light) == "bright"

        await until(replaced)

    reloading(serving, scenario)
    assert caplog.text.count("the old one stays") == 1


def test_a_deleted_file_changes_nothing_and_may_come_back(serving, light, classifier):
    async def scenario(client, models):
        serving.hooks.path.unlink()
        await asyncio.sleep(0.1)
        assert await label(client, light) == "light"
        serving.hooks.load = lambda path, **_: renamed(classifier, "bright")
        serving.hooks.path.write_bytes(b"second")

        async def replaced():
            return await label(client, light) == "bright"

        await until(replaced)

    reloading(serving, scenario)


def test_a_file_that_is_still_being_written_is_waited_for(serving, light, classifier, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.1)
    loads = []

    def load(path, **_):
        loads.append(path.stat().st_size)
        return renamed(classifier, "bright")

    async def scenario(client, models):
        serving.hooks.load = load
        with open(serving.hooks.path, "wb", buffering=0) as file:
            for _ in range(40):
                file.write(b"part")
                await asyncio.sleep(0.01)

        async def replaced():
            return bool(loads)

        await until(replaced)
        assert set(loads) == {160}

    reloading(serving, scenario, workers=1)


def test_a_file_that_changes_while_it_is_loaded_is_loaded_again(serving, light, classifier, caplog):
    loads = []

    def load(path, **_):
        loads.append(path.read_bytes())
        if len(loads) == 1:
            path.write_bytes(b"third, longer than the second")
        return renamed(classifier, loads[-1].decode()[:5])

    async def scenario(client, models):
        serving.hooks.load = load
        serving.hooks.path.write_bytes(b"second")

        async def replaced():
            return await label(client, light) == "third"

        await until(replaced)

    reloading(serving, scenario, workers=1)
    assert "was changed while it was loaded" in caplog.text


def test_requests_during_a_replacement_are_all_answered_by_one_or_the_other(
    serving, light, classifier, engine, monkeypatch
):
    async def scenario(client, models):
        serving.hooks.load = lambda path, **_: renamed(classifier, "bright")
        seen = set()
        in_place(serving.hooks.path)
        while "bright" not in seen:
            seen.update(await asyncio.gather(*(label(client, light) for _ in range(8))))
        assert seen == {"light", "bright"}

    reloading(serving, scenario)


def test_the_threads_of_replaced_models_end(serving, light, classifier):
    def engines():
        return sum(thread.name == "engine" for thread in threading.enumerate())

    async def scenario(client, models):
        before = engines()
        for number in range(5):
            name = f"new {number}"
            serving.hooks.load = lambda path, name=name, **_: renamed(classifier, name)
            serving.hooks.path.write_bytes(b"x" * (number + 10))

            async def replaced(name=name):
                return await label(client, light) == name

            await until(replaced)

        async def ended():
            return engines() == before

        await until(ended)

    reloading(serving, scenario, workers=2)


def test_a_replaced_model_leaves_memory_whatever_it_was_asked(serving, light, classifier, engine):
    async def scenario(client, models):
        old = weakref.ref(next(iter(models)).current)
        run = engine.run
        for body in (light, b"no image", light[:80]):
            await client.post("/v1/predict", content=body)
            await client.post("/v1/predict", files=[("a", body), ("b", light)])
            data = base64.b64encode(body).decode()
            tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [data]}
            await client.post("/v2/models/m/infer", json={"inputs": [tensor]})
            engine.run = lambda batch: 1 / 0
            await client.post("/v1/predict", content=body)
            await client.post("/v2/models/m/infer", json={"inputs": [tensor]})
            engine.run = run
        serving.hooks.load = lambda path, **_: renamed(classifier, "bright")
        in_place(serving.hooks.path)

        async def gone():
            return old() is None

        await until(gone)

    gc.disable()  # it comes seldom in a process that has imported much
    try:
        reloading(serving, scenario)
    finally:
        gc.enable()


@pytest.fixture
def golden(classifier):
    object.__setattr__(classifier.spec, "golden", object())
    return classifier


def test_a_model_that_fails_its_verification_never_serves(serving, golden, monkeypatch):
    found = Verification((Stage("pixels", True, "equal"), Stage("logits", False, "off by 3")))
    monkeypatch.setattr(loading, "verify", lambda classifier: found)

    async def scenario(client, models):
        raise AssertionError("served")

    with pytest.raises(VitsdError, match="logits: off by 3"):
        serving(scenario)


def test_only_a_verified_model_takes_over(serving, light, golden, monkeypatch, caplog):
    good = Verification((Stage("pixels", True, "equal"),))
    bad = Verification((Stage("labels", False, "two differ"),))
    monkeypatch.setattr(
        loading, "verify", lambda c: bad if "bad" in c.spec.class_names[0] else good
    )

    async def scenario(client, models):
        assert (await client.get("/v1/models")).json()["models"][0]["verified"] is True
        worse = renamed(golden, "bad")
        object.__setattr__(worse.spec, "golden", object())
        serving.hooks.load = lambda path, **_: worse
        in_place(serving.hooks.path)

        async def refused():
            return "labels: two differ" in caplog.text

        await until(refused)
        assert await label(client, light) == "light"
        assert (await client.get("/v2/health/ready")).status_code == 200

    reloading(serving, scenario)


@pytest.mark.parametrize(
    ("word", "name", "version", "path"),
    [
        ("a/cats.tflite", "cats", None, "a/cats.tflite"),
        ("cats=a/b.tflite", "cats", None, "a/b.tflite"),
        ("cats@1.2=a=b.tflite", "cats", "1.2", "a=b.tflite"),
    ],
)
def test_words_name_models(word, name, version, path):
    source = module.Source.parse(word)
    assert (source.name, source.version, str(source.path)) == (name, version, path)


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.tflite").touch()
    with pytest.raises(UsageError, match="'a=b' can't be a model's name"):
        module.Source.parse("a=b.tflite")


@pytest.mark.parametrize("word", ["my cats.tflite", "=a.tflite", "a@=b", "a/b=c", "\x1b=a", ".a=b"])
def test_names_that_no_address_takes_are_misuse(word):
    with pytest.raises(UsageError, match="use letters, digits") as error:
        module.Source.parse(word)
    assert str(error.value).isprintable()
