"""The page of a server, in a real browser. The server is a stand-in that does as it is told."""

import contextlib
import http.server
import io
import json
import tarfile
import threading
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.serving.page import CSP, INDEX, page_file

PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}
DESKTOP = {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
SIZES = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(num_threads=1, min_confidence=0.2)


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers as a server of two models would; the attributes say what else it does."""

    classifier: ClassVar[Classifier]
    names = ("first", "second")
    classes: ClassVar[tuple[str, ...]]
    token = None
    busy = 0  # requests that are turned away first
    before_answer = staticmethod(lambda body: None)
    asked: ClassVar[list[dict]]

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/v1/models":
            return self.answer(lambda: {"models": [self.describe(n) for n in self.names]})
        found = page_file(INDEX if path == "/" else path.removeprefix("/page/"))
        content, kind = found or (b"", "text/plain")
        self.reply(200 if found else 404, content, kind)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(parse_qs(urlsplit(self.path).query))
        self.before_answer(body)
        if self.headers["Content-Type"] != "application/octet-stream":
            return self.refuse(415, "Send an image.")
        if self.busy:
            type(self).busy -= 1
            return self.refuse(503, "No room.", {"Retry-After": "1"})
        self.answer(lambda: self.classify(body))

    def answer(self, make):
        if self.token and self.headers["Authorization"] != f"Bearer {self.token}":
            return self.refuse(401, "A token is needed.")
        try:
            self.reply(200, json.dumps(make()).encode(), "application/json")
        except VitsdError as error:
            self.refuse(400, str(error))

    def describe(self, name):
        spec = self.classifier.spec
        return {
            "name": name,
            "version": "1",
            "default": name == self.names[0],
            "classes": self.classes,
            "input_size": spec.input_size,
            "min_confidence": self.classifier.min_confidence,
            "quantization": "int8",
            "test_top1": 0.7,
            "sha256": spec.integrity.sha256,
            "verified": name == "second",
        }

    def classify(self, body):
        (row,) = self.classifier.predict(body)
        known = row[0].known
        classes = [
            {"label": self.classes[p.index], "index": p.index, "probability": p.probability}
            for p in row
        ]
        results = [{"known": known, "predictions": classes}]
        return {"model": "first", "version": "1", "milliseconds": 2.5, "results": results}

    def refuse(self, status, text, headers=None):
        content = json.dumps({"error": text}).encode()
        self.reply(status, content, "application/json", headers)

    def reply(self, status, content, kind, headers=None):
        with contextlib.suppress(OSError):  # the page may have lost its interest
            self.send_response(status)
            fixed = {"Content-Type": kind, "Content-Security-Policy": CSP}
            for name, value in {**fixed, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service(host, classifier):
    """A stand-in, running; its ``url`` says where."""
    attributes = {"classifier": classifier, "classes": classifier.spec.class_names, "asked": []}
    service = type("Service", (StandIn,), attributes)
    service.url, service.server = host(service)
    return service


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def file(content: bytes, name: str = "photo.png") -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def heard(page, text: str) -> None:
    """Wait until the answer says so."""
    page.locator("[role=status] #answer", has_text=text).wait_for()


def rows(page) -> list[str]:
    page.locator("#classes li").first.wait_for()
    return [" ".join(text.split()) for text in page.locator("#classes li").all_inner_texts()]


@SIZES
def test_it_shows_the_runtimes_answer(service, open_page, classifier, photo, size):
    page = open_page(service.url, **size)
    heard(page, "Ready")
    page.set_input_files("#file", file(png(photo)))
    (expected,) = classifier.predict(png(photo))
    assert rows(page) == [f"{p.label} {100 * p.probability:.1f} %" for p in expected]
    headline = expected[0].label if expected[0].known else "I don't know"
    heard(page, headline)
    assert "2.5 ms" in page.inner_text("#time")
    assert page.locator("#preview").is_visible()
    assert "photo.png" in page.get_attribute("#preview", "alt")
    widths = [box["width"] for box in (b.bounding_box() for b in page.locator(".bar").all()) if box]
    shown = [page.locator(".bar span").nth(i).bounding_box()["width"] for i in range(5)]
    assert np.allclose(
        np.divide(shown, widths), [p.probability for p in expected], atol=0.5 / min(widths)
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#camera-button").is_visible() == (size is PHONE)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(service, open_page, photo, way):
    page = open_page(service.url)
    heard(page, "Ready")
    page.evaluate(
        """([bytes, way]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            const drop = () => new DragEvent("drop", { dataTransfer: data, cancelable: true });
            const paste = () => new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.dispatchEvent(way === "drop" ? drop() : paste());
        }""",
        [[*png(photo)], way],
    )
    assert len(rows(page)) == 5


def test_it_says_when_the_model_does_not_know(service, open_page, classifier, photo, monkeypatch):
    monkeypatch.setattr(classifier, "min_confidence", 0.99)
    page = open_page(service.url)
    page.set_input_files("#file", file(png(photo)))
    heard(page, "I don't know")
    assert "99.0 %" in page.locator("#facts").text_content()
    assert len(rows(page)) == 5


def test_errors_are_told_in_words(service, open_page, photo):
    page = open_page(service.url)
    heard(page, "Ready")
    page.set_input_files("#file", file(b"no image", "notes.txt"))
    heard(page, "That did not work")
    assert "can't be read as an image" in page.inner_text("#detail")
    assert not page.locator("#classes").is_visible()
    page.set_input_files("#file", file(png(photo)))  # and goes on
    assert len(rows(page)) == 5
    service.server.shutdown()
    service.server.server_close()
    page.set_input_files("#file", file(png(photo)))
    heard(page, "That did not work")
    assert "Is it running" in page.inner_text("#detail")


def test_a_busy_server_is_asked_again(service, open_page, photo):
    service.busy = 1
    page = open_page(service.url)
    page.set_input_files("#file", file(png(photo)))
    heard(page, "Waiting")
    assert len(rows(page)) == 5
    assert len(service.asked) == 2


def test_a_token_is_asked_for(service, open_page, photo):
    service.token = "secret"
    page = open_page(service.url)
    heard(page, "A token is needed")
    for word in ("wrong", "secret"):
        page.locator("#token:focus").wait_for()
        page.keyboard.type(word)
        page.keyboard.press("Enter")
    heard(page, "Ready")
    page.set_input_files("#file", file(png(photo)))
    assert len(rows(page)) == 5
    assert "secret" not in page.content()
    assert not page.locator("#token-form").is_visible()


def test_a_browser_that_keeps_nothing_asks_for_the_token_too(service, open_page):
    service.token = "secret"
    page = open_page(service.url)
    page.context.add_init_script(
        """Object.defineProperty(self, "sessionStorage", {
            get() { throw new DOMException("Access is denied", "SecurityError"); },
        });"""
    )
    page.reload()
    page.fill("#token", "secret")
    page.press("#token", "Enter")
    page.locator("#answer", has_text="Ready").wait_for()


def test_a_network_that_wants_a_login_is_told_from_the_server(service, open_page):
    service.answer = lambda self, _: self.reply(200, b"<p>Log in first", "text/html")
    page = open_page(service.url)
    page.locator("#answer", has_text="That did not work").wait_for()
    assert "log in" in page.inner_text("#detail")


def test_the_newest_image_is_answered(service, open_page, photo):
    slow, may_go = png(photo[::-1]), threading.Event()
    service.before_answer = staticmethod(lambda body: body == slow and may_go.wait(20))
    page = open_page(service.url)
    heard(page, "Ready")
    page.set_input_files("#file", file(slow, "slow.png"))
    page.wait_for_timeout(100)
    page.set_input_files("#file", file(png(photo), "new.png"))
    shown = rows(page)
    may_go.set()
    page.wait_for_timeout(500)  # the first answer would come now
    assert rows(page) == shown
    assert "new.png" in page.get_attribute("#preview", "alt")


def test_models_are_chosen(service, open_page, photo):
    page = open_page(service.url)
    page.set_input_files("#file", file(png(photo)))
    rows(page)
    assert "known answers" not in page.locator("#facts").text_content()
    page.get_by_label("Model", exact=True).select_option("second")
    rows(page)
    heard(page, "")
    page.wait_for_timeout(200)
    assert [query["model"] for query in service.asked] == [["first"], ["second"]]
    about = page.locator("#facts").text_content()
    assert "second" in about
    assert "on images with known answers" in about  # it was verified, the first was not


def test_names_are_text_and_nothing_else(service, open_page, photo):
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    service.classes = tuple(f"{evil}{i}" for i in range(100))
    page = open_page(service.url)
    page.on("dialog", lambda dialog: pytest.fail("a name was run"))
    page.set_input_files("#file", file(png(photo), f"{evil}.png"))
    assert evil in rows(page)[0]
    page.click("#knows summary")
    assert page.locator("#known li").first.inner_text() == f"{evil}0"
    assert page.locator("img").count() == 1


def test_it_works_by_keyboard(service, open_page, photo):
    page = open_page(service.url, **DESKTOP)
    page.on("filechooser", lambda chooser: None)  # from here on Chromium tells of it
    heard(page, "Ready")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Choose a picture"
    outline = "getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file(png(photo)))
    rows(page)

    def go_to(selector):
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("([s]) => document.activeElement.matches(s)", [selector]):
                return
        pytest.fail(f"{selector} is never reached")

    go_to("#knows summary")
    page.keyboard.press("Enter")
    go_to("#search")
    page.keyboard.type("TROUT")
    assert page.locator("#known li").all_inner_texts() == ["trout"]
    assert "1 found" in page.inner_text("#known-more")
    page.keyboard.type("zzz")
    assert "nothing of this name" in page.inner_text("#known-more")


def test_long_lists_of_classes_are_cut(service, open_page):
    service.classes = tuple(f"class {i}" for i in range(20_000))
    page = open_page(service.url)
    page.click("#knows summary")
    assert page.locator("#known li").count() == 500
    assert "19500 more" in page.inner_text("#known-more")
    page.fill("#search", "class 19999")
    assert page.locator("#known li").all_inner_texts() == ["class 19999"]


@SIZES
def test_it_keeps_the_rules_of_accessibility(service, open_page, npm_package, photo, size):
    with tarfile.open(npm_package("axe-core")) as archive:
        axe = archive.extractfile("package/axe.min.js").read().decode()
    page = open_page(service.url, **size)
    heard(page, "Ready")

    def violations():
        page.evaluate(axe)
        found = page.evaluate("axe.run().then((result) => result.violations)")
        return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]

    assert violations() == []
    page.set_input_files("#file", file(png(photo)))
    rows(page)
    for summary in page.locator("summary").all():
        summary.click()
    assert violations() == []
    page.set_input_files("#file", file(b"no image"))
    heard(page, "That did not work")
    assert violations() == []
