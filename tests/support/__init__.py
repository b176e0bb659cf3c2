"""What tests share: `from tests.support.lab import Lab` (pytest puts `tests` on the path)."""
