"""Exports for the web, in a real browser: the same answers as the runtime, also offline."""

import base64
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from vitsd_export import export
from vitsd_export.formats.tflite_schema import fix_batch
from vitsd_export.options import artifact_name
from vitsd_export.quantization.schemes import quantizations_of
from vitsd_export.web import WEB_MODEL, find_litert_js, write_web_folder
from vitsd_runtime import Classifier
from vitsd_runtime.formats import read_spec, write_spec
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.models.catalog import bundled_model

ROUNDING = 0.25
"""By which logits may differ: sums in another order round activations to the next int8."""
ANSWER = """async ([files, changes]) => {
    const { logits } = await import(new URL("page/answers.js", location));
    const { loadImage } = await import(new URL("page/preprocessing.js", location));
    const spec = { ...(await (await fetch("spec.json")).json()), ...changes };
    const results = [];
    for (const file of files) {
        const bytes = Uint8Array.from(atob(file), (character) => character.charCodeAt(0));
        const pixels = await loadImage(new Blob([bytes]), spec);
        results.push([Array.from(pixels), Array.from(await logits(pixels))]);
    }
    return results;
}"""


@pytest.fixture(scope="module")
def to_web(npm_package, tmp_path_factory):
    """A function that makes a folder of an exported file, as an export for the web would."""
    litert_js = find_litert_js(npm_package("@litertjs/core"))

    def make(exported):
        folder = tmp_path_factory.mktemp("web")
        spec = read_spec(exported)
        model = folder / WEB_MODEL
        model.write_bytes(fix_batch(exported.read_bytes()[: spec.integrity.size]))
        write_web_folder(folder, write_spec(model, spec), litert_js)
        return folder

    return make


@pytest.fixture(scope="module")
def shipped(to_web):
    """The shipped model, which takes color images."""
    return to_web(bundled_model())


@pytest.fixture
def site(shipped, host, open_page):
    """The shipped model's page, loaded: ``page``, ``context``, ``url``, ``server``, ``folder``."""
    url, server = host(shipped)
    page = ready(open_page(url))
    return SimpleNamespace(page=page, url=url, server=server, folder=shipped, context=page.context)


def ready(page):
    page.locator("#answer", has_text="Ready").wait_for(timeout=60_000)
    return page


def answer(page, files, **changes):
    """Pixels, uint8 ``(n, values)``, and logits, float32, as the page computes them."""
    encoded = [base64.b64encode(file).decode() for file in files]
    pixels, logits = zip(*page.evaluate(ANSWER, [encoded, changes]), strict=True)
    return np.array(pixels, np.uint8), np.array(logits, np.float32)


def assert_same(logits, expected, tolerance: float) -> None:
    """Equal labels, but where the best two are nearer to each other than the tolerance."""
    assert np.abs(logits - expected).max() < tolerance
    best = np.sort(expected)
    clear = best[:, -1] - best[:, -2] > 2 * tolerance
    assert clear.any()
    assert (logits.argmax(1) == expected.argmax(1))[clear].all()


def export_again(folder, name: str) -> None:
    """Make another export of one: its model has another name."""
    spec = write_spec(folder / WEB_MODEL, read_spec(folder / WEB_MODEL).replace(name=name))
    litert_js = SimpleNamespace(
        version="2.5.3",
        module=(folder / "litert/index.js").read_bytes(),
        builds={path.name: path.read_bytes() for path in (folder / "litert").glob("*_internal.*")},
    )
    write_web_folder(folder, spec, litert_js)


def encode(image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def a_photo(width: int = 640, height: int = 471) -> Image.Image:
    """With fine details, different in every direction."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + y / 31), np.sin(x * y / 2000), np.cos((x - 2 * y) / 13)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return Image.fromarray((128 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


def transparent(image: Image.Image) -> Image.Image:
    alpha = np.random.default_rng(1).integers(0, 256, image.size[::-1])
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def swapped_colors() -> bytes:
    """A color profile that exchanges red and green, if it is applied."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = (
        int.from_bytes(profile[profile.find(tag) + 4 :][:4], "big") for tag in (b"rXYZ", b"gXYZ")
    )
    profile[red : red + 20], profile[green : green + 20] = (
        profile[green : green + 20],
        profile[red : red + 20],
    )
    return bytes(profile)


EXACT = {
    "PNG": lambda: encode(a_photo()),
    "gray PNG": lambda: encode(a_photo().convert("L")),
    "PNG with a palette": lambda: encode(a_photo().convert("P")),
    "PNG of black and white": lambda: encode(a_photo().convert("1")),
    "transparent PNG": lambda: encode(transparent(a_photo())),
    "transparent PNG of the input size": lambda: encode(transparent(a_photo(32, 32))),
    "PNG with a color profile": lambda: encode(a_photo(), icc_profile=swapped_colors()),
    "enlarged PNG": lambda: encode(a_photo(17, 9)),
    "tall PNG": lambda: encode(a_photo(33, 1500)),
    "PNG of one pixel": lambda: encode(Image.new("RGB", (1, 1), (200, 30, 90))),
    "GIF": lambda: encode(a_photo(), "GIF"),
    "BMP": lambda: encode(a_photo(), "BMP"),
    "lossless WebP": lambda: encode(a_photo(), "WEBP", lossless=True),
}
DECODED_ALIKE = {
    "JPEG": lambda: encode(a_photo(), "JPEG", quality=85),
    "JPEG on its side": lambda: encode(a_photo(), "JPEG", exif=turned()),
    "gray JPEG": lambda: encode(a_photo().convert("L"), "JPEG"),
    "progressive JPEG": lambda: encode(a_photo(), "JPEG", progressive=True),
    "WebP": lambda: encode(a_photo(), "WEBP"),
}


def test_the_shipped_model_answers_as_in_python(site):
    files = [encode(a_photo(32, 32).rotate(7 * i)) for i in range(20)]
    pixels, logits = answer(site.page, files)
    expected = Classifier.load(num_threads=1).logits(files)
    assert (pixels == [load_image(file, (32, 32, 3)).ravel() for file in files]).all()
    assert_same(logits, expected, ROUNDING)


def test_tensors_are_equal_to_the_bit(site):
    spec = read_spec(bundled_model())
    pixels = np.asarray(a_photo(32, 32))
    prepared = site.page.evaluate(
        """async ([pixels, spec]) => {
            const { preprocess } = await import(new URL("page/preprocessing.js", location));
            return Array.from(preprocess(Uint8Array.from(pixels), spec));
        }""",
        [pixels.ravel().tolist(), spec.to_dict()],
    )
    assert (np.array(prepared, np.float32) == preprocess(pixels[None], spec).ravel()).all()


@pytest.mark.parametrize("resize_mode", ["stretch", "crop"])
def test_images_become_the_same_pixels(site, resize_mode):
    files = {name: make() for name, make in {**EXACT, **DECODED_ALIKE}.items()}
    pixels, _ = answer(site.page, files.values(), resize_mode=resize_mode)
    for (name, file), own in zip(files.items(), pixels, strict=True):
        expected = load_image(file, (32, 32, 3), resize_mode).ravel()
        difference = np.abs(own.astype(int) - expected)
        assert difference.max() <= (0 if name in EXACT else 2), name
    gray = [encode(a_photo()), encode(transparent(a_photo()))]
    pixels = site.page.evaluate(ANSWER.replace("await logits(pixels)", "[]"), [
        [base64.b64encode(file).decode() for file in gray],
        {"input_size": [20, 30, 1], "resize_mode": resize_mode},
    ])  # fmt: skip
    for (own, _), file in zip(pixels, gray, strict=True):
        assert own == load_image(file, (20, 30, 1), resize_mode).ravel().tolist()


@pytest.mark.parametrize("quantization", quantizations_of("web"))
def test_every_quantization_answers_as_in_python(
    exported, to_web, host, open_page, digits, quantization
):
    """Of a model that takes gray images."""
    folder = to_web(exported / artifact_name("digits", "tflite", quantization))
    files = [encode(Image.fromarray(image[..., 0])) for image in digits.images[:40]]
    expected = Classifier.load(folder / WEB_MODEL, num_threads=1).logits(files)
    url, _ = host(folder)
    page = ready(open_page(url))
    _, logits = answer(page, files)
    assert_same(logits, expected, 1e-3 if quantization in ("none", "float16") else ROUNDING)

    golden = read_spec(folder / WEB_MODEL).golden
    _, logits = answer(page, map(base64.b64decode, golden.images))
    assert tuple(map(str, logits.argmax(1))) == golden.labels
    assert page.inner_text("#warning") == ""  # it has compared them, too
    assert f"on {len(golden.images)} images" in page.locator("#facts").text_content()


def test_models_that_preprocess_get_pixels(trained, to_web, host, open_page, digits, tmp_path):
    (exported,) = export(trained / "model.keras", output=tmp_path, embed_preprocessing=True)
    files = [encode(Image.fromarray(image[..., 0])) for image in digits.images[:20]]
    url, _ = host(to_web(exported.path))
    _, logits = answer(ready(open_page(url)), files)
    assert_same(logits, Classifier.load(exported.path, num_threads=1).logits(files), 1e-3)


def test_a_person_gets_the_answer(site):
    file = encode(a_photo(), "JPEG")
    upload = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": file}
    site.page.set_input_files("#file", upload)
    site.page.locator("#classes li").first.wait_for()
    rows = [" ".join(text.split()) for text in site.page.locator("#classes li").all_inner_texts()]
    (answers,) = Classifier.load(num_threads=1).predict(file, top_k=100)
    shown = {row.rsplit(" ", 2)[0]: float(row.split()[-2]) for row in rows}
    assert next(iter(shown)) == answers[0].label
    # Rounding may exchange classes that are about as likely.
    expected = {p.label: 100 * p.probability for p in answers}
    assert all(abs(shown[label] - expected[label]) < 5 for label in shown)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert "in this browser" in site.page.inner_text("#time")
    site.page.set_input_files(
        "#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"none"}
    )
    site.page.locator("#answer", has_text="That did not work").wait_for()
    assert "JPEG or PNG" in site.page.inner_text("#detail")


def test_it_works_offline_after_the_first_visit(site):
    site.server.shutdown()
    site.server.server_close()
    site.context.set_offline(True)
    site.page.reload()
    ready(site.page)
    files = [encode(a_photo())]
    _, logits = answer(site.page, files)
    assert np.abs(logits - Classifier.load(num_threads=1).logits(files)).max() < ROUNDING


def test_a_new_export_takes_over(shipped, host, open_page, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(shipped, folder)
    url, _ = host(folder)
    page = ready(open_page(url))
    (before,) = page.evaluate("caches.keys()")
    export_again(folder, "newer")
    page.reload()  # meanwhile the new one is fetched
    assert "newer" not in ready(page).locator("#facts").text_content()
    page.evaluate(
        """async ([before]) => {
            for (let times = 0; times < 200 && (await caches.has(before)); times += 1) {
                await new Promise((done) => setTimeout(done, 100));
            }
        }""",
        [before],
    )
    (after,) = page.evaluate("caches.keys()")
    assert after != before
    page.reload()
    assert "newer" in ready(page).locator("#facts").text_content()
    kept = page.evaluate(
        """caches.keys().then(([name]) => caches.open(name)).then((cache) => cache.keys())
            .then((requests) => requests.map((request) => request.url))"""
    )
    assert f"{url}litert/litert_wasm_internal.wasm" in kept


def test_other_pages_of_the_host_are_left_alone(shipped, host, open_page, tmp_path):
    shutil.copytree(shipped, tmp_path / "site")
    shutil.copytree(shipped, tmp_path / "site" / "second")
    (tmp_path / "site" / "blog").mkdir()
    (tmp_path / "site" / "blog" / "index.html").write_text("<p>Another page")
    export_again(tmp_path / "site" / "second", "second")
    url, server = host(tmp_path / "site")
    page = ready(open_page(url))
    page.goto(f"{url}blog/")
    assert page.inner_text("body") == "Another page"
    page.goto(f"{url}spec.json")
    assert '"class_names"' in page.inner_text("body")
    for _ in range(2):  # the second time offline
        page.goto(f"{url}second/")
        assert "second" in ready(page).locator("#facts").text_content()
        page.goto(f"{url}index.html?from=elsewhere#top")
        assert "second" not in ready(page).locator("#facts").text_content()
        server.shutdown()
        server.server_close()
        page.context.set_offline(True)


def test_half_an_export_is_not_kept(shipped, host, open_page, tmp_path):
    """A browser comes while the host is given another export; later all of that is there."""
    folder = tmp_path / "site"
    shutil.copytree(shipped, folder)
    whole = (folder / "spec.json").read_bytes()
    digest = json.loads(whole)["integrity"]["sha256"].encode()
    (folder / "spec.json").write_bytes(whole.replace(digest, b"0" * len(digest)))
    assert (folder / "spec.json").read_bytes() != whole
    url, _ = host(folder)
    page = open_page(url)
    page.locator("#answer", has_text="That did not work").wait_for()
    (folder / "spec.json").write_bytes(whole)
    page.reload()
    ready(page)


def test_a_browser_without_room_still_answers(shipped, host, open_page, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(shipped, folder)
    worker = folder / "service-worker.js"
    full = "Cache.prototype.put = () => Promise.reject(new DOMException('', 'QuotaExceededError'));"
    worker.write_text(full + worker.read_text())
    url, _ = host(folder)
    page = ready(open_page(url))
    assert page.evaluate("Boolean(navigator.serviceWorker.controller)")


@pytest.mark.parametrize("missing", ["createImageBitmap", "WebAssembly"])
def test_an_old_browser_is_told_so(site, missing):
    site.page.context.add_init_script(f"delete self.{missing}")
    site.page.reload()
    site.page.locator("#detail", has_text="too old").wait_for()


@pytest.mark.parametrize("missing", ["navigator.serviceWorker", "crypto.subtle", "caches"])
def test_it_works_without_what_is_nice_to_have(site, missing):
    where, name = missing.rsplit(".", 1) if "." in missing else ("self", missing)
    site.page.context.add_init_script(
        f"Object.defineProperty({where}, '{name}', {{ value: undefined }})"
    )
    site.page.reload()
    ready(site.page)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEB_MODEL, lambda content: b"x" + content[1:], "damaged"),
        (WEB_MODEL, lambda content: None, "can't be loaded"),
        ("spec.json", lambda content: None, "can't be loaded"),
        ("litert/litert_wasm_internal.js", lambda content: None, "can't be loaded"),
    ],
    ids=["model", "no model", "no spec", "no engine"],
)
def test_damaged_folders_say_so(shipped, host, open_page, tmp_path, name, change, message):
    folder = tmp_path / "site"
    shutil.copytree(shipped, folder)
    content = change((folder / name).read_bytes())
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    url, _ = host(folder)
    page = open_page(url)
    page.locator("#answer", has_text="That did not work").wait_for()
    assert message in page.inner_text("#detail")


def test_a_browser_that_computes_something_else_is_found_out(exported, to_web, host, open_page):
    url, _ = host(to_web(exported / "digits-float32.tflite"))
    page = ready(open_page(url))
    assert page.inner_text("#warning") == ""
    # As browsers do that protect against tracking.
    page.context.add_init_script(
        """const original = CanvasRenderingContext2D.prototype.getImageData;
        CanvasRenderingContext2D.prototype.getImageData = function (...place) {
            const result = original.apply(this, place);
            result.data.forEach((value, i) => { result.data[i] = value ^ (i % 3); });
            return result;
        };"""
    )
    page.reload()
    ready(page)
    assert "may be wrong" in page.inner_text("#warning")
