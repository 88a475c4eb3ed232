"""Memory between steps."""

import platform

from transip.memory import keep_freed_memory


def test_glibc_accepts_how_memory_is_to_be_kept():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
