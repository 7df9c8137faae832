"""Progress of several passes reads as one."""

from helpers import Listener

from kdcli.progress import StageProgress


def test_passes_add_up_to_the_whole():
    listener = Listener()
    tally = StageProgress(listener, 7)
    for done, rows in ((2, 4), (4, 4), (1, 3), (3, 3)):
        tally(done, rows)
    assert listener.told == [(2, 7), (4, 7), (5, 7), (7, 7)]
