"""Pages lead somewhere: links and anchors, commands, configurations and code that they show."""

import re
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

from taming.cli.main import ALIASES, VERBS
from taming.cli.parser import Parser
from taming.cli.train import train
from taming.config import find_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|^\[\w+\]: (\S+)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]+src="https?:[^"]+"|<link[^>]+stylesheet[^>]+https?:'
)
SYNOPSIS = re.compile(r" \[(-|key=)|\.\.\.|\|")  # a line that says what may be there


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(text):
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(text):
    """Of the headings, as code hosts and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"\s+", "-", title) for title in words}


def commands(text):
    """The words of each `taming ...` in the code of a page."""
    for language, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language != "python" else ():
            line = line.strip().removeprefix("$ ").split("  #")[0]
            if re.match(r"taming \w|python main.py -", line) and not SYNOPSIS.search(line):
                yield shlex.split(line.removeprefix("python main.py").removeprefix("taming"))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    broken = []
    for inline, reference in LINK.findall(prose(path.read_text())):
        address, _, anchor = (inline or reference).partition("#")
        if "://" in address:
            continue
        target = (path.parent / address).resolve() if address else path
        if not target.exists():
            broken.append(address)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
            broken.append(f"{address}#{anchor}")
    assert broken == []


class Parsed(BaseException):
    pass


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_are_understood(path):
    parse = Parser.parse

    def stop(parser, words):
        arguments = parse(parser, words)
        for config in getattr(arguments, "base", None) or ():
            if "." not in config and config.islower():
                find_config(config)
        raise Parsed

    with mock.patch.object(Parser, "parse", stop):
        for words in commands(path.read_text()):
            verb = VERBS.get(ALIASES.get(words[0], words[0]))
            with pytest.raises(Parsed):
                train(words) if verb is None else verb(words[1:])


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_python_is_python(path):
    for language, block in FENCE.findall(path.read_text()):
        if language == "python":
            compile(block, name(path), "exec")


def python_of(path):
    return [block for language, block in FENCE.findall(path.read_text()) if language == "python"]


def test_a_part_of_ones_own_runs():
    for block in python_of(ROOT / "docs" / "extend.md"):
        exec(block, {})


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_lines_run(page, tmp_path):
    for block in python_of(ROOT / page):
        block = block.replace("docs/", f"{ROOT}/docs/").replace('"painted', f'"{tmp_path}/painted')
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="pip install -e '.[docs]'")
def test_the_site_is_built_without_a_warning(tmp_path):
    started = time.process_time()
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert time.process_time() - started < 60
    for page in tmp_path.rglob("*.html"):
        assert FETCHED.findall(page.read_text()) == []
