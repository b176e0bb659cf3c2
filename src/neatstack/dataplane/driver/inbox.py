"""Received frames in memory that outlives the process, until what they have changed is committed.

A driver whose `records` is set writes the inbox itself, frame by frame. For the others their frames are copied.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.atomic import barrier
from cython.cimports.neatstack.dataplane.driver.device import FRAME_BYTES, FRAME_ROOM, FRAMES, Frame, Inbox


def stow(
    inbox: cython.pointer[Inbox], memory: cython.pointer[uint8_t], frames: cython.pointer[Frame], count: cython.int
) -> cython.int:
    """Copy frames into the inbox, and point them there. How many; those for which there is no room are lost."""
    at: uint32_t = 0
    k: cython.int
    for k in range(count):
        if k >= FRAMES or at + frames[k].length > FRAME_BYTES + FRAME_ROOM:
            return k
        memcpy(memory + at, frames[k].data, frames[k].length)
        frames[k].data = memory + at
        inbox.frames[k].at = at
        inbox.frames[k].length = frames[k].length
        inbox.frames[k].checked = frames[k].checked
        barrier()
        inbox.count = k + 1
        at += frames[k].length
    return count


def kept_frame(
    inbox: cython.pointer[cython.const[Inbox]],
    memory: cython.pointer[uint8_t],
    k: uint32_t,
    frame: cython.pointer[Frame],
) -> cython.bint:
    """Frame k of the batch that the last incarnation had in hand. False: there is no such frame."""
    if k >= inbox.count or k >= FRAMES:
        return False
    at: uint32_t = inbox.frames[k].at
    length: uint32_t = inbox.frames[k].length
    if at > FRAME_BYTES + FRAME_ROOM or length > FRAME_BYTES + FRAME_ROOM - at:
        return False
    frame.data = memory + at
    frame.length = length
    frame.gso_size = 0
    frame.checked = inbox.frames[k].checked != 0
    return True
