"""The command `neat`: one module for each subcommand. What takes long to import is imported where it is used."""

import sys


def main() -> None:
    """The entry point. What the user can mend is one line on standard error and a non-zero status."""
    import typer

    from neatstack.cli.app import app
    from neatstack.control.errors import NeatError

    try:
        status = app(prog_name="neat", standalone_mode=False)
    except NeatError as error:
        print(f"neat: {error}", file=sys.stderr)
        status = error.status
    except typer.TyperException as error:
        print(f"neat: {error.format_message()}; see `neat --help`", file=sys.stderr)
        status = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:
        status = 141
        sys.stderr.close()
    sys.exit(status)
