"""Engines in processes: forked children, what is shared with others, and what is left behind.

Each test runs a program of its own, with a limit of time: what goes wrong here waits for ever.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "tests" / "runtime" / "data" / "schema1"
TFLITE, ONNX, SAVED_MODEL = "digits-float32.tflite", "digits.onnx", "digits_saved_model"
ENGINES = {
    TFLITE: ("ai_edge_litert", "tflite_runtime"),
    ONNX: ("onnxruntime",),
    SAVED_MODEL: ("tensorflow",),
}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")

START = """
import os, sys, threading, time
import numpy as np
from vitsd_runtime import Classifier, VitsdError

def load():
    return Classifier.load(sys.argv[1], num_threads=2, batch_size=4)

images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)

def in_child(work):
    pid = os.fork()
    if pid == 0:
        print(work(), flush=True)
        sys.exit(0)  # with all that Python does at the end
    return os.waitpid(pid, 0)[1]
"""


def run(model, program, cwd=None, path=None, stderr=None, **environment):
    engines = ENGINES[model]
    if not any(map(importlib.util.find_spec, engines)):
        pytest.skip(f"none of {', '.join(engines)} is installed")
    stderr = stderr or Path(os.devnull)
    with stderr.open("a") as errors:
        done = subprocess.run(
            [sys.executable, "-u", "-c", START + program, str(path or MODELS / model), str(stderr)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=120,
            cwd=cwd,
            env={**os.environ, **environment},
        )
    assert done.returncode == 0, done
    return done.stdout.splitlines()


BUSY = """
classifier = load()
expected = classifier.logits(images)
busy = True
def work():
    while busy:
        classifier.logits(images)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep(0.2)
"""
IDLE = """
busy = False
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_a_child_predicts_although_it_was_forked_while_others_predicted(model):
    program = "print(*[in_child(lambda: np.array_equal(classifier.logits(images), expected)) "
    program += "for _ in range(3)])"
    assert run(model, BUSY + program + IDLE) == ["True", "True", "True", "0 0 0"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_a_fork_that_python_is_not_told_of_is_noticed(model):
    """As uWSGI does it, while no other thread runs: it might hold the interpreter's own lock."""
    program = """
classifier = load()
expected = classifier.logits(images)
import ctypes
os.fork = ctypes.PyDLL(None).fork
print(in_child(lambda: os._exit(int(np.array_equal(classifier.logits(images), expected)))) >> 8)
"""
    assert run(model, program) == ["1"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_a_child_ends_although_it_was_given_a_model_that_it_never_used(model):
    program = "print(in_child(lambda: globals().pop('classifier') and 'dropped'))"
    assert run(model, BUSY + program + IDLE) == ["dropped", "0"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_several_threads_of_a_child_may_be_first_at_once(model):
    program = """
classifier = load()
expected = classifier.logits(images)
def work():
    answers = []
    def ask():
        answers.append(np.array_equal(classifier.logits(images), expected))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers == [True] * 8
print(in_child(work))
"""
    assert run(model, program) == ["True", "0"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_grandchildren_and_pools_predict(model):
    program = """
import multiprocessing
classifier = load()
expected = classifier.logits(images)
def right(_=None):
    return np.array_equal(classifier.logits(images), expected)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(right, range(4)))
print(in_child(lambda: (right(), in_child(right))))
"""
    assert run(model, program) == ["[True, True, True, True]", "True", "(True, 0)", "0"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
@pytest.mark.parametrize("change", ["replace", "rewrite", "remove"])
def test_a_child_does_not_open_another_file_than_was_checked(model, change, tmp_path):
    path = tmp_path / model
    shutil.copyfile(MODELS / model, path)
    program = f"""
change = {change!r}
classifier = load()
classifier.logits(images)
path = sys.argv[1]
if change == "remove":
    os.remove(path)
else:
    new = path + ".new" if change == "replace" else path
    with open(path, "rb") as file:
        content = file.read()
    with open(new, "wb") as file:
        file.write(content)
    os.replace(new, path)
def work():
    try:
        return classifier.logits(images).shape
    except VitsdError as error:
        return error
print(in_child(work))
"""
    message, status = run(model, program, path=path)
    assert message.startswith(str(path))
    assert "load it again" in message
    assert status == "0"


def test_the_current_folder_may_change_after_loading(tmp_path):
    shutil.copyfile(MODELS / TFLITE, tmp_path / "model.tflite")
    program = """
classifier = load()
os.chdir("/")
print(classifier.logits(images).shape)  # compiles for a batch only now
print(in_child(lambda: classifier.logits(images).shape))
"""
    assert run(TFLITE, program, cwd=tmp_path, path="model.tflite") == ["(6, 10)", "(6, 10)", "0"]


TRY = """
def work():
    try:
        return load().logits(images).shape
    except VitsdError as error:
        return error
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["load().logits(images)", "import keras; keras.ops.zeros(())"])
def test_a_child_of_a_process_that_started_tensorflow_is_told_so(start):
    message, status = run(SAVED_MODEL, f"{TRY}\n{start}\nprint(in_child(work))")
    assert "forked" in message
    assert "spawn" in message
    assert status == "0"


@pytest.mark.slow
def test_a_loaded_saved_model_is_no_use_to_a_child_and_says_so():
    program = f"{TRY}\nclassifier = load()\nload = lambda: classifier\nprint(in_child(work))"
    message, status = run(SAVED_MODEL, program)
    assert "after forking" in message
    assert status == "0"


@pytest.mark.slow
def test_a_child_may_start_tensorflow_itself():
    assert run(SAVED_MODEL, f"{TRY}\nimport tensorflow\nprint(in_child(work))") == ["(6, 10)", "0"]


@pytest.mark.parametrize("model", [TFLITE, ONNX])
def test_predicting_needs_no_writable_place_and_leaves_stderr_alone(model, tmp_path):
    program = """
import tempfile
touched = []
def refuse(*arguments, **options):
    touched.append(arguments)
    raise OSError(30, "Read-only file system")
tempfile.TemporaryFile = tempfile.NamedTemporaryFile = tempfile.mkstemp = refuse
os.dup2 = os.memfd_create = refuse
load().logits(images)
def write():
    for number in range(40):
        os.write(2, f"line {number}\\n".encode())
        time.sleep(0.002)
thread = threading.Thread(target=write)
thread.start()
while thread.is_alive():
    load().logits(images)
seen = open(sys.argv[2]).read().splitlines()
print(all(f"line {number}" in seen for number in range(40)), touched)
"""
    errors = tmp_path / "stderr"
    assert run(model, program, stderr=errors, TMPDIR="/nowhere") == ["True []"]


def test_onnxruntime_leaves_nothing_in_the_home_folder(tmp_path):
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "ORT_DISABLE_TELEMETRY": ""}
    program = "print(load().logits(images).shape)"
    remove = "os.environ.pop('ORT_DISABLE_TELEMETRY')\n"
    assert run(ONNX, remove + program, **environment) == ["(6, 10)"]
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_is_imported_in_one_place():
    """The environment is prepared there."""
    elsewhere = set()
    sources = [path for part in ("runtime", "vitsd", "export") for path in ROOT.glob(f"{part}/src")]
    for path in (*sources, ROOT / "benchmarks", ROOT / "tools", ROOT / "tests"):
        for file in path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if "onnxruntime" in names:
                    elsewhere.add(file.relative_to(ROOT).as_posix())
    # That one runs in MLServer's environment, where the runtime is not installed.
    assert elsewhere == {"tests/export/layouts/mlserver_onnx.py"}
