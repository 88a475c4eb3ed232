"""Memory between steps."""

import platform

from transip.memory import tune_malloc


def test_glibc_accepts_how_memory_is_to_be_kept():
    assert tune_malloc() == (platform.libc_ver()[0] == "glibc")
