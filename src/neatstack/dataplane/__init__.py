"""The data plane: Python compiled to C. It is never run uncompiled, where integers would not wrap."""

import _imp
import os

# importlib.util would say where the module comes from, but a replica starts in half the time without it.
if not any(os.path.exists(f"{__path__[0]}/stack{suffix}") for suffix in _imp.extension_suffixes()):
    raise ImportError("neatstack.dataplane is not compiled: run `pip install .`, or `python setup.py build_ext -i`")
