"""The error that a user can do something about."""


class NeatError(Exception):
    """Something is wrong that the person at the command line can mend.

    The message is one line: what is wrong, then what to do. The command line prints it as `neat: message` and exits
    with `status`.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
