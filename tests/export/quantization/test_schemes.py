"""The table of quantizations is whole, and consistent with itself."""

import pytest

from vitsd_export.formats.tflite_targets import TARGET_NAMES, TARGETS
from vitsd_export.quantization.schemes import (
    EXPORT_FORMATS,
    PRECISIONS,
    SCHEMES,
    SEARCHED,
    quantizations_of,
)
from vitsd_runtime.types import FORMATS, QUANTIZATIONS


def test_the_table_has_every_quantization_that_a_spec_may_name():
    assert tuple(SCHEMES) == QUANTIZATIONS
    assert {*EXPORT_FORMATS, "keras"} == set(FORMATS)
    assert set(TARGET_NAMES) == set(TARGETS)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_a_row_fits_together(scheme):
    assert scheme.ladders.keys() <= set(EXPORT_FORMATS)
    assert scheme.help
    for ladder in scheme.ladders.values():
        assert bool(ladder) == scheme.searched
        # From the coarsest precision to the most exact.
        assert [PRECISIONS.index(precision) for precision in ladder] == sorted(
            PRECISIONS.index(precision) for precision in ladder
        )
        if scheme.searched and not scheme.integer_only:
            assert ladder[-1] == "float"
    if scheme.searched:  # the gate, on other images, asks less than the search
        assert scheme.agreement > scheme.tolerance.agreement
        assert scheme.needs_calibration or scheme.name == "dynamic"


def test_what_formats_take():
    assert quantizations_of("saved_model") == ("none",)
    assert quantizations_of("onnx") == ("none", "dynamic", "int8")
    assert quantizations_of("tflite") == QUANTIZATIONS
    assert SEARCHED == ("dynamic", "int8", "int8-full", "int4")
