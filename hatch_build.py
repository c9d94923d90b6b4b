"""Compile the C sources that stand beside their Python twins, where a C compiler is.

Shared libraries without Python's headers, loaded by `cache.native`: one fits every Python. Without
a compiler nothing is compiled and the twins do the work. `python hatch_build.py` compiles in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("builder", "frontend", "cache")
_FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
_HARDENED = ("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now")


def compile_all(root: Path) -> list[Path]:
    """Compile every source below `root`'s packages; the libraries, none without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return []
    sources = [source for name in PACKAGES for source in sorted((root / name).rglob("*.c"))]
    made = [_compiled(compiler, source) for source in sources]
    return [library for library in made if library is not None]


def _compiled(compiler: str, source: Path) -> Path | None:
    library = source.with_suffix(".so")
    unfinished = source.with_suffix(f".so.{os.getpid()}")
    command = [*compiler.split(), *_FLAGS, *_HARDENED, "-o", str(unfinished), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        why = f"{source.name} is not compiled, Python does its work: {done.stderr}"
        sys.stderr.write(why)
        unfinished.unlink(missing_ok=True)
        library.unlink(missing_ok=True)  # an older one would not fit
        return None
    unfinished.replace(library)
    return library


if __name__ == "__main__":
    for path in compile_all(Path(__file__).resolve().parent):
        print(path)  # noqa: T201 - what was made is what it says
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class NativeHook(BuildHookInterface):  # type: ignore[type-arg,misc] # hatchling is not installed for checkers
        """Puts the libraries into a wheel, or beside their sources for an editable one."""

        def initialize(self, version: str, build_data: dict[str, object]) -> None:
            """Compile; a wheel with libraries is one for this machine."""
            del version
            root = Path(self.root)
            libraries = compile_all(root)
            if libraries and self.target_name == "wheel":
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-linux_{os.uname().machine}"
                build_data["artifacts"] = [str(path.relative_to(root)) for path in libraries]
