"""Images for windows: no default PATH, another shell, backslashes (T11)."""

from __future__ import annotations

from support.lowering import lowered

from cache.spec.oci import Platform

TEXT = "FROM scratch AS a\nWORKDIR /foo\nFROM a\nWORKDIR bar\nCMD dir\n"


def test_windows_has_defaults_of_its_own():
    """The same file gives each operating system its PATH, shell and separators (T11)."""
    linux = lowered(TEXT, platform=Platform.parse("linux/amd64")).config
    windows = lowered(TEXT, platform=Platform.parse("windows/amd64")).config
    assert linux.cmd == ("/bin/sh", "-c", "dir")
    assert dict(linux.env)["PATH"].startswith("/usr/local/sbin")
    assert linux.working_dir == "/foo/bar"
    assert windows.cmd == ("cmd", "/S", "/C", "dir")
    assert windows.env == ()
    assert windows.working_dir == "\\foo\\bar"
