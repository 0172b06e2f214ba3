"""Warnings of a case are collected, whatever Python has shown before."""

import doctest
import warnings

import pytest

from zoo import errors
from zoo.volumes.header import GeometryWarning


def test_the_examples_of_the_module():
    assert doctest.testmod(errors).failed == 0


def warn(text="sides in doubt", kind=GeometryWarning):
    warnings.warn(text, kind, stacklevel=1)


@pytest.mark.parametrize("action", ["default", "once", "ignore", "error"])
def test_every_case_has_its_warning_once(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for _ in range(3):
            with errors.collect_warnings() as collected:
                warn()
                warn()
                warn("units converted")
            assert [str(warning) for warning in collected] == ["sides in doubt", "units converted"]
            assert {type(warning) for warning in collected} == {GeometryWarning}


def test_warnings_of_others_pass_and_are_not_collected():
    with warnings.catch_warnings(record=True) as passed:
        warnings.simplefilter("always")
        with errors.collect_warnings() as collected:
            warn("old call", DeprecationWarning)
            warn("odd structure", UserWarning)
            warn()
    assert [str(warning) for warning in collected] == ["sides in doubt"]
    assert [str(warning.message) for warning in passed] == ["old call", "odd structure"]
    with pytest.raises(DeprecationWarning, match="old call"), errors.collect_warnings():
        warn("old call", DeprecationWarning)


def test_a_plain_warning_from_the_code_of_the_package_is_its_own():
    with errors.collect_warnings() as collected:
        warnings.warn_explicit("plain", UserWarning, errors.__file__, 1)
    assert [str(warning) for warning in collected] == ["plain"]


def test_own_warnings_are_one_line_on_stderr_and_those_of_others_are_left_to_python(capsys):
    with warnings.catch_warnings(record=True) as passed:
        warnings.simplefilter("always")
        with errors.warnings_in_lines():
            warn("sides\n  in doubt")
            warn("odd structure", RuntimeWarning)
        warn("after")
    assert capsys.readouterr().err == "zoo: warning: sides in doubt\n"
    assert [str(warning.message) for warning in passed] == ["odd structure", "after"]


def test_the_warnings_of_a_failure_are_kept_and_the_inner_context_has_them():
    with errors.collect_warnings() as outer:
        with pytest.raises(ValueError, match="broken"), errors.collect_warnings() as inner:
            warn()
            raise ValueError("broken")
        warn("after")
    assert [str(warning) for warning in inner] == ["sides in doubt"]
    assert [str(warning) for warning in outer] == ["after"]
