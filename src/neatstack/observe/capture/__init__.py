"""Packets of a running stack: taken, filtered, written as pcapng or said in a line each."""
