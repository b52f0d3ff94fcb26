"""Pictures: names are drawn as they are."""

import numpy as np
import pytest
from PIL import Image

from vitsd.plots import plot_confusion


@pytest.mark.parametrize("name", ["$_$", "a $ b", "$\\frac$", "c%d", "\\$"])
def test_names_are_no_formulas(tmp_path, name):
    plot_confusion(np.eye(2, dtype=int), (name, "cat"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
