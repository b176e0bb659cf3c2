"""Addresses as people write them."""

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.channel.layout cimport StackPage

cdef Address address_of(text)                                      # ValueError: it is none
cdef object add_addresses(StackPage *page, addresses, gateway6)
