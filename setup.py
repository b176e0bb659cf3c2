"""What is compiled: every module of neatstack.dataplane, from Python to C.

NEAT_BUILD=release|debug|asan chooses the flags.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

BUILD = os.environ.get("NEAT_BUILD", "release")
FLAGS = {
    "release": ["-O3", "-fno-strict-aliasing", "-Wno-unused-function"],
    "debug": ["-O1", "-g", "-fno-strict-aliasing", "-DNEAT_CHECKS"],
    "asan": ["-O1", "-g", "-fno-strict-aliasing", "-DNEAT_CHECKS", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
}[BUILD]
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "warn.maybe_uninitialized": True,
}


def modules() -> list[Extension]:
    files = sorted(p for p in Path("src/neatstack/dataplane").rglob("*.py") if p.name != "__init__.py")
    return [
        Extension(
            ".".join(p.relative_to("src").with_suffix("").parts),
            [str(p)],
            include_dirs=["src"],
            extra_compile_args=FLAGS,
            extra_link_args=["-fsanitize=address,undefined"] if BUILD == "asan" else [],
        )
        for p in files
    ]


setup(
    package_dir={"": "src"},
    ext_modules=cythonize(
        modules(), compiler_directives=DIRECTIVES, include_path=["src"], build_dir="build/cython", emit_linenums=True
    ),
)
