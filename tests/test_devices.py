import os

import pytest

from zoo import devices

RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe(folder, meminfo=None, limit=None, used=None):
    for name, text in (("meminfo", meminfo), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (folder / name).write_text(text)
    return devices.machine_bytes(folder / "meminfo", folder)


@pytest.mark.parametrize("text", [None, "", "MemTotal: 9 kB\n", "MemAvailable:\n", "MemAvailable: much kB\n"])
def test_half_the_memory_counts_where_the_system_does_not_tell(tmp_path, text):
    assert describe(tmp_path, text) == RAM // 2


def test_free_memory_by_hand(tmp_path):
    assert describe(tmp_path, "MemTotal: 900 kB\nMemAvailable:     300 kB\n") == 300 * 1024


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        ("max\n", "5\n", 300 * 1024),
        ("1000\n", None, 300 * 1024),
        ("1000\n", "400\n", 600),
        ("1000\n", "1400\n", 0),
        (str(2**40), "0", 300 * 1024),
    ],
)
def test_the_limit_of_a_container_counts_where_it_is_less(tmp_path, limit, used, free):
    assert describe(tmp_path, "MemAvailable: 300 kB\n", limit, used) == free


def test_the_limit_of_a_container_bounds_an_unknown_machine(tmp_path):
    assert describe(tmp_path, None, "1000", "400") == 600


def test_here_some_memory_is_free():
    assert 0 < devices.machine_bytes() < 2**50
