"""What comes over the screen: the question before a kill, and the help."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from neatstack.observe.top import draw

KEYS = (
    ("↑  ↓", "select a replica"),
    ("k", "kill the selected replica; a spare takes over"),
    ("+  -", "one active replica more or less; connections stay"),
    ("r", "rejuvenate: a new process for each replica in turn"),
    ("?", "this help"),
    ("q", "leave; the stack goes on"),
)
COLUMNS = (
    ("busy", "share of the last second in which the replica was not asleep"),
    ("req/s", "turns of a connection from sending data to receiving data"),
    ("buckets", "of the 256 that new connections fall into"),
    ("pins", "connections that stayed when their bucket moved"),
    ("restarts", "how often another process took the replica's place"),
    ("events", "ms: how long nobody served the replica's connections"),
)


class Question(ModalScreen[bool]):
    """Yes or no."""

    BINDINGS = [("y", "answer(True)", "yes"), ("n,escape,q", "answer(False)", "no")]

    def __init__(self, question: str, consequence: str) -> None:
        super().__init__()
        self._question, self._consequence = question, consequence

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question, style="bold"))
            yield Static(Text(self._consequence, style=draw.DIM))
            yield Static(Text.assemble("\n", ("y", f"bold {draw.BAD}"), " yes   ", ("n", f"bold {draw.GOOD}"), " no"))

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Help(ModalScreen[None]):
    """Keys and columns."""

    BINDINGS = [("escape,q,question_mark,enter", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog help"):
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(style=f"bold {draw.ACCENT}", no_wrap=True)
            table.add_column()
            for key, meaning in KEYS:
                table.add_row(key, meaning)
            table.add_row("", "")
            for column, meaning in COLUMNS:
                table.add_row(column, meaning)
            yield Static(table)
            yield Static(Text("\nEscape closes this", style=draw.DIM))
