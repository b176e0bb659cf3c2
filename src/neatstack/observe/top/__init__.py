"""The live view of `neat top`: a Textual application over a Feed."""

from neatstack.observe.top.app import Top

__all__ = ["Top"]
