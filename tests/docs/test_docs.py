"""What the documentation names exists: links, commands, options, make targets."""

import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *(ROOT / name / "README.md" for name in ("runtime", "vitsd", "export")),
    ]
)
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it names what was renamed
COMMANDS = {
    "vitsd-train": "vitsd.cli.train",
    "vitsd-data": "vitsd.cli.data",
    "vitsd-evaluate": "vitsd.cli.evaluate",
    "vitsd-explain": "vitsd.cli.explain",
    "vitsd-export": "vitsd_export.cli.export",
    "vitsd-parity": "vitsd_export.cli.parity",
    "vitsd-import": "vitsd_export.cli.import_",
    "vitsd-predict": "vitsd_runtime.cli.predict",
    "vitsd-serve": "vitsd_runtime.cli.serve",
    "vitsd-bench": "vitsd_runtime.cli.bench",
    "vitsd-inspect": "vitsd_runtime.cli.inspect",
    "vitsd-verify": "vitsd_runtime.cli.verify",
    "vitsd-release": "vitsd_runtime.cli.release",
    "vitsd-agent": "vitsd_runtime.cli.agent",
}
OTHERS = {
    "--system",
    "--home-dir",
    "--shell",
    "--now",
    "--system-site-packages",
    "--only",
    "--user",
}
"""Options of other programs."""
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def options(command: str) -> frozenset[str]:
    help_text = import_module(COMMANDS[command]).build_parser().format_help()
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", help_text)) | {"--version"}


def snippets(text: str) -> list[str]:
    """Command lines and inline code."""
    blocks = [match[3] for match in FENCE.finditer(text) if match[2] in ("", "sh", "python")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]
    return [*lines, *inline]


def words(snippet: str) -> list[str]:
    try:
        return shlex.split(snippet, comments=True)
    except ValueError:  # prose or code with an apostrophe
        return snippet.split()


def anchors(page: Path) -> set[str]:
    """Of headings, as code forges and the site's generator make them; and explicit ones."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain} | set(
        re.findall(r"^\(([\w-]+)\)=$", text, re.M)
    )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):  # another host
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("distribution", ["runtime", "vitsd", "export"])
def test_what_a_package_index_shows_links_to_no_file(distribution):
    links = LINK.findall((ROOT / distribution / "README.md").read_text(encoding="utf-8"))
    assert all(link.startswith("https://") for link in links)


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_commands_know_the_options_that_are_named(page):
    for snippet in snippets(page.read_text(encoding="utf-8")):
        command = None
        for word in words(snippet):
            if Path(word).name in COMMANDS:
                command = Path(word).name
            elif word in ("&&", "|", ";"):
                command = None
            elif command and word.startswith("--"):
                option = word.partition("=")[0].rstrip(",.")
                assert option in options(command), f"{command} has no {option}: {snippet}"


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_options_that_stand_alone_belong_to_a_command(page):
    known = frozenset().union(*map(options, COMMANDS)) | OTHERS
    for snippet in snippets(page.read_text(encoding="utf-8")):
        if snippet.startswith("--"):
            option = words(snippet)[0].partition("=")[0]
            assert option in known, snippet


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_is_invented(page):
    named = re.findall(r"(?<![\w./@-])vitsd-[a-z]+", page.read_text(encoding="utf-8"))
    assert set(named) <= {*COMMANDS, "vitsd-runtime", "vitsd-export", "vitsd-watch", "vitsd-camera"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.M))
    for snippet in snippets(page.read_text(encoding="utf-8")):
        if found := re.match(r"make ([a-z][a-z0-9-]*)", snippet):
            assert found[1] in targets, snippet


def test_every_command_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for command, module in COMMANDS.items():
        assert f"## {command}\n\n```{{command-help}} {module}\n" in page


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_python_names_exist(page):
    dotted = re.compile(r"(?:vitsd|vitsd_runtime|vitsd_export)(?:\.[A-Za-z]\w*)+")
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for code in INLINE.findall(text):
        found = dotted.match(code)
        if found and found[0] != "vitsd.json":  # a file in archives
            resolve(found[0])


def resolve(dotted: str) -> object:
    """The object of that name; raises ImportError or AttributeError if there is none."""
    package, *rest = dotted.split(".")
    found, place = import_module(package), package
    for part in rest:
        place = f"{place}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(place)
    return found


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_source_files_exist(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for code in INLINE.findall(text):
        inside = re.match(
            r"(runtime|vitsd|export|tests|benchmarks|tools|docs|examples)/[\w./]*$", code
        )
        if inside and "NAME" not in code and ".md" not in code:
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("package", ["vitsd_runtime", "vitsd", "vitsd_export"])
def test_every_public_name_is_in_the_reference(package):
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for public in import_module(package).__all__:
        if not public.startswith("_"):
            assert re.search(rf":: {package}\.{public}$", text, re.M), public
