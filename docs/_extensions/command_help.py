"""A directive that shows a command's ``--help``, so that the reference can't go stale.

``.. command-help:: vitsd.cli.train`` prints what ``build_parser()`` of that module says.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_COLUMNS = "90"


class CommandHelp(SphinxDirective):
    """The help text of the parser that a module's ``build_parser`` makes."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """One literal block."""
        os.environ["COLUMNS"] = _COLUMNS  # argparse asks the terminal
        module = import_module(self.arguments[0])
        self.env.note_dependency(str(module.__file__))
        text = module.build_parser().format_help()
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
