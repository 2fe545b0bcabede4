import os
import signal

import pytest

from rlhf_hydra.interrupts import Interrupts, Stopped


def send(number):
    """To this process; Python runs the handler before the next line."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_at_once(number):
    reached = False
    with pytest.raises(Stopped, match=number.name) as stop, Interrupts():
        send(number)
        reached = True
    assert not reached and stop.value.code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_held_it_waits_for_the_end_of_the_block(number):
    reached = False
    with pytest.raises(Stopped) as stop, Interrupts() as interrupts, interrupts.held():
        send(number)
        reached = True
    assert reached and stop.value.code == 128 + number


def test_after_a_held_block_it_raises_at_once_again():
    with Interrupts() as interrupts:
        with interrupts.held():
            pass
        with pytest.raises(Stopped):
            send(signal.SIGTERM)


def test_no_signal_no_stop():
    with Interrupts() as interrupts, interrupts.held():
        pass


def test_an_error_in_a_held_block_comes_first():
    with Interrupts() as interrupts, pytest.raises(KeyError), interrupts.held():
        send(signal.SIGTERM)
        raise KeyError


def test_a_second_sigterm_changes_nothing_but_ctrl_c_ends_at_once():
    """So that the state is saved in peace, unless someone insists."""
    with Interrupts():
        with pytest.raises(Stopped):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_ctrl_c_ends_a_held_block():
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.held():
        send(signal.SIGINT)
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
