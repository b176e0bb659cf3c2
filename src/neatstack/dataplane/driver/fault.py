"""A bad link: drops, duplicates, reorders and corrupts frames in both directions, by a seeded random sequence.

It wraps any device. A corrupted frame is one that the receiver's checksum will find: an arriving frame whose checksum
the device has already checked, and a frame sent (whose checksum the device completes later), are corrupted by being
lost.
"""

import cython
from cython.cimports.libc.errno import EINVAL, ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.driver.device import Device, Frame, Outgoing
from cython.cimports.neatstack.dataplane.driver.fault import BATCH, LATE, FaultyDevice, Late


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chance(f: cython.pointer[FaultyDevice], probability: uint64_t) -> cython.bint:
    """True in `probability` of 2**32 cases (xorshift64*)."""
    if not probability:
        return False
    f.random ^= f.random >> 12
    f.random ^= f.random << 25
    f.random ^= f.random >> 27
    if (f.random * cython.cast(uint64_t, 2685821657736338717)) >> 32 >= probability:
        return False
    f.injected += 1
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def hold_back(f: cython.pointer[FaultyDevice], late: cython.pointer[Late], length: uint32_t) -> cython.pointer[Late]:
    """A place for a frame of `length` bytes that the next one to three will overtake; NULL: all places are taken."""
    k: cython.int
    for k in range(LATE):
        if late[k].data == cython.NULL:
            late[k].data = cython.cast(cython.pointer[uint8_t], malloc(length if length else 1))
            late[k].length = length
            late[k].after = 1 + cython.cast(uint32_t, f.random >> 33) % 3
            return cython.address(late[k]) if late[k].data != cython.NULL else cython.NULL
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def due(late: cython.pointer[Late], everything: cython.bint) -> cython.pointer[Late]:
    """A frame that has been overtaken as often as it should; with `everything`, any. NULL: none."""
    k: cython.int
    for k in range(LATE):
        if late[k].data != cython.NULL and (everything or not late[k].after):
            return cython.address(late[k])
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def overtake(late: cython.pointer[Late]) -> cython.void:
    """One more frame has gone by."""
    k: cython.int
    for k in range(LATE):
        if late[k].data != cython.NULL and late[k].after:
            late[k].after -= 1


# ---- arriving ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def receive(device: cython.pointer[Device], frames: cython.pointer[Frame], most: cython.int) -> cython.int:
    f: cython.pointer[FaultyDevice] = cython.cast(cython.pointer[FaultyDevice], device.self)
    came: Frame[BATCH]
    count: cython.int = 0
    k: cython.int
    while f.lent_count:
        f.lent_count -= 1
        free(f.lent[f.lent_count])
    # Each frame may come twice, and a late one may go before it.
    ask: cython.int = most // 3 if most // 3 < BATCH // 3 else BATCH // 3
    got: cython.int = f.device.receive(cython.address(f.device), came, ask if ask else 1)
    if got < 0:
        return got
    for k in range(got):
        count = arrive(f, cython.address(came[k]), frames, count)
    if not got:
        send_late(f, True)
    late: cython.pointer[Late] = due(f.arrivals, got == 0)
    while late != cython.NULL and count < most and f.lent_count < BATCH:
        count = lend(f, late, frames, count)
        late = due(f.arrivals, got == 0)
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def arrive(
    f: cython.pointer[FaultyDevice], frame: cython.pointer[Frame], frames: cython.pointer[Frame], count: cython.int
) -> cython.int:
    """What becomes of one frame; returns how many there are to hand out now."""
    late: cython.pointer[Late]
    overtake(f.arrivals)
    if chance(f, f.faults.drop):
        return count
    if chance(f, f.faults.corrupt):
        if frame.checked or not frame.length:
            return count
        frame.data[f.random % frame.length] ^= cython.cast(uint8_t, 1 << (f.random >> 61))
    if chance(f, f.faults.reorder):
        late = hold_back(f, f.arrivals, frame.length)
        if late != cython.NULL:
            memcpy(late.data, frame.data, frame.length)
            late.checked = frame.checked
            return count
    frames[count] = frame[0]
    count += 1
    if chance(f, f.faults.duplicate):
        frames[count] = frame[0]
        count += 1
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lend(
    f: cython.pointer[FaultyDevice], late: cython.pointer[Late], frames: cython.pointer[Frame], count: cython.int
) -> cython.int:
    """Hand out a late frame; its memory lives until the next receive()."""
    frames[count].data = late.data
    frames[count].length = late.length
    frames[count].gso_size = 0
    frames[count].checked = late.checked
    f.lent[f.lent_count] = late.data
    f.lent_count += 1
    late.data = cython.NULL
    return count + 1


# ---- leaving ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def send(device: cython.pointer[Device], out: cython.pointer[cython.const[Outgoing]]) -> cython.int:
    f: cython.pointer[FaultyDevice] = cython.cast(cython.pointer[FaultyDevice], device.self)
    late: cython.pointer[Late]
    error: cython.int
    overtake(f.departures)
    if chance(f, f.faults.drop) or chance(f, f.faults.corrupt):
        return 0
    if chance(f, f.faults.reorder):
        late = hold_back(f, f.departures, out.first_length + out.second_length)
        if late != cython.NULL:
            late.out = out[0]
            if out.first_length:
                memcpy(late.data, out.first, out.first_length)
            if out.second_length:
                memcpy(late.data + out.first_length, out.second, out.second_length)
            late.out.first = late.data
            late.out.first_length = late.length
            late.out.second_length = 0
            return 0
    error = f.device.send(cython.address(f.device), out)
    if chance(f, f.faults.duplicate):
        f.device.send(cython.address(f.device), out)
    send_late(f, False)
    return error


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def send_late(f: cython.pointer[FaultyDevice], everything: cython.bint) -> cython.void:
    """Send the frames that have been overtaken, or, when nothing else moves, all that were held back."""
    late: cython.pointer[Late] = due(f.departures, everything)
    while late != cython.NULL:
        f.device.send(cython.address(f.device), cython.address(late.out))
        free(late.data)
        late.data = cython.NULL
        late = due(f.departures, everything)


# ---- making and ending ----


def fault_device(
    device: cython.pointer[Device],
    seed: uint64_t,
    drop: cython.double,
    duplicate: cython.double,
    reorder: cython.double,
    corrupt: cython.double,
) -> cython.int:
    """Put a bad link before `device`, which is wrapped in place. Probabilities from 0 to 1. 0, -EINVAL or -ENOMEM."""
    whole: cython.double = 4294967296.0
    if not (0 <= drop <= 1 and 0 <= duplicate <= 1 and 0 <= reorder <= 1 and 0 <= corrupt <= 1):
        return -EINVAL
    f: cython.pointer[FaultyDevice] = cython.cast(cython.pointer[FaultyDevice], calloc(1, cython.sizeof(FaultyDevice)))
    if f == cython.NULL:
        return -ENOMEM
    f.device = device[0]
    f.faults.drop = cython.cast(uint64_t, drop * whole)
    f.faults.duplicate = cython.cast(uint64_t, duplicate * whole)
    f.faults.reorder = cython.cast(uint64_t, reorder * whole)
    f.faults.corrupt = cython.cast(uint64_t, corrupt * whole)
    f.random = (seed + 1) * cython.cast(uint64_t, 0x9E3779B97F4A7C15) | 1
    device.self = f
    device.receive = receive
    device.send = send
    return 0


def is_faulty(device: cython.pointer[cython.const[Device]]) -> cython.bint:
    return device.receive == receive


def fault_close(device: cython.pointer[Device]) -> cython.void:
    """Take the bad link away: `device` is what was wrapped. Frames held back are lost."""
    f: cython.pointer[FaultyDevice] = cython.cast(cython.pointer[FaultyDevice], device.self)
    k: cython.int
    for k in range(LATE):
        free(f.arrivals[k].data)
        free(f.departures[k].data)
    while f.lent_count:
        f.lent_count -= 1
        free(f.lent[f.lent_count])
    device[0] = f.device
    free(f)
