"""What tests of several parts share."""

from typer.testing import CliRunner, Result

from kdcli.cli.app import app
from kdcli.progress import SilentReporter


def kd(*arguments: object) -> Result:
    """Run `kd ARGUMENTS` in this process; see `forked.kd` for one of its own."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def kd_stdout(*arguments: object) -> str:
    """Run `kd ARGUMENTS` in this process, expect success and return what it printed."""
    done = kd(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


class Listener(SilentReporter):
    """Keeps what it is told.

    Attributes:
        started: The stages that were started.
        said: The messages.
        told: How much was done, of how much.
    """

    def __init__(self) -> None:
        self.started, self.said, self.told = [], [], []

    def start(self, stage: str, description: str) -> None:
        self.started.append(stage)

    def info(self, message: str) -> None:
        self.said.append(message)

    def advance(self, done: int, total: int, metrics: object = None) -> None:
        self.told.append((done, total))
