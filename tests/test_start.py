"""What a command refuses, it refuses at once: before Keras takes seconds to start."""

import subprocess
import sys

import pytest

REFUSED = {
    "vitsd_export.cli.export": [
        ["vit-micro-cifar100", "--format", "foo"],
        ["vit-micro-cifar100", "--quantization", "int8", "--recipe", "none.json"],
        ["none"],
    ],
    "vitsd_export.cli.parity": [["none", "other", "--data", "digits"]],
    "vitsd.cli.evaluate": [["none", "--data", "digits"]],
    "vitsd.cli.explain": [["none", "image.png"]],
    "vitsd.cli.train": [["--preset", "none"], ["--preset", "tiny", "--pool-tokens-after", "9"]],
}


@pytest.mark.parametrize(
    ("module", "words"), [(module, words) for module, all in REFUSED.items() for words in all]
)
def test_misuse_is_refused_before_keras_starts(module, words, tmp_path):
    code = f"import sys; from {module} import main; print(main(sys.argv[1:]), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    status, *modules = done.stdout.split()
    assert (status, done.stderr.count("\n")) == ("2", 1), done.stderr
    assert not {"keras", "tensorflow"} & set(modules)
