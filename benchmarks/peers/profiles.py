"""Where the time of a file goes, by kinds of operations.

onnxruntime tells the time of each operation. LiteRT doesn't: there each different operation of the
file is run in a file of its own, and what the whole takes beyond the sum is named ``not explained``
(less than nothing where XNNPACK runs several together faster than one by one).
"""

from __future__ import annotations

import collections
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.race import SubjectError
from vitsd_runtime.engines.onnx import import_onnxruntime

GROUPS = {
    "products with weights": ("FULLY_CONNECTED", "CONV_2D", "Gemm", "Conv", "MatMulInteger"),
    "attention's products": ("BATCH_MATMUL",),
    "softmax": ("SOFTMAX",),
    "GELU": ("GELU", "ERF", "TANH"),
    "norms": ("RSQRT", "SQUARED_DIFFERENCE", "MEAN", "LAYERNORM", "REDUCEMEAN", "SUM"),
    "conversions": ("QUANTIZE", "DEQUANTIZE", "CAST"),
    "layout": ("TRANSPOSE", "RESHAPE", "CONCAT", "PAD", "SLICE", "SPACE_TO_DEPTH", "GATHER"),
}
"""Parts of the operations' names, in capitals; the first group that fits counts."""
OTHER = "elementwise and other"
REST = "not explained"
_RUNS = 50
_SECONDS = 0.05
Profile = dict[str, float]
"""Milliseconds a run by group."""


def profile(path: Path, images: Any) -> Profile:
    """Milliseconds of one run by group, on one thread.

    Args:
        path: a ``.tflite`` or ``.onnx`` file.
        images: a preprocessed batch.
    """
    spent = _profile_onnx(path, images) if path.suffix == ".onnx" else _profile_tflite(path, images)
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def group_of(operation: str, product_of_activations: bool = False) -> str:
    """The group of an operation.

    Args:
        operation: its name in TFLite or ONNX.
        product_of_activations: that it multiplies two tensors of which none is a weight.
    """
    name = operation.upper()
    if product_of_activations:
        return "attention's products"
    if "MATMUL" in name and name != "BATCH_MATMUL":
        return "products with weights"
    for group, parts in GROUPS.items():
        if any(part.upper() in name for part in parts):
            return group
    return OTHER


def _profile_onnx(path: Path, images: Any) -> Profile:
    onnxruntime = import_onnxruntime()
    import onnx

    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {output for node in graph.node if not node.input for output in node.output}
    products = {
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and not any(name in constants for name in node.input)
    }
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(_RUNS):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: Profile = collections.defaultdict(float)
    for event in events:
        node, ending = event["name"].rsplit("_", 2)[0], "kernel_time"
        if event["cat"] == "Node" and event["name"].endswith(ending):
            group = group_of(event["args"]["op_name"], node in products)
            spent[group] += event["dur"] / 1e3 / _RUNS
    return spent


def _profile_tflite(path: Path, images: Any) -> Profile:
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    whole = _best(_runner(content, images.shape))
    calls: list[tuple[str, Any]] = []
    known: dict[Any, float] = {}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = _operation(schema, max(code.builtinCode, code.deprecatedBuiltinCode))
        key = (name, *(_kind(graph, index) for index in (*operator.inputs, *operator.outputs)))
        if key not in known:
            known[key] = _alone(schema, model, operator, len(images))
        calls.append((group_of(name), key))
    starting = min(filter(None, known.values()))  # what each run costs, whatever it does
    spent: Profile = collections.defaultdict(float)
    for group, key in calls:
        spent[group] += max(0.0, known[key] - starting)
    spent[REST] = whole - sum(spent.values())
    return spent


def _operation(schema: Any, number: int) -> str:
    names = {value: key for key, value in vars(schema.BuiltinOperator).items()}
    return str(names[number])


def _kind(graph: Any, index: int) -> tuple[Any, ...]:
    if index < 0:
        return ()
    tensor = graph.tensors[index]
    return (tuple(tensor.shape if tensor.shape is not None else ()), tensor.type)


def _alone(schema: Any, model: Any, operator: Any, batch: int) -> float:
    """Milliseconds of one operation in a file of its own; 0 if it can't be run alone."""
    import flatbuffers

    graph = copy.copy(model.subgraphs[0])
    constant = {
        index
        for index, tensor in enumerate(graph.tensors)
        if (data := model.buffers[tensor.buffer].data) is not None and len(data)
    }
    used = set(operator.inputs) | set(operator.outputs)
    graph.operators = [operator]
    graph.inputs = [index for index in operator.inputs if index >= 0 and index not in constant]
    graph.outputs = list(operator.outputs)
    single = copy.copy(model)
    single.subgraphs, single.signatureDefs, single.metadata = [graph], [], []
    empty = schema.BufferT()
    kept = {graph.tensors[index].buffer for index in used if index >= 0}
    single.buffers = [b if number in kept else empty for number, b in enumerate(model.buffers)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(single.Pack(builder), b"TFL3")
    try:
        return _best(_runner(bytes(builder.Output()), None))
    except (ValueError, RuntimeError):
        return 0.0


def _runner(content: bytes, shape: Any) -> Callable[[], None]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    if shape is not None:
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    interpreter.allocate_tensors()
    run: Callable[[], None] = interpreter.invoke
    return run


def _best(run: Callable[[], None]) -> float:
    """Milliseconds of a run: the median, of at least three."""
    run()
    times: list[float] = []
    deadline = time.perf_counter() + _SECONDS
    while time.perf_counter() < deadline or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def main() -> None:
    """Profile the file named on the command line, on the first image of a ``.npy`` file."""
    path, images = Path(sys.argv[1]), np.load(sys.argv[2], mmap_mode="r")
    print(json.dumps(profile(path, np.ascontiguousarray(images[:1]))))


def profile_apart(path: Path, images: Path) -> Profile:
    """:func:`profile` in a process of its own, on one image."""
    import subprocess

    command = [sys.executable, "-m", "benchmarks.peers.profiles", str(path), str(images)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SubjectError(done.stderr.strip().splitlines()[-1])
    found: Profile = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
