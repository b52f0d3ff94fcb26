"""The page is whole, and its files keep to the policy that it is served with."""

import re

import pytest

from vitsd_runtime.serving.page import CSP, INDEX, POLICY, page_file, page_files


def test_all_that_it_refers_to_is_there():
    index = page_files()[INDEX].decode()
    referred = set(re.findall(r'(?:src|href)="page/([^"]+)"', index))
    for name, content in page_files().items():
        if name.endswith(".js"):
            referred |= set(re.findall(r'from "\./([^"]+)"', content.decode()))
    assert referred | {INDEX} == set(page_files())


def test_parts_that_scripts_ask_for_are_there():
    ids = set(re.findall(r'\bid="([^"]+)"', page_files()[INDEX].decode()))
    for name, content in page_files().items():
        if name.endswith(".js"):
            assert set(re.findall(r'part\("([^"]+)"\)', content.decode())) <= ids


def test_nothing_in_it_needs_a_weaker_policy():
    index = page_files()[INDEX].decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! type=)", index)
    everything = b"".join(page_files().values()).decode()
    assert set(re.findall(r"https?://[^\"' ]+", everything)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in everything
    assert POLICY["default-src"] == "'none'"
    assert "unsafe" not in CSP
    assert "frame-ancestors 'none'" in CSP


def test_files_have_their_types():
    content, kind = page_file(INDEX)
    assert content.startswith(b"<!doctype html>")
    assert kind == "text/html; charset=utf-8"
    assert page_file("app.js")[1] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("name", ["", ".", "..", "../page.py", "/etc/passwd", "APP.JS", "page.py"])
def test_no_other_files_are_given(name):
    assert page_file(name) is None
