"""vitsd-serve: what its words mean; it is served in tests/runtime/serving."""

import builtins
import os

import pytest

from vitsd_runtime.serving.settings import Settings


@pytest.fixture
def run(command_here, monkeypatch, tmp_path):
    """The command without its server; also what that would have been told."""
    server = pytest.importorskip("vitsd_runtime.serving.server")
    told = []
    monkeypatch.setattr(
        server, "serve", lambda sources, settings, _: told.append((sources, settings))
    )
    monkeypatch.delenv("VITSD_TOKEN", raising=False)

    def run(*words):
        told.clear()
        done = command_here("vitsd-serve", "--port", 0, *words, cwd=tmp_path)
        done.told = told[0] if told else None
        return done

    return run


def test_without_a_model_the_bundled_one_is_served(run):
    sources, settings = run().told
    assert [source.name for source in sources] == ["vit-edge-cifar100"]
    assert settings == Settings(port=0)


def test_help_shows_defaults_as_they_are_typed(run):
    shown = " ".join(run("--help").stdout.split())
    for default in ("8000", "50000000", "30", "measured", "the model's own"):
        assert f"(default: {default})" in shown


def test_options_reach_the_server(run):
    words = "a=x.tflite b@2=y.onnx --queue-size 9 --max-images 3 --max-body 5 --max-pixels 1000"
    more = "--timeout 2.5 --workers 2 --num-threads 1 --min-confidence 0.5 --batch-size 4"
    flags = "--max-connections 7 --access-log --no-verify --allow-any-operation --host ::1"
    sources, settings = run(*f"{words} {more} {flags}".split()).told
    assert [(s.name, s.version, str(s.path)) for s in sources] == [
        ("a", None, "x.tflite"),
        ("b", "2", "y.onnx"),
    ]
    assert settings == Settings(
        host="::1",
        port=0,
        batch_size=4,
        queue_size=9,
        max_images=3,
        max_body=5,
        max_pixels=1000,
        max_connections=7,
        timeout=2.5,
        workers=2,
        num_threads=1,
        min_confidence=0.5,
        verify=False,
        allow_any_operation=True,
        access_log=True,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--queue-size 0", "from 1 to 100,000"),
        ("--max-images 65", "--max-images 65 can't be more than --queue-size 64"),
        ("--timeout 0", "in (0, 3600]"),
        ("--min-confidence 1", "in [0, 1)"),
        ("--workers many", "whole number"),
        ("--host no.such.host.invalid", "Can't listen at no.such.host.invalid, port 0"),
        ("--host 192.0.2.1", "Can't listen at 192.0.2.1"),
        ("a/b=c.tflite", "can't be a model's name"),
        ("--token-file missing", "missing can't be read: No such file"),
        ("--token-file .", "can't be read"),
        ("--token-file short", "must hold a token of 16 to 4,096"),
        ("--token-file binary", "can't be read"),
        ("--token-file lines", "must hold a token"),
    ],
)
def test_misuse_is_said_in_a_line(run, tmp_path, words, said):
    (tmp_path / "short").write_text("secret\n")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    (tmp_path / "lines").write_text("a-token-of-some-length\nand another\n")
    done = run(*words.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("vitsd-serve: error:")
    assert done.told is None


def test_the_token_comes_from_a_file_or_the_environment(run, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    assert run("--token-file", "token").told[1].token == "a-token-of-some-length"
    monkeypatch.setitem(os.environ, "VITSD_TOKEN", "another-token-of-some-length")
    assert run().told[1].token == "another-token-of-some-length"
    assert run("--token-file", "token").told[1].token == "a-token-of-some-length"
    monkeypatch.setitem(os.environ, "VITSD_TOKEN", "")  # an empty variable is no wish for none
    done = run()
    assert done.returncode == 2
    assert "VITSD_TOKEN must hold a token" in done.stderr


def test_what_is_missing_is_named(run, monkeypatch):
    import_ = builtins.__import__

    def without(name, *rest):
        if name.startswith("vitsd_runtime.serving.models"):
            raise ModuleNotFoundError("No module named 'starlette'")
        return import_(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    done = run()
    assert done.returncode == 1
    assert "pip install \"vitsd-runtime[serve]\" (No module named 'starlette')" in done.stderr
