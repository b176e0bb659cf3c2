"""What tests share: `from support.lab import Lab` (pytest puts `tests` on the path)."""
