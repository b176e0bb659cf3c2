"""The command `neat`: one module for each subcommand. What takes long to import is imported where it is used."""

import errno
import os
import sys

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """The entry point. What the user can mend is one line on standard error and a non-zero status."""
    try:
        status = invoke()
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:  # also while the rest is being imported
        status = 130
    except BrokenPipeError:
        silence()
        status = 141
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"neat: cannot write standard output: {error.strerror}; make room there", file=sys.stderr)
        silence()
        status = 1
    sys.exit(status)


def silence() -> None:
    """Nor shall the interpreter's end try to write what nobody takes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def invoke() -> int:
    """The command that the arguments name; its status."""
    import typer

    from neatstack.cli.app import app
    from neatstack.control.errors import NeatError

    try:
        return app(prog_name="neat", standalone_mode=False)
    except NeatError as error:
        print(f"neat: {error}", file=sys.stderr)
        return error.status
    except typer.TyperException as error:
        if message := error.format_message().rstrip("."):  # there is none where the help was shown instead
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "neat"
            print(f"neat: {message}; see `{command} --help`", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        return 130
