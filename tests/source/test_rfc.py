"""docs/rfc.md is what catalogues and markers say, and no MUST is without its function and test."""

import pytest

from tools import rfc

CATALOGUE = """
title = "Of tests"
[[requirement]]
id = "MUST-1"
section = "3.1"
level = "MUST"
text = "do it"
"""
DONE = [rfc.Marker("1:MUST-1", "a.py: f", "a.py:1")]
TESTED = [rfc.Marker("1:MUST-1", "test_a.py: test_f", "test_a.py:1")]


def catalogue(tmp_path, text=CATALOGUE):
    path = tmp_path / "1.toml"
    path.write_text(text)
    return [rfc.read_catalogue(path)]


def test_no_must_is_untested_and_no_marker_is_wrong():
    assert rfc.generate(rfc.ROOT)[1] == []


def test_the_document_is_up_to_date():
    assert (rfc.ROOT / "docs/rfc.md").read_text() == rfc.generate(rfc.ROOT)[0], "run `make docs`"


def test_a_must_needs_function_and_test(tmp_path):
    assert rfc.join(catalogue(tmp_path), DONE, TESTED) == []
    assert rfc.join(catalogue(tmp_path), DONE, []) == ["1:MUST-1: no test is marked"]
    assert rfc.join(catalogue(tmp_path), [], TESTED) == ["1:MUST-1: no function is marked"]


@pytest.mark.parametrize("status", ["not", "n/a"])
def test_a_status_with_a_reason_excuses(tmp_path, status):
    listed = catalogue(tmp_path, CATALOGUE + f'status = "{status}"\nreason = "so"\n')
    assert rfc.join(listed, [], []) == []
    assert rfc.join(listed, DONE, TESTED) == ["1:MUST-1: is marked by now; take its status away"]


def test_what_is_done_in_part_has_a_test(tmp_path):
    text = CATALOGUE + 'status = "partly"\nreason = "so"\n'
    assert rfc.join(catalogue(tmp_path, text), [], TESTED) == []
    assert rfc.join(catalogue(tmp_path, text), [], []) == ["1:MUST-1: no test is marked for what is done of it"]


@pytest.mark.parametrize(
    "more", ['status = "not"', 'status = "unmarked"\nreason = "so"', 'color = "red"', CATALOGUE.split("\n", 2)[2]]
)
def test_a_doctored_catalogue_fails(tmp_path, more):
    with pytest.raises(ValueError):
        catalogue(tmp_path, CATALOGUE + more)


def test_the_document_says_what_a_catalogue_rests_on(tmp_path):
    assert "- 1: written from knowledge" in rfc.document(catalogue(tmp_path), "")
    whole = rfc.document(catalogue(tmp_path, 'compared = "whole"' + CATALOGUE), "")
    assert "- 1: compared with the whole text" in whole and "knowledge" not in whole
    with pytest.raises(ValueError):
        catalogue(tmp_path, 'compared = "yes"' + CATALOGUE)


def test_unknown_requirements_and_markers_on_nothing_fail(tmp_path):
    strange = [rfc.Marker("1:MUST-2", "a.py: f", "a.py:1"), rfc.Marker("1:MUST-1", "", "a.py:2")]
    wrong = rfc.join(catalogue(tmp_path), DONE + strange, TESTED)
    assert wrong == ["a.py:1: no requirement 1:MUST-2", "a.py:2: the marker stands at no function"]


def test_places_of_markers_in_code():
    text = "# rfc: 1:A B, 2:3.1a\n@deco\ndef f():\n    # rfc: 1:C\n    pass\n\n# rfc: 1:D\nx = 1\n"
    found = [(m.requirement, m.place) for m in rfc.code_markers(text, "a.py")]
    assert found == [("1:A", "a.py: f"), ("1:B", "a.py: f"), ("2:3.1a", "a.py: f"), ("1:C", "a.py: f"), ("1:D", "")]


def test_places_of_markers_in_declarations():
    text = "# rfc: 1:A\ncdef inline bint before(uint32_t a) noexcept nogil:\n# rfc: 1:B\n\n"
    assert [m.place for m in rfc.declaration_markers(text, "a.pxd")] == ["a.pxd: before", ""]


def test_places_of_markers_of_tests():
    text = '@pytest.mark.rfc("1:A", "1:B")\ndef test_f(): ...\n@pytest.mark.rfc("1:C")\ndef helper(): ...\n'
    assert [m.place for m in rfc.test_markers(text, "t.py")] == ["t.py: test_f", "t.py: test_f", ""]
