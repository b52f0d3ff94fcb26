"""Files for microcontrollers, in their real interpreter."""

import json
import re

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from vitsd_export import export
from vitsd_export.devices import micro, proof
from vitsd_export.devices.micro import run_micro
from vitsd_export.devices.proof import Limits, prove
from vitsd_export.formats.tflite_rewrites import rewrite
from vitsd_export.formats.tflite_schema import operation_name, parse_model, serialize_model
from vitsd_runtime import UsageError, VitsdError, preprocess, read_spec
from vitsd_runtime.engines import load_engine
from vitsd_runtime.spec import ExportInfo

package = pytest.importorskip("tflite_micro")
NO_LIMITS = Limits(arena=0, difference=np.inf)


@pytest.fixture(scope="module")
def plain(exported):
    return (exported / "digits-int8-full.tflite").read_bytes()


@pytest.fixture(scope="module")
def content(plain):
    return rewrite(plain, ["GELU"])


@pytest.fixture(scope="module")
def inputs(exported, digits):
    return preprocess(digits.images[:100], read_spec(exported / "digits-int8-full.tflite"))


@pytest.fixture(scope="module")
def run(content, inputs):
    return run_micro(content, inputs)


def fits(content, arena):
    try:
        package.runtime.Interpreter.from_bytes(content, arena_size=arena).invoke()
    except RuntimeError:
        return False
    return True


def test_it_answers_as_litert_does(run, content, inputs):
    logits = load_engine(content, "tflite").run(inputs)
    assert run.logits.shape == logits.shape
    assert np.mean(run.logits.argmax(1) == logits.argmax(1)) >= 0.99
    # The engines round halves differently, and differences add up from block to block.
    steps = np.abs(run.logits - logits) / run.step
    assert np.mean(steps) < 3
    assert re.match(r"tflite-micro \d", run.interpreter)


def test_every_kind_of_operation_is_that_of_litert(content):
    model = parse_model(content)
    (graph,) = model.subgraphs
    model.signatureDefs = model.metadata = None
    first_of_kind = {operation_name(model, step): step for step in reversed(graph.operators)}
    assert len(first_of_kind) >= 15
    for name, step in first_of_kind.items():
        differences = _differences(model, graph, step)
        # Of the products, about one in 700 lies in the middle between two integers.
        most = (1, 0.02) if name == "FULLY_CONNECTED" else (0, 0.0)
        assert (differences.max(), np.mean(differences > 0)) <= most, name


def _differences(model, graph, step):
    """Of the integers that an operation makes of random ones, alone in both interpreters."""
    ends = [int(i) for i in step.inputs if model.buffers[graph.tensors[i].buffer].data is None]
    graph.operators, graph.outputs = [step], step.outputs
    graph.inputs = np.array(list(dict.fromkeys(ends)), np.int32)
    content = serialize_model(model)
    theirs = package.runtime.Interpreter.from_bytes(content, arena_size=1 << 20)
    ours = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    ours.allocate_tensors()
    random = np.random.default_rng(0)
    for number, details in enumerate(ours.get_input_details()):
        low = -128 if details["dtype"] == np.int8 else 0  # indices are none below 0
        values = random.integers(low, 128, details["shape"]).astype(details["dtype"])
        ours.set_tensor(details["index"], values)
        theirs.set_input(values, number)
    ours.invoke()
    theirs.invoke()
    return np.concatenate(
        [
            np.abs(theirs.get_output(i).astype(int) - ours.get_tensor(details["index"])).ravel()
            for i, details in enumerate(ours.get_output_details())
        ]
    )


def test_the_arena_is_the_smallest_that_is_enough(run, content):
    assert fits(content, run.arena)
    assert not fits(content, run.arena - 16)


def test_what_it_can_not_run_is_said_in_one_line(plain, inputs):
    with pytest.raises(VitsdError, match="GELU") as caught:
        run_micro(plain, inputs[:1])
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_cut_off_ends_no_process_but_its_own(content, inputs):
    with pytest.raises(VitsdError, match="can't run the file"):
        run_micro(content[: len(content) // 2], inputs[:1])


@pytest.mark.parametrize(
    ("limits", "failure"),
    [
        (NO_LIMITS, None),
        (Limits(arena=10**9, difference=np.inf), None),
        (Limits(arena=20_000, difference=np.inf), r"arena of [\d,]+ bytes \(`arena` is 20,000\)"),
        (Limits(arena=0, difference=-1.0), "from LiteRT's"),
    ],
)
def test_what_is_beyond_the_limits_fails(content, inputs, run, limits, failure, monkeypatch):
    monkeypatch.setattr(proof, "run_micro", lambda *arguments: run)
    info = ExportInfo("tflite", "int8-full", "tflite-micro")
    logits = load_engine(content, "tflite").run(inputs)
    made = prove(content, info, inputs, logits, limits)
    assert len(made.failures) == (failure is not None)
    assert failure is None or re.search(failure, made.failures[0])
    assert made.logits is run.logits
    assert made.info.micro.arena == run.arena
    assert made.info.micro.images == len(inputs)


def test_without_the_interpreter_nothing_is_begun(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(micro, "import_optional", lambda name: None)
    with pytest.raises(VitsdError, match=r"pip install \"vitsd-export\[micro\]\""):
        export(trained / "model.keras", "tflite", "int8-full", tmp_path, target="tflite-micro")
    assert not any(tmp_path.iterdir())


def test_other_quantizations_are_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="takes `quantization` int8-full; got int8"):
        export(trained / "model.keras", "tflite", "int8", tmp_path, target="tflite-micro")


def test_export_measures_it_and_what_it_writes_shows_it(trained, exported, tmp_path, command_here):
    recipe = json.loads((exported / "digits-int8-full.tflite.recipe.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps({**recipe, "target": "tflite-micro"}))
    done = command_here(
        *("vitsd-export", trained / "model.keras", "--quantization", "int8-full"),
        *("--target", "tflite-micro", "--recipe", tmp_path / "r.json", "--output", tmp_path),
        *("--layout", "c"),
    )
    assert done.returncode == 0, done.stderr
    assert "digits-int8-full ran in tflite-micro" in done.stdout
    assert "http.server" not in done.stdout
    path = tmp_path / "digits-int8-full" / "digits-int8-full.tflite"
    figures = read_spec(path).export.micro
    assert f"an arena of {figures.arena:,} bytes" in done.stdout
    assert figures.images == 359
    header = path.with_name("model.h").read_text()
    assert f"#define VITSD_ARENA_BYTES {figures.arena}\n" in header
    shown = command_here("vitsd-inspect", path, "--compat").stdout
    assert f'"arena": {figures.arena}' in shown
    assert re.search(r"TensorFlow Lite Micro +yes", shown)
