"""Models with convolutions, on microcontrollers and NPUs."""

import numpy as np
import pytest
from small_models import CONFIGS, make_quantizer

from vitsd_export.devices.ethos_u import ACCELERATORS, find_vela
from vitsd_export.devices.micro import run_micro
from vitsd_export.devices.proof import Limits, prove
from vitsd_export.formats.tflite_rewrites import rewrite
from vitsd_export.formats.tflite_schema import operation_versions
from vitsd_export.formats.tflite_targets import TARGETS, check_versions
from vitsd_export.quantization.ranges import MINMAX
from vitsd_export.quantization.recipe import LayerChoice
from vitsd_export.quantization.tflite import GROUP_METHODS
from vitsd_runtime.engines import load_engine
from vitsd_runtime.spec import ExportInfo


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that makes a file for a target; and images."""
    folder = tmp_path_factory.mktemp("convolutions")
    quantizer, images = make_quantizer(folder / "model", **CONFIGS["convolutions"])
    content = quantizer.build_integer(dict.fromkeys(GROUP_METHODS, LayerChoice("static", MINMAX)))

    def make(name):
        target = TARGETS[name]
        written = rewrite(content, target.rewritten)
        versions = operation_versions(written)
        assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= set(versions)
        check_versions(versions, target)
        return written

    return make, images


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_knows_them(made, name):
    make, images = made
    expected = load_engine(make("litert"), "tflite").run(images)
    np.testing.assert_array_equal(load_engine(make(name), "tflite").run(images), expected)


def test_a_microcontroller_answers_as_litert_does(made):
    pytest.importorskip("tflite_micro")
    make, images = made
    run = run_micro(make("tflite-micro"), images)
    expected = load_engine(make("litert"), "tflite").run(images)
    assert np.abs(run.logits - expected).max() <= 6 * run.step


@pytest.mark.skipif(find_vela() is None, reason="Vela is not installed")
@pytest.mark.parametrize("name", ACCELERATORS)
def test_an_npu_takes_all_of_them(made, name):
    make, images = made
    logits = np.zeros((len(images), 3), np.float32)
    proof = prove(make(name), ExportInfo("tflite", "int8-full", name), images, logits, Limits(0, 1))
    assert proof.failures == ()
    assert proof.info.npu.cpu_operators == 0
