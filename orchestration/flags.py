"""What the command lines of jobs and of sweeps share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from everest.errors import UsageError
from everest.program import doing, exit_code
from everest.progress import start_logging
from orchestration.launchers import LAUNCHERS
from orchestration.settings import PlatformSettings

Command = Callable[[argparse.Namespace, PlatformSettings, list[str]], None]


class Commands:
    """A program of several commands, each of which takes all settings of the platform as flags."""

    def __init__(self, program: str, summary: str, launcher: str) -> None:
        """``launcher`` is where jobs run unless a flag says otherwise."""
        self.program = program
        self._platform = argparse.ArgumentParser(add_help=False)
        where = self._platform.add_argument_group("where (also EVEREST_… in the environment or .env)")
        where.add_argument("--launcher", choices=LAUNCHERS, default=launcher)
        for name, field in PlatformSettings.model_fields.items():
            where.add_argument(f"--{name.replace('_', '-')}", dest=name, help=field.description, metavar="VALUE")
        self.parser = argparse.ArgumentParser(prog=program, description=summary)
        self._commands = self.parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, summary: str, words_follow: bool = False) -> argparse.ArgumentParser:
        """``words_follow``: whether what it does not know is its own business, as settings of experiments are."""
        added = self._commands.add_parser(
            name, help=summary, description=summary, allow_abbrev=False, parents=[self._platform]
        )
        added.set_defaults(run=run, words_follow=words_follow, doing=name)
        return added

    def main(self, arguments: Sequence[str] | None) -> NoReturn:
        """Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""
        sys.exit(exit_code(self.program, lambda: self._run(arguments)))

    def _run(self, arguments: Sequence[str] | None) -> None:
        options, rest = self.parser.parse_known_args(arguments)
        start_logging()
        given = {name: value for name, value in vars(options).items() if value is not None}
        with doing(options.doing):
            settings = PlatformSettings.load(
                **{name: given[name] for name in PlatformSettings.model_fields if name in given}
            )
            if rest and not options.words_follow:
                raise UsageError(f"unknown argument {rest[0]!r}")
            options.run(options, settings, rest)
