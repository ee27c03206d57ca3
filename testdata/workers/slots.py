"""Workers that have a place of their own, and a device there."""

import fcntl
import os
import time

from pypool import command, current_worker, setup

# What a library sees that looks at its import: nothing of a worker where that is a fork server's.
try:
    AT_IMPORT = current_worker().slot, os.environ.get("DEVICE", "")
except LookupError:
    AT_IMPORT = None
IN_SETUP = []


@setup
def take_device():
    """A device holds one model: a second process that comes for it fails."""
    IN_SETUP.append((current_worker().slot, os.environ.get("DEVICE", "")))
    device = os.environ.get("DEVICE")
    if device:
        IN_SETUP.append(os.open(device, os.O_RDWR | os.O_CREAT))
        try:
            fcntl.flock(IN_SETUP[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("the device is taken: " + device) from None


@command
def place():
    worker = current_worker()
    return {
        "id": worker.id, "slot": worker.slot, "pid": os.getpid(), "at_import": AT_IMPORT, "in_setup": IN_SETUP[0],
        "device": os.environ.get("DEVICE", ""),
    }


@command
def variables(names: list):
    return {name: os.environ.get(name) for name in names}


@command
def work(seconds: float = 0.002):
    time.sleep(seconds)
    return current_worker().slot


@command
def crash():
    os._exit(3)


@command
def in_a_child():
    """What a process of multiprocessing's sees, which imports the runtime anew."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(slot_of_child)


def slot_of_child():
    return current_worker().slot
