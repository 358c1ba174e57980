"""Ctrl-C while processes are started."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from posebook import interrupts

pytestmark = pytest.mark.skipif(not interrupts.CAN_BLOCK, reason="this system cannot block a signal")
ASK = "import signal, sys; sys.exit(7 if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []) else 0)"
STOP = "import os, signal\nfrom posebook import interrupts\n{}\ninterrupts.{}()\n{}\nprint('alive')"
PRESS = "os.kill(os.getpid(), signal.SIGINT)"


def test_ctrl_c_while_processes_start_waits_and_does_not_reach_them():
    heard, seen = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), interrupts.starting():
        os.kill(os.getpid(), signal.SIGINT)
        worker = multiprocessing.get_context("spawn").Process(target=exec, args=(ASK,))     # as pools and Dask do it
        worker.start()
        worker.join()
        seen = [worker.exitcode, subprocess.run([sys.executable, "-c", ASK], check=False).returncode]
    assert seen == [7, 7]
    assert signal.getsignal(signal.SIGINT) is heard
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with interrupts.starting():
        pass                                             # nobody pressed: nothing is raised


@pytest.mark.parametrize(("way", "status", "said"), [("end_silently", -signal.SIGINT, ""),
                                                     ("hear", -signal.SIGINT, "KeyboardInterrupt")])
@pytest.mark.parametrize("before", [True, False])
def test_a_process_hears_it_again(way, status, said, before):
    """Also what was pressed while it was deaf."""
    body = STOP.format(PRESS if before else "", way, "" if before else PRESS)
    with interrupts.starting():
        process = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
    out, wrong = process.communicate(timeout=60)
    assert process.returncode == status and out == ""
    assert wrong.strip().splitlines()[-1:] == ([said] if said else [])
