"""The data plane: Python compiled to C. It is never run uncompiled, where integers would not wrap."""

from importlib.util import find_spec

if not (getattr(find_spec("neatstack.dataplane.stack"), "origin", None) or "").endswith(".so"):
    raise ImportError("neatstack.dataplane is not compiled: run `pip install .`, or `python setup.py build_ext -i`")
