"""The command `neat`: one module for each subcommand. What takes long to import is imported where it is used."""

import sys


def main() -> None:
    """The entry point. What the user can mend is one line on standard error and a non-zero status."""
    try:
        status = invoke()
    except KeyboardInterrupt:  # also while the rest is being imported
        status = 130
    sys.exit(status)


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
    except BrokenPipeError:
        sys.stderr.close()
        return 141
