"""Ctrl-C, which reaches all processes of a command at once: those that it has just started leave it to the first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CAN_BLOCK = hasattr(signal, "pthread_sigmask")          # not on Windows


@contextmanager
def starting() -> Iterator[None]:
    """Ctrl-C waits until the block is over, and processes that are started in it do not hear it: one that is stopped
    while it is imported would say much.

    They hear it again after `end_silently`, or when they unblock the signal.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C was pressed.
    """
    if not CAN_BLOCK or threading.current_thread() is not threading.main_thread():
        yield
        return
    from multiprocessing import resource_tracker
    resource_tracker.ensure_running()                    # multiprocessing's; its start would let the signal in again
    pressed: list[int] = []
    heard = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))       # by whichever thread it comes
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})                  # processes inherit that
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, heard)
    if pressed:
        raise KeyboardInterrupt


def hear() -> None:
    """In a process that was started so: Ctrl-C raises KeyboardInterrupt here too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)         # what was inherited may be to ignore it
    if CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_silently() -> None:
    """In a process that was started so: Ctrl-C ends it without a word, also one that was pressed before."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
