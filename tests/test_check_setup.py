"""The last step of setup.sh: does the environment work?"""

import pytest

from roofkit import check_setup


def test_this_environment_works(capsys):
    assert check_setup.main() == 0
    assert "Set-up is complete" in capsys.readouterr().out


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(check_setup, "NEEDED", ("no_such_package",))
    assert check_setup.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: .venv: No module named 'no_such_package'; expected a working environment.")
    assert error.count("\n") == 1


def test_other_pixels_are_noticed(monkeypatch):
    monkeypatch.setattr("numpy.array_equal", lambda *_: False)
    with pytest.raises(ValueError, match="other pixels"):
        check_setup.check_raster()
