"""The entry point: the groups, and the one place where an error becomes a sentence and a code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Annotated

import click
import typer

from aiinfra_lab import __version__
from aiinfra_lab.cli import chapters, cluster, desk, grading, labs, machine, repository, serve
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.telemetry import silence_telemetry

OK, NO, BAD_INPUT, MISSING, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """
Exit codes: 0 yes; 1 it ran and the answer is no; 2 bad input; 3 something needed is missing;
130 interrupted. Results go to stdout, progress and sentences to stderr.
"""

# Their options come from a package that takes a while to import.
LATE = {"train": "aiinfra_lab.cli.train"}


class Commands(typer.core.TyperGroup):
    """The commands; those of ``LATE`` are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *LATE]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in LATE:
            return super().get_command(ctx, name)
        late = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        importlib.import_module(LATE[name]).register(late)
        command = typer.main.get_command(late)
        command.name = name
        return command


app = typer.Typer(
    name="aiinfra",
    cls=Commands,
    help="The AI infrastructure course: run its chapters, work on its labs.\n\n"
    "Example: [bold]aiinfra start 00[/bold], work in work/, then [bold]aiinfra check 00[/bold].",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aiinfra {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


for noun in (machine, chapters, labs, grading, desk, repository, serve, cluster):
    noun.register(app)


def main() -> None:
    """Run the command line; the process ends with the design's exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of ``aiinfra`` with these arguments; errors become sentences on stderr."""
    silence_telemetry()
    stdout = sys.stdout
    try:
        result = app(arguments, prog_name="aiinfra", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return BAD_INPUT
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except AIInfraLabError as error:
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as ended:
        # So typer ends where the reader has gone, after it has wrapped stdout.
        if sys.stdout is not stdout:
            return _reader_gone()
        return int(ended.code or OK)
    except OSError as error:
        _say(_os_sentence(error))
        return MISSING
    if result == INTERRUPTED:  # typer has caught the Ctrl-C itself
        _say("interrupted")
    return result if isinstance(result, int) else OK


def _reader_gone() -> int:
    """As in `aiinfra list | head`: no fault, and the exit must not complain about it either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _os_sentence(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full{where}. Free some space and run the command again."
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return (
                f"may not write or read{where}. Mend its permissions, "
                "or name another folder with AIINFRA_HOME and AIINFRA_CACHE."
            )
    return f"{error.strerror or error}{where}"


def _say(sentence: str) -> None:
    print(f"aiinfra: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
