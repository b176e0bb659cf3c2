"""Which replica gets which flow: the indirection table, in the kernel's steering program and on the stack page."""

from typing import TYPE_CHECKING

from neatstack.control.errors import NeatError
from neatstack.control.pages import StackPage
from neatstack.control.store import Store

if TYPE_CHECKING:
    from neatstack.dataplane.driver.steer import Steering

KEY = "steering"


def start(store: Store, page: StackPage, queue: int) -> "Steering":
    """Load the program, set it up as `page` says, and attach it to the device of `queue`. Raises NeatError."""
    from neatstack.dataplane.driver.steer import Steering

    try:
        steering = Steering.load()
        steering.configure(page.keys, str(page.address), page.link_queue)
        steering.set_table(page.table)
        steering.attach(queue)
    except OSError as error:
        raise NeatError(f"steering: {error.strerror or error}; `neat doctor` tells what this host lacks") from None
    names = list(steering.fds)
    store.put(KEY, {"names": names}, [steering.fds[name] for name in names])
    return steering


def again(names: list[str], descriptors: list[int]) -> "Steering":
    """The program that a former manager has loaded."""
    from neatstack.dataplane.driver.steer import Steering

    return Steering.from_fds(dict(zip(names, descriptors, strict=True)))
