"""Folders for browsers: whole, and refused early where they can't be made."""

import io
import json
import re
import shutil
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest

from vitsd_export import export
from vitsd_export.web import WEB_MODEL, find_litert_js
from vitsd_export.web.litert_js import VERSION
from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.formats import read_spec, write_spec
from vitsd_runtime.serving.page import page_files

MODULE = (
    b'import { createWasmLib } from "@litertjs/wasm-utils";\nlet x;\n//# sourceMappingURL=i.map'
)


@pytest.fixture
def package(tmp_path):
    """A folder that looks like the npm package."""
    folder = tmp_path / "core"
    for place in ("dist", "wasm"):
        (folder / place).mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": VERSION}))
    (folder / "dist/index.js").write_bytes(MODULE)
    for build in ("", "_compat", "_threaded"):
        for ending in ("js", "wasm"):
            (folder / f"wasm/litert_wasm{build}_internal.{ending}").write_bytes(b"build")
    return folder


def packed(folder, prefix="package"):
    path = folder.with_suffix(".tgz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, prefix)
    return path


@pytest.mark.slow
def test_an_export_is_whole(trained, package, tmp_path, digits):
    options = {"output": tmp_path / "out", "litert_js": package}
    tflite, web = export(trained / "model.keras", ["tflite", "web"], "none", **options)
    folder = web.path
    assert folder.name == "digits-float32-web"
    assert web.comparison.passed
    assert web.spec.export.format == "tflite"

    model = Classifier.load(folder / WEB_MODEL, num_threads=1)
    assert model.engine.describe()["inputs"][0]["shape"][0] == 1  # not open
    expected = Classifier.load(tflite.path, num_threads=1).logits(digits.images[:20])
    assert (model.logits(digits.images[:20]) == expected).all()
    assert (folder / "spec.json").read_text() == read_spec(folder / WEB_MODEL).to_json()

    index = (folder / "index.html").read_text()
    assert index.index("Content-Security-Policy") < index.index("<script")
    assert "'wasm-unsafe-eval'" in index
    assert "'unsafe" not in index
    assert "@" not in (folder / "README.md").read_text().replace("@litertjs", "")

    worker = (folder / "service-worker.js").read_text()
    kept, builds = (
        json.loads(re.search(rf"{n} = (\{{.*?\}});", worker, re.DOTALL)[1])
        for n in ("FILES", "BUILDS")
    )
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    not_kept = {"index.html", "service-worker.js", "README.md", "litert/LICENSE"}
    assert {*kept, *builds} == files - not_kept | {"./"}
    assert len(builds) == 4
    pages = {f"page/{name}" for name in page_files()} - {"page/index.html"}
    assert pages < files

    with pytest.raises(UsageError, match="exists"):
        export(trained / "model.keras", "web", "none", **options)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_models_that_preprocess_are_exported_too(trained, package, tmp_path, digits):
    options = {"output": tmp_path, "litert_js": package, "embed_preprocessing": True}
    (web,) = export(trained / "model.keras", "web", "none", **options)
    model = Classifier.load(web.path / WEB_MODEL, num_threads=1)
    assert model.engine.input_dtype == np.uint8


def test_the_package_is_read_as_folder_and_archive(package):
    found = find_litert_js(package)
    assert find_litert_js(packed(package)) == found
    assert b'from "./wasm-utils.js"' in found.module
    assert b"sourceMappingURL" not in found.module
    assert found.module.startswith(b"// Changed by vitsd")
    assert sorted(found.builds) == [
        "litert_wasm_compat_internal.js",
        "litert_wasm_compat_internal.wasm",
        "litert_wasm_internal.js",
        "litert_wasm_internal.wasm",
    ]


def test_another_version_is_taken_with_a_warning(package, caplog):
    (package / "package.json").write_text('{"version": "9.0.0"}')
    assert find_litert_js(package).version == "9.0.0"
    assert VERSION in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dist/index.js", None, "has no dist/index.js"),
        ("dist/index.js", b'from "@litertjs/wasm-utils"; from "@litertjs/wasm-utils"', "imports"),
        ("package.json", b"{", "package.json is damaged"),
        ("package.json", b"[]", "package.json is damaged"),
        ("package.json", b"{}", "package.json is damaged"),
    ],
)
def test_what_is_not_the_package_is_refused(package, name, content, message):
    (package / name).unlink() if content is None else (package / name).write_bytes(content)
    for path in (package, packed(package)):
        with pytest.raises(VitsdError, match=message):
            find_litert_js(path)


def test_other_files_are_refused(package, tmp_path):
    with pytest.raises(UsageError, match="no @litertjs/core package"):
        find_litert_js(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"has no package\.json"):
        find_litert_js(packed(package, "elsewhere"))
    broken = tmp_path / "broken.tgz"
    for content in (b"", b"no archive", packed(package).read_bytes()[:100]):
        broken.write_bytes(content)
        with pytest.raises(VitsdError, match="no npm package"):
            find_litert_js(broken)


def test_a_download_must_be_the_pinned_one(package, monkeypatch):
    content = packed(package).read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(content))
    with pytest.raises(VitsdError, match="not used"):
        find_litert_js()


def test_without_network_the_way_out_is_told(monkeypatch):
    def fail(url, timeout):
        raise urllib.error.URLError("no route\x1b[31m to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(VitsdError, match="npm pack @litertjs/core") as caught:
        find_litert_js()
    assert "`litert_js`" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://mirror")
    with pytest.raises(UsageError, match="https"):
        find_litert_js()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "web", "--deploy", "device"], "--deploy"),
        (["--litert-js", "x.tgz"], "--litert-js"),
        (["--format", "web", "--target", "tflite-runtime-2.14"], "--target"),
        (["--format", "web", "--io", "int8", "--quantization", "int8"], "--io"),
        (["--format", "tflite,web", "--io", "int8", "--quantization", "int8"], "--io"),
        (["--format", "web", "--quantization", "int8-full"], "int8-full"),
        (["--format", "web", "--litert-js", "absent.tgz"], "absent.tgz"),
    ],
)
@pytest.mark.slow
def test_misuse_is_named_before_anything_is_exported(
    command_here, trained, tmp_path, arguments, message
):
    model = trained / "model.keras"
    output = tmp_path / "out"
    done = command_here("vitsd-export", model, "--output", output, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_models_of_more_than_8_bits_are_refused(trained, package, tmp_path):
    model = tmp_path / "model.keras"
    shutil.copyfile(trained / "model.keras", model)
    write_spec(model, read_spec(model).replace(value_range=(0, 4095)))
    with pytest.raises(UsageError, match="8 bits"):
        export(model, "web", "none", tmp_path / "out", "digits", litert_js=package)
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_refused(package):
    path = packed(package)
    content = path.read_bytes()
    for place in range(20, len(content) - 4, 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises((UsageError, VitsdError), match=r"core\.tgz"):
            find_litert_js(path)
