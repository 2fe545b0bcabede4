import os
import signal

import pytest

from rlhf_hydra.interrupts import Interrupts, Stopped


def send(number):
    """To this process; Python runs the handler before the next line."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_inside_allowed_it_raises_at_once(number):
    reached = False
    with Interrupts() as interrupts, pytest.raises(Stopped, match=number.name) as stop, interrupts.allowed():
        send(number)
        reached = True
    assert not reached and stop.value.code == 128 + number


def test_outside_it_waits_for_check():
    with Interrupts() as interrupts:
        with interrupts.allowed():
            pass
        send(signal.SIGTERM)
        with pytest.raises(Stopped):
            interrupts.check()


def test_what_came_before_raises_on_entry():
    with Interrupts() as interrupts:
        send(signal.SIGTERM)
        with pytest.raises(Stopped), interrupts.allowed():
            raise AssertionError("nothing may begin")


def test_no_signal_no_stop():
    with Interrupts() as interrupts:
        interrupts.check()
        with interrupts.allowed():
            interrupts.check()


def test_an_error_inside_allowed_ends_it():
    with Interrupts() as interrupts:
        with pytest.raises(KeyError), interrupts.allowed():
            raise KeyError
        send(signal.SIGTERM)  # raises nothing: no longer allowed


def test_a_second_ctrl_c_ends_at_once():
    with Interrupts():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_ctrl_c_after_sigterm_ends_at_once_but_a_second_sigterm_waits():
    with Interrupts():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize("error", [None, KeyError])
def test_the_handlers_come_back(error):
    before = [signal.getsignal(number) for number in Interrupts.SIGNALS]
    try:
        with Interrupts():
            assert [signal.getsignal(number) for number in Interrupts.SIGNALS] != before
            if error:
                raise error
    except KeyError:
        pass
    assert [signal.getsignal(number) for number in Interrupts.SIGNALS] == before
